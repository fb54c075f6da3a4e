"""Bulk scoring: recommendations for every user of a table, by processes of this machine or by Ray."""
