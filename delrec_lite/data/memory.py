"""Whether a log is prepared in memory or through files, and within how many bytes."""

import re

from delrec_lite.console import QUIET, Console
from delrec_lite.data.locations import Location
from delrec_lite.data.packages import arrow, duckdb
from delrec_lite.data.sources import PACKED_SUFFIXES, is_parquet_file
from delrec_lite.errors import MissingPackageError, UsageError
from delrec_lite.machine import memory_limit_bytes, unit_bytes

LEAST = 500 * 10**6
# Of the machine's memory, without --memory.
SHARE = 0.5
# Measured on the road through memory: bytes for each byte of text, and for each row of Parquet.
_PER_BYTE, _PER_PACKED_BYTE, _PER_ROW = 10, 50, 250


def parse_memory(text: str) -> int:
    """Bytes of ``2GB``, ``1500 MB`` or ``1.5GiB``.

    Raises:
        UsageError: Anything else, or too little.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?\s*", text, re.IGNORECASE)
    if match is None:
        raise UsageError(f"--memory has no value {text!r}", "write it as 2GB or 1500MB")
    count = int(float(match[1]) * unit_bytes(match[2] or ""))
    if count < LEAST:
        raise UsageError(f"--memory {text} is too little", f"at least {LEAST // 10**6}MB")
    return count


def memory_for(log: Location, items: Location, given: str, console: Console = QUIET) -> int:
    """Bytes within which to prepare a log through files; 0: in memory.

    Args:
        log: The interactions.
        items: The item list.
        given: By the user; empty: files are used for what is no single file, and where memory would be scarce.
        console: Shows why.

    Raises:
        UsageError: ``given`` is no amount.
        MissingPackageError: Files are needed, and duckdb is not installed.
    """
    limit = parse_memory(given) if given else 0
    most = int(memory_limit_bytes() * SHARE) or 4 * 10**9
    if limit or not (log.is_single and items.is_single):
        duckdb()
        return limit or max(LEAST, most)
    if needed_bytes(log) <= most:
        return 0
    try:
        duckdb()
    except MissingPackageError as error:
        console.say(f"  the log may need {needed_bytes(log) / 1e9:.1f} GB; less with duckdb: {error.hint}")
        return 0
    console.say(f"  the log may need {needed_bytes(log) / 1e9:.1f} GB: it is prepared within {most / 1e9:.1f} GB")
    return max(LEAST, most)


def needed_bytes(log: Location) -> int:
    """About what preparing a log in memory needs; 0 for a pipe, whose size is not known."""
    path = log.files[0]
    if is_parquet_file(path):
        try:
            return int(arrow().parquet.read_metadata(path).num_rows) * _PER_ROW
        except (OSError, arrow().ArrowException):
            return 0  # its reader says what is wrong
    packed = path.suffix.lower() in PACKED_SUFFIXES
    return log.bytes() * (_PER_PACKED_BYTE if packed else _PER_BYTE)
