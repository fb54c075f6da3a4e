"""A run from interactions to a bundle and its table: stages that are made once, in order, and gone on from."""
