"""Fetching models and data sets: a registry with mirrors, sha256, licence and size."""
