"""Scores the parts of a run by Ray: a pool of actors on any machines, each with one thread and a bundle of its own."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from delrec_lite.data.packages import arrow
from delrec_lite.errors import MissingPackageError, install_line
from delrec_lite.scoring.parts import raise_reported, report_of, score_part
from delrec_lite.scoring.scorer import Scorer


class PartScorer:
    """What an actor does: parts in, what became of them out. The folders must be the same for all machines.

    Args:
        scorer: Arguments of ``Scorer``.
        source: Folder of the parts' users.
        target: Folder of their recommendations.
    """

    def __init__(self, scorer: dict[str, Any], source: str, target: str) -> None:
        self._scorer = Scorer(**scorer)
        self._source, self._target = Path(source), Path(target)

    def __call__(self, table: Any) -> Any:
        """Score the parts named in an Arrow table; adds the columns ``users`` and ``error``, a report as JSON."""
        names: list[str] = table.column("part").to_pylist()
        users, failed = [], []
        for name in names:
            counts: list[int] = []
            report = ""
            try:
                score_part(self._scorer, self._source / name, self._target / name, counts.append)
            except Exception as error:  # an answer, so that Ray does not try again what fails again
                report = json.dumps(report_of(error))
            users.append(sum(counts))
            failed.append(report)
        return arrow().table({"part": names, "users": users, "error": failed})


def score_ray(
    scorer: dict[str, Any], source: Path, target: Path, parts: Sequence[str], workers: int, tick: Callable[[int], None]
) -> None:
    """As ``local.score_local``; an actor that is killed is replaced by Ray, which scores its part again.

    Joins the cluster that ``RAY_ADDRESS`` names, or else starts one on this machine.

    Raises:
        MissingPackageError: Ray is not installed.
        DelrecError: What an actor reports.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingPackageError(
            f"--engine ray needs {error.name}, which is not installed", install_line("ray")
        ) from error
    arguments = {"scorer": scorer, "source": str(source.absolute()), "target": str(target.absolute())}
    rows = [{"part": part} for part in parts]
    done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        PartScorer,
        fn_constructor_kwargs=arguments,
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
    )
    for row in done.iter_rows():
        if row["error"]:
            raise_reported(json.loads(row["error"]))
        tick(row["users"])
