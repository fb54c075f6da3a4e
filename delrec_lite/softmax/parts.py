"""How a catalogue is cut into blocks. Imports no torch."""

from collections.abc import Iterator

BLOCK_SCORES = 1 << 22  # of all positions together; 16 MB, which a processor's cache can hold a part of
ROWS = 1 << 16  # items of a block where no scores are kept, such as a pass over all vectors


def block_ends(items: int, size: int = ROWS) -> Iterator[tuple[int, int]]:
    """First item and end of each block."""
    for start in range(0, items, size):
        yield start, min(items, start + size)


def block_size(positions: int) -> int:
    """Items of a block whose scores are computed at so many positions."""
    return max(256, BLOCK_SCORES // max(1, positions))
