"""Training by Ray Train on many cards or machines: ``python -m delrec_lite.ray_train RECIPE --workers 8``."""
