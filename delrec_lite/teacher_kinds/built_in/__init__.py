"""Kinds of teacher that come with the package: a file each, named as the kind, found; ``KIND`` is the record."""
