"""The kinds of teacher and their settings, without torch; their networks are in `teachers`."""
