"""The built-in history formats: a file each, named as it is, with its ``KIND``; found, not listed."""
