"""Fit, recommend and evaluate on frames of pandas, Polars and Arrow, through the functions that the commands call."""
