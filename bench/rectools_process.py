"""RecTools' SASRec, trained in an environment of its own: a JSON job on standard input, its facts on standard output.

`bench.rectools_peer` starts it with the Python of that environment, in which delrec-lite is not installed.
"""

import json
import sys
import time
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel


class KeepBest(Callback):
    """Keeps the weights of the epoch with the least loss on the validation items, and stops some epochs after it.

    Args:
        patience: Epochs without a smaller loss.
    """

    def __init__(self, patience: int) -> None:
        self.patience, self.losses, self.weights = patience, list[float](), dict[str, Any]()

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        """After each epoch."""
        if trainer.sanity_checking:
            return
        loss = float(trainer.callback_metrics[SASRecModel.val_loss_name])
        if not self.losses or loss < min(self.losses):
            self.weights = {name: value.detach().clone() for name, value in module.state_dict().items()}
        self.losses.append(loss)
        trainer.should_stop = len(self.losses) - self.best >= self.patience

    @property
    def best(self) -> int:
        """The number of the best epoch, from 1."""
        return 1 + int(np.argmin(self.losses))


def last_of_each(interactions: Any) -> Any:
    """Which rows are the last of their user: those on which RecTools validates, bool ``[rows]``."""
    rank = interactions.groupby(Columns.User)[Columns.Datetime].rank(method="first", ascending=False)
    return (rank <= 1).to_numpy()


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Train and score.

    Args:
        job: ``log``, a npz file with ``users``, ``items`` and ``places`` of all interactions before the test items;
            ``scores``, the npy file to write, float32 ``[users, items]``; ``settings`` of ``SASRecModel``; ``epochs``
            at most and ``patience``; ``seed``, ``threads`` and ``items``, the size of the catalogue.
    """
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    with np.load(job["log"]) as arrays:
        users, items, places = arrays["users"], arrays["items"], arrays["places"]
    log = {Columns.User: users, Columns.Item: items, Columns.Weight: 1.0}
    log[Columns.Datetime] = pd.Timestamp("2020-01-01") + pd.to_timedelta(places, unit="s")
    dataset = Dataset.construct(pd.DataFrame(log))

    def trainer() -> Any:
        return Trainer(
            max_epochs=job["epochs"],
            min_epochs=1,
            accelerator="cpu",
            callbacks=[KeepBest(job["patience"])],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    model = SASRecModel(get_val_mask_func=last_of_each, get_trainer_func=trainer, **job["settings"])
    start = time.perf_counter()
    model.fit(dataset)
    keeper = next(callback for callback in model.fit_trainer.callbacks if isinstance(callback, KeepBest))  # a copy
    model.lightning_model.load_state_dict(keeper.weights)
    fitted = time.perf_counter()
    everyone = np.unique(users)
    ranked = model.recommend(everyone, dataset, k=job["items"], filter_viewed=False)
    scores = np.full((len(everyone), job["items"]), -np.inf, np.float32)
    rows = np.searchsorted(everyone, ranked[Columns.User].to_numpy())
    scores[rows, ranked[Columns.Item].to_numpy()] = ranked[Columns.Score].to_numpy()
    seconds = {"training": round(fitted - start, 2), "ranking": round(time.perf_counter() - fitted, 2)}
    np.save(job["scores"], scores)
    packages = ("rectools", "torch", "pytorch-lightning", "numpy", "pandas")
    return {
        "seconds": seconds,
        "epochs": len(keeper.losses),
        "best_epoch": keeper.best,
        "unknown_items": int(np.isneginf(scores).all(0).sum()),
        "versions": {name: version(name) for name in packages},
    }


if __name__ == "__main__":
    OUT, sys.stdout = sys.stdout, sys.stderr  # libraries that print must not break the answer
    OUT.write(json.dumps(run(json.load(sys.stdin))) + "\n")
    OUT.flush()
