"""Which softmax a training takes: the whole catalogue at once, in blocks, or a sample of it. Imports no torch."""

from typing import Literal

Softmax = Literal["auto", "full", "blocks", "sampled"]
# Items of a catalogue above which it is sampled, and its vectors are kept in half precision. Here the plan says 4.7 GB
# for SmolLM2-135M's shape of two layers in blocks; with a million items 40 GB, and 5 GB sampled.
LARGE = 100_000
# Scores of one step above which they are computed in blocks: 268 MB, of which stage 2 holds up to nine copies.
MOST_SCORES = 1 << 26
# The same for a teacher, whose step holds three copies.
MOST_TEACHER_SCORES = 1 << 28
# Items drawn for each step of a sampled softmax.
NEGATIVES = 4096


def chosen_softmax(setting: Softmax, items: int, positions: int) -> Softmax:
    """The softmax of a stage.

    Args:
        setting: Of the recipe; anything but ``auto`` is taken as it is.
        items: In the catalogue.
        positions: Of a step, each with its own softmax.
    """
    if setting != "auto":
        return setting
    if items > LARGE:
        return "sampled"
    return "blocks" if items * positions > MOST_SCORES else "full"


def in_half_precision(setting: Softmax, items: int) -> bool:
    """Whether the vectors of a catalogue are kept as bfloat16: of a large one that is sampled."""
    return items > LARGE and setting in ("auto", "sampled")


def chosen_negatives(setting: int | None, items: int) -> int:
    """How many items a teacher's loss draws for each step; 0: none, its softmax is over the whole catalogue.

    Args:
        setting: Of the recipe; None: ``NEGATIVES`` for a large catalogue, else 0.
        items: In the catalogue.
    """
    if setting is not None:
        return setting if setting < items else 0
    return NEGATIVES if items > LARGE else 0
