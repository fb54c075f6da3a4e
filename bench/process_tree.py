"""The processes that a process has started, as Linux lists them."""

from pathlib import Path


def children_of(process: int) -> list[int]:
    """Child processes of a process; none where Linux does not say."""
    try:
        lists = [path.read_text() for path in Path(f"/proc/{process}/task").glob("*/children")]
    except OSError:
        return []
    return [int(number) for text in lists for number in text.split()]


def descendants_of(process: int) -> list[int]:
    """Child processes of a process, and theirs."""
    children = children_of(process)
    return [*children, *(other for child in children for other in descendants_of(child))]
