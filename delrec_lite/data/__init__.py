"""Interactions and items: readers, catalogue, sequences, splits and candidate sets. No torch."""
