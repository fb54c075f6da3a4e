"""Trains a run by Ray Train's ``TorchTrainer``; workers that are lost are replaced, from the last checkpoint on."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from delrec_lite.config import Recipe
from delrec_lite.console import QUIET, Console
from delrec_lite.environment import flag, those_set
from delrec_lite.errors import DelrecError, MissingPackageError, UsageError, install_line
from delrec_lite.machine import cores_allowed
from delrec_lite.processes import TIMEOUT, LostProcessesError
from delrec_lite.ray_cluster import ray_cluster
from delrec_lite.ray_train.messages import shown
from delrec_lite.ray_train.worker import Job, train

# How often a training that has lost workers begins again; each time it goes on from the last checkpoint.
MOST_RESTARTS = 3
# Ray gives workers a minute to start, which importing torch on a busy machine may take.
PATIENCE = ("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")
PASSED_ON = ("DELREC_CACHE", "DELREC_DEBUG", "HF_ENDPOINT", "HF_HOME", "HF_HUB_OFFLINE", "HF_TOKEN")


def train_with_ray(
    recipe: Recipe,
    runs: Path,
    workers: int,
    stage: str = "finetune",
    cores: int = 1,
    fresh: bool = False,
    console: Console = QUIET,
) -> dict[str, Any]:
    """Train up to a stage; finished stages are reused, an interrupted one goes on from its checkpoint.

    Each worker has the whole model and computes its share of each step of stages 1 and 2, so that the weights are those
    of one process up to rounding; teachers are fitted each by one worker, several at once.

    Args:
        recipe: Of the run; its relative paths count from the working folder.
        runs: Folder of all runs, on storage that all workers share.
        workers: How many; each takes a card where the recipe trains on cards.
        stage: The last one to run: ``teacher``, ``distill`` or ``finetune``.
        cores: Processor cores of each worker.
        fresh: Delete the results of earlier calls.
        console: Shows what happens.

    Returns:
        See ``worker.train``.

    Raises:
        DelrecError: What a worker reports, or workers are lost too often.
        MissingPackageError: Ray or torch is not installed.
        UsageError: The cluster is too small.
    """
    if min(workers, cores) < 1:
        raise UsageError("--workers and --cores are numbers from 1", "take as many workers as there are cards")
    # Without defaults: a key that the recipe does not name follows its data set.
    sent = recipe.model_dump(mode="json", exclude_unset=True)
    with ray_cluster("ray_train", cores_allowed(), flag("DELREC_DEBUG")) as ray, shown(console) as messages:
        use_cards = takes_cards(recipe.model.device, workers, cores, ray.cluster_resources())
        job = Job(sent, str(runs.absolute()), stage, fresh, str(Path.cwd()), those_set(*PASSED_ON), messages)
        for restart in range(MOST_RESTARTS + 1):
            if restart:
                console.say(f"  a worker was lost; once more from the last checkpoint ({restart} of {MOST_RESTARTS})")
                job = replace(job, fresh=False)
            try:
                return _fit(job, workers, cores, use_cards)
            except LostProcessesError as error:
                lost = error
    raise DelrecError(
        f"workers were lost {MOST_RESTARTS + 1} times: {lost.message}",
        "if memory is short, take fewer --workers on a machine; the same command goes on from the last checkpoint",
    )


def takes_cards(device: str, workers: int, cores: int, cluster: Mapping[str, float]) -> bool:
    """Whether each worker takes a card.

    Args:
        device: The recipe's ``model.device``.
        workers: How many.
        cores: Processor cores of each.
        cluster: What the cluster has, by Ray's names.

    Raises:
        UsageError: It has fewer cores or cards than that takes.
    """
    found = {name: int(cluster.get(name, 0)) for name in ("CPU", "GPU")}
    use_cards = device == "cuda" or (device == "auto" and found["GPU"] > 0)
    for name, what, each in (("GPU", "cards", int(use_cards)), ("CPU", "processor cores", cores)):
        if workers * each > found[name]:
            hint = "take fewer --workers, or start more machines of the cluster first"
            if name == "GPU":
                hint += "; `model.device: cpu` in the recipe trains without cards"
            raise UsageError(f"{workers} workers take {workers * each} {what}, and there are {found[name]}", hint)
    return use_cards


def _fit(job: Job, workers: int, cores: int, use_cards: bool) -> dict[str, Any]:
    """One attempt.

    Raises:
        LostProcessesError: A worker was lost.
        DelrecError: What a worker reports.
    """
    try:
        from ray.exceptions import RayError
        from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise MissingPackageError(
            f"ray_train needs {error.name}, which is not installed", install_line(error.name)
        ) from error
    os.environ.setdefault(*PATIENCE)
    Path(job.runs).mkdir(parents=True, exist_ok=True)
    each = {"CPU": cores, "GPU": 1} if use_cards else {"CPU": cores}
    # Ray's own files, which are not needed afterwards: checkpoints and results are the run's.
    with tempfile.TemporaryDirectory(prefix=".ray-", dir=job.runs) as storage:
        trainer = TorchTrainer(
            train,
            train_loop_config=vars(job),
            torch_config=TorchConfig(timeout_s=int(TIMEOUT.total_seconds())),
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_cards, resources_per_worker=each),
            run_config=RunConfig(
                name="run",
                storage_path=storage,
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
            ),
        )
        try:
            result: dict[str, Any] = trainer.fit().return_value
        except WorkerGroupError as error:
            raise cause_of(error.worker_failures) from error
        except (TrainingFailedError, RayError) as error:  # workers could not start, or Ray's own actors have ended
            raise LostProcessesError(" ".join(str(error).split())) from error
    return result


def cause_of(failures: Mapping[int, Exception]) -> Exception:
    """The error of the worker that failed by itself; those that lost it tell less.

    Args:
        failures: By worker.
    """
    own = [error for error in failures.values() if _is_own(error)]
    if own:
        return own[0]
    number, error = min(failures.items(), key=lambda failure: isinstance(failure[1], LostProcessesError))
    return LostProcessesError(f"worker {number}: {' '.join(str(error).split())[:200]}")


def _is_own(error: Exception) -> bool:
    return isinstance(error, DelrecError | OSError | ImportError) and not isinstance(error, LostProcessesError)
