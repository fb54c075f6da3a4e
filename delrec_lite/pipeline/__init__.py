"""The pipeline from interactions to bundle and table: its stages are computed once, in order, and can be resumed."""
