"""Scores one part of a run: a Parquet file of users to one of recommendations, whole or not there."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from delrec_lite import errors
from delrec_lite.data.packages import arrow
from delrec_lite.errors import DelrecError, StorageError
from delrec_lite.files import write_atomic
from delrec_lite.scoring.scorer import Scorer

# The kind of an error of the operating system, in the report of a worker.
_SYSTEM = "OSError"


def score_part(scorer: Scorer, source: Path, target: Path, tick: Callable[[int], None] = lambda users: None) -> None:
    """Score a part; nothing is left of it where this fails.

    Args:
        scorer: Of the run.
        source: The part's users.
        target: Where its recommendations go.
        tick: Called with the number of users that were scored since the last call.

    Raises:
        OSError: The disk is full, or a file cannot be written; names it.
        DelrecError: What ``scorer`` raises.
    """
    pa = arrow()
    users = pa.parquet.read_table(source)
    done = []
    for start in range(0, len(users), scorer.together):
        some = users.slice(start, scorer.together)
        done.append(scorer(some))
        tick(len(some))
    content = pa.BufferOutputStream()
    pa.parquet.write_table(pa.concat_tables(done), content, compression="zstd")
    try:
        write_atomic(target, content.getvalue().to_pybytes())
    except OSError as error:
        error.filename = error.filename or str(target)
        raise


def report_of(error: Exception) -> list[Any]:
    """An error of a worker, for its parent."""
    if isinstance(error, DelrecError):
        return [type(error).__name__, error.message, error.hint]
    if isinstance(error, OSError) and error.errno is not None:
        return [_SYSTEM, str(error.filename or ""), error.errno]
    text = " ".join(str(error).split())
    return ["DelrecError", f"{type(error).__name__}: {text}", "this is a bug; DELREC_DEBUG=1 shows the traceback"]


def raise_reported(report: list[Any]) -> None:
    """Raise the error that a worker reports."""
    kind, message, hint = report
    if kind == _SYSTEM and hint == errno.ENOSPC:
        raise StorageError(
            f"no space left on the disk while writing {message}",
            "free some space and run the same command again: finished parts are kept",
        )
    if kind == _SYSTEM:
        raise OSError(hint, os.strerror(hint), message or None)
    raise getattr(errors, kind, DelrecError)(message, hint)
