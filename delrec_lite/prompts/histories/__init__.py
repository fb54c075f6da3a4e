"""The built-in history formats: one file each, with its name, that defines ``KIND``; no list."""
