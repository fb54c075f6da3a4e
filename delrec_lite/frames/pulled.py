"""A data set of the registry as frames: to try the library, or another one, on the same data."""

from typing import Any

from delrec_lite.console import QUIET, Console
from delrec_lite.data.frames import FrameKind, frame_of
from delrec_lite.data.packages import arrow
from delrec_lite.data.prepare import resolved
from delrec_lite.frames.columns import ITEM, TIMES, TITLE, USER
from delrec_lite.hub.pull import pull
from delrec_lite.hub.registry import find_dataset


def pull_frames(name: str = "ml-100k", to: FrameKind | None = None, console: Console = QUIET) -> tuple[Any, Any]:
    """Fetch a data set, or find it in the cache, and return its interactions and its items.

    Args:
        name: In the registry, such as ``ml-100k``.
        to: ``pandas``, ``polars`` or ``arrow``; default: pandas where it is installed, else Polars, else Arrow.
        console: Shows what is fetched.

    Returns:
        ``user_id``, ``item_id`` (text) and ``datetime`` (UTC) a row; ``item_id`` and ``title`` a row.

    Raises:
        UsageError: No such data set or kind of frame.
        FetchError: It cannot be fetched.
    """
    pa, asset = arrow(), find_dataset(name)
    log, titles = resolved(asset.reader)(pull(name, console).folder)
    seconds = pa.array(log.times.astype("int64"), pa.timestamp("s", "UTC"))
    users, items = (
        pa.array(ids, pa.string()).take(pa.array(rows))
        for ids, rows in ((log.user_ids, log.users), (log.item_ids, log.items))
    )
    interactions = pa.table({USER: users, ITEM: items, TIMES[0]: seconds})
    listed = pa.table({ITEM: list(titles), TITLE: list(titles.values())})
    return frame_of(interactions, to), frame_of(listed, to)
