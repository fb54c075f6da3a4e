"""Serving without torch: bundle, engines, recommender."""
