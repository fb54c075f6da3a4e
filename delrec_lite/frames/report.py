"""`Report`: the table of an evaluation as frames."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from delrec_lite.data.frames import FrameKind, frame_of_rows
from delrec_lite.errors import UsageError, did_you_mean
from delrec_lite.evaluation.table import Row

Part = Literal["metrics", "intervals", "comparisons", "segments"]


@dataclass(frozen=True)
class Report:
    """What ``DelRec.evaluate`` returns; the same is in ``table.md`` and ``report.json`` of the run's folder.

    Attributes:
        rows: One for each model and protocol.
        comparisons: Paired tests of two models, user by user.
        segments: Means of some metrics by segment of users.
        folder: Of the run.
        kind: Kind of the frames that ``to_frame`` gives where it is not asked for another.
    """

    rows: Sequence[Row]
    comparisons: Sequence[Mapping[str, Any]]
    segments: Sequence[Mapping[str, Any]]
    folder: Path
    kind: FrameKind | None = None

    @classmethod
    def read(cls, rows: Sequence[Row], folder: Path, kind: FrameKind | None) -> "Report":
        """With the parts that the evaluation wrote to ``report.json``."""
        written = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        return cls(rows, written["comparisons"], written["segments"], folder, kind)

    def to_frame(self, part: Part = "metrics", to: FrameKind | None = None) -> Any:
        """A part of the table as a frame.

        Args:
            part: ``metrics``: ``model``, ``protocol`` (``sampled``: among the drawn candidates; ``expected_sampled``:
                the mean over all sets that could have been drawn; ``full``: in the whole catalogue), ``users``, a
                column for each metric, and ``seconds``. ``intervals``: a row for each metric with ``mean`` and the ends
                ``low`` and ``high`` of its 95% interval. ``comparisons``: ``model`` against another, ``difference`` of
                a metric with its interval, and ``p``. ``segments``: means by segment of users.
            to: ``pandas``, ``polars`` or ``arrow``; default: the kind of the data set's frames.

        Raises:
            UsageError: No such part.
        """
        if part not in get_args(Part):
            raise UsageError(f"a report has no part {part!r}", did_you_mean(str(part), get_args(Part)))
        parts: dict[str, Sequence[Mapping[str, Any]]] = {
            "metrics": self._metrics(),
            "intervals": self._intervals(),
            "comparisons": self.comparisons,
            "segments": self.segments,
        }
        rows = parts[part]
        names = [name for row in rows for name in row]
        return frame_of_rows(rows, dict.fromkeys(names), self.kind if to is None else to)

    def _metrics(self) -> list[dict[str, Any]]:
        return [
            {"model": row.model, "protocol": row.protocol, "users": row.users, **row.metrics, "seconds": row.seconds}
            for row in self.rows
        ]

    def _intervals(self) -> list[dict[str, Any]]:
        return [
            {"model": row.model, "protocol": row.protocol, "metric": name, "mean": mean, "low": low, "high": high}
            for row in self.rows
            for name, mean in row.metrics.items()
            for low, high in (row.intervals[name],)
        ]
