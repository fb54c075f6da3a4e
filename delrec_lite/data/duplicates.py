"""Rows of a log that repeat others: counted, and left out as the user says."""

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from delrec_lite.data.readers import Interactions
from delrec_lite.errors import UsageError, did_you_mean

Duplicates = Literal["keep", "first", "last", "consecutive"]


def parse_duplicates(text: str) -> Duplicates:
    """Read ``keep``, ``first``, ``last`` or ``consecutive``.

    Raises:
        UsageError: Anything else.
    """
    if text not in get_args(Duplicates):
        raise UsageError(f"--duplicates has no value {text!r}", did_you_mean(text, get_args(Duplicates)))
    return text  # type: ignore[return-value]


def exact_duplicates(log: Interactions) -> int:
    """Number of rows with user, item and time of an earlier row."""
    return int((~_first_of(log.times, _pairs(log))).sum())


def without_duplicates(log: Interactions, rule: Duplicates) -> Interactions:
    """The log without the rows that a rule leaves out, in the same order; see ``rows_kept``."""
    return log if rule == "keep" else log.take(rows_kept(log, rule))


def rows_kept(log: Interactions, rule: Duplicates) -> npt.NDArray[np.bool_]:
    """Which rows of a log a rule keeps: bool ``[rows]``.

    Args:
        log: Any log.
        rule: ``keep``: all rows. ``first``: the first interaction of a user with an item. ``last``: the last one.
            ``consecutive``: one of several with the same item in a row, or at the same time.
    """
    if rule == "keep":
        return np.ones(len(log), dtype=bool)
    pairs = _pairs(log)
    order = np.lexsort((np.arange(len(log)), log.times, log.users))
    if rule == "consecutive":
        order = order[_first_of(log.times, pairs)[order]]
        kept = order[np.append(True, pairs[order][1:] != pairs[order][:-1])] if len(order) else order
    else:
        order = order if rule == "first" else order[::-1]
        kept = order[np.unique(pairs[order], return_index=True)[1]]
    rows = np.zeros(len(log), dtype=bool)
    rows[kept] = True
    return rows


def _pairs(log: Interactions) -> npt.NDArray[np.int64]:
    """A number for user and item of each row."""
    return log.users * len(log.item_ids) + log.items


def _first_of(*keys: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Whether a row is the first with its values of all ``keys``."""
    order = np.lexsort((np.arange(len(keys[0])), *keys))
    differs = np.ones(len(order), dtype=bool)
    if len(order):
        differs[1:] = np.any([key[order][1:] != key[order][:-1] for key in keys], axis=0)
    first = np.empty(len(order), dtype=bool)
    first[order] = differs
    return first
