"""From an answer to the lines of the feedback log."""

import time
from collections.abc import Sequence

from delrec_lite.runtime.answer import Ranking
from delrec_lite.server.arms import Arm
from delrec_lite.server.caller import Caller
from delrec_lite.server.feedback.log import FeedbackLog
from delrec_lite.server.feedback.records import Served


def log_lists(
    log: FeedbackLog | None,
    caller: Caller,
    arm: Arm,
    label: str,
    rankings: Sequence[Ranking],
    histories: Sequence[Sequence[str]],
    many: bool = False,
) -> None:
    """Log the lists of one answer; never waits, never fails.

    Args:
        log: None: nothing is logged.
        caller: Who asked.
        arm: Which worker answered.
        label: Of the bundle that answered, ``Bundle.label``.
        rankings: The lists.
        histories: Titles of the request, one list for each ranking.
        many: Lists of a batch have the request's id with ``:0``, ``:1`` and so on behind it.
    """
    if log is None:
        return
    bundle = arm.worker.recommender.bundle
    catalogue = len(bundle.items.ids) if bundle.label == label else None
    now = time.time()
    for number, (ranking, history) in enumerate(zip(rankings, histories, strict=True)):
        log.serve(
            Served(
                time=now,
                request=f"{caller.request}:{number}" if many else caller.request,
                who=caller.who,
                bundle=label,
                catalogue=catalogue,
                arm=arm.name,
                basis=ranking.basis,
                items=[(item.id or item.title, item.score) for item in ranking],
                history=list(history) if log.histories else None,
            )
        )
