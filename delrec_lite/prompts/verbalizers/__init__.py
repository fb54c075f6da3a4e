"""The built-in verbalizers without torch: one file each, with its name, that defines ``KIND``; no list."""
