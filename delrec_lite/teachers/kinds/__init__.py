"""The built-in kinds of teacher: a file each, named as the kind, whose ``KIND`` is its record; found, not listed."""
