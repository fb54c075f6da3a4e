"""The words around titles, the same wherever a title becomes tokens."""

from collections.abc import Callable

Encode = Callable[[str], list[int]]

# A title's tokens as they stand inside a sentence: with the space before it.
TITLE_PREFIX = " "
# Behind a title in a list; no title holds a line's end.
SEPARATOR = "\n"
