"""Scores the parts of a run by Ray: a pool of actors on any machines, each with one thread and a bundle of its own."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from delrec_lite.data.packages import arrow
from delrec_lite.environment import flag
from delrec_lite.errors import DelrecError, MissingPackageError, StorageError, install_line
from delrec_lite.files import appears
from delrec_lite.machine import cores_allowed
from delrec_lite.ray_cluster import ray_cluster
from delrec_lite.scoring.local import MOST_TRIALS
from delrec_lite.scoring.parts import raise_reported, report_of, score_part
from delrec_lite.scoring.scorer import Scorer

# Characters of an error of Ray, which can be a page.
MOST_SHOWN = 300


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


@contextmanager
def _quiet(context: Any) -> Iterator[None]:
    """Without what Ray Data says of its own progress and versions, while the ``with`` lasts.

    Args:
        context: Ray's ``DataContext`` of this thread.
    """
    logger = logging.getLogger("ray.data")
    level, bars = logger.level, context.enable_progress_bars
    logger.setLevel(logging.ERROR)
    context.enable_progress_bars = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        context.enable_progress_bars = bars


def score_ray(
    scorer: dict[str, Any], source: Path, target: Path, parts: Sequence[str], workers: int, tick: Callable[[int], None]
) -> None:
    """As ``local.score_local``; an actor that is killed is replaced by Ray, which scores its part again.

    Joins the cluster that ``RAY_ADDRESS`` names, or else starts one on this machine. As many actors begin as there is
    room for, and more follow, up to ``workers``, where the cluster grows.

    Raises:
        MissingPackageError: Ray is not installed.
        DelrecError: What an actor reports; or actors are lost too often at the same part.
        StorageError: Parts that the actors have written are not here.
    """
    arguments = {"scorer": scorer, "source": str(source.absolute()), "target": str(target.absolute())}
    rows = [{"part": part} for part in parts]
    with ray_cluster("--engine ray", max(workers, cores_allowed())) as ray, ExitStack() as stack:
        try:
            from ray.data import ActorPoolStrategy, DataContext, from_items
            from ray.exceptions import RayError
        except ImportError as error:
            raise MissingPackageError(
                f"--engine ray needs {error.name}, which is not installed", install_line("ray")
            ) from error
        if not flag("DELREC_DEBUG"):
            stack.enter_context(_quiet(DataContext.get_current()))
        room = max(1, min(workers, int(ray.cluster_resources().get("CPU", 1))))
        done = from_items(rows, override_num_blocks=len(rows)).map_batches(
            PartScorer,
            fn_constructor_kwargs=arguments,
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(min_size=room, max_size=workers),
            num_cpus=1,
            max_task_retries=MOST_TRIALS - 1,
        )
        try:
            for row in done.iter_rows():
                if row["error"]:
                    raise_reported(json.loads(row["error"]))
                tick(row["users"])
        except RayError as error:
            raise DelrecError(
                f"Ray has lost actors too often: {' '.join(str(error).split())[:MOST_SHOWN]}",
                "if memory is short, take fewer --workers; the same command goes on behind the finished parts",
            ) from error
    if not all(appears(target / part) for part in parts):
        raise StorageError(
            f"actors have written parts that are not in {target}",
            "bundle and --out must be on storage that all machines share",
        )
