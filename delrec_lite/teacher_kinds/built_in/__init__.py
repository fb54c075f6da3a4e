"""The built-in kinds of teacher: one file per kind, with its name; ``KIND`` is the record."""
