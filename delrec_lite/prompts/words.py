"""The words around titles, the same wherever a title becomes tokens."""

from collections.abc import Callable

Encode = Callable[[str], list[int]]

# A title is tokenised as inside a sentence: with a space before it.
TITLE_PREFIX = " "
# After a title in a list; no title contains a line break.
SEPARATOR = "\n"
