"""Which teachers there are and what they can be told, without torch; their networks live in `teachers`."""
