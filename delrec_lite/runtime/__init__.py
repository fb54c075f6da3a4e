"""What serves, without torch: bundle, engine, recommender."""
