"""The networks of the built-in teachers."""
