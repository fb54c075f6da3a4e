"""A run from interactions to a bundle and its table: stages that are computed once, in order, and continue after an interruption."""
