"""The command line: one module per verb, each a thin adapter over one typed function."""
