"""What each worker of Ray Train does: the stages of a run, together with the other workers."""

import os
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delrec_lite.console import QUIET
from delrec_lite.environment import flag
from delrec_lite.errors import DelrecError, StorageError
from delrec_lite.ray_train.messages import SentConsole
from delrec_lite.version import __version__


@dataclass(frozen=True)
class Job:
    """What all workers are given, on other machines too.

    Attributes:
        recipe: Its keys.
        runs: Absolute path of the folder of all runs, on storage that all workers share.
        stage: The last one to run.
        fresh: Delete the results of earlier calls.
        folder: Absolute path of the folder from which the paths in the recipe count.
        environment: Variables that the command was called with.
        messages: For ``SentConsole``.
    """

    recipe: dict[str, Any]
    runs: str
    stage: str
    fresh: bool
    folder: str
    environment: dict[str, str]
    messages: Any


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Train with the other workers, whose process group Ray Train has made.

    Args:
        job: The fields of ``Job``.

    Returns:
        Each stage's folder, seconds and figures, by its name.

    Raises:
        DelrecError: Training is not possible; or another error, as one that can be sent.
    """
    try:
        return _train(Job(**job))
    except (DelrecError, OSError, ImportError):
        raise
    except Exception as error:
        if flag("DELREC_DEBUG"):
            traceback.print_exc()
        text = " ".join(str(error).split())
        raise DelrecError(
            f"{type(error).__name__}: {text}", "this is a bug; DELREC_DEBUG=1 shows the traceback"
        ) from None


def _train(job: Job) -> dict[str, Any]:
    os.environ.update(job.environment)
    if not Path(job.folder).is_dir():
        raise StorageError(
            f"a worker does not see {job.folder}, in which the command was called",
            "call it in a folder on storage that all machines share",
        )
    os.chdir(job.folder)
    from delrec_lite.config import Recipe
    from delrec_lite.pipeline.run import Run
    from delrec_lite.processes import join

    recipe = Recipe.model_validate(job.recipe)
    processes = join(recipe.model.device)
    version = processes.from_first(lambda: __version__)
    if version != __version__:
        raise DelrecError(
            f"worker {processes.index} has delrec-lite {__version__}, the first one {version}",
            "install the same version on all machines",
        )
    console = SentConsole(job.messages) if processes.first else QUIET
    run = Run(recipe, Path(job.runs), console, job.fresh, shipped=False)
    getattr(run, job.stage)()
    return {name: {"folder": str(s.folder), "seconds": s.seconds, **s.result} for name, s in run.stages.items()}
