"""The built-in verbalizers without torch: a file each, named as it is, with its ``KIND``; found, not listed."""
