"""Metrics, protocol, significance and tables. No torch."""
