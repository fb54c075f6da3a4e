"""A training run that is killed after a checkpoint and started again."""

import pytest

from delrec_lite.training import loop


class Killed(Exception):
    pass


def killed_then_resumed(monkeypatch, step, train):
    """Call ``train`` until the checkpoint of ``step`` is written, then again to the end; returns what it returns."""
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr(loop, "WRITING_SHARE", 0.0)
    save = loop._save

    def save_then_die(out, named, optimiser, means, saved_step, *rest):
        save(out, named, optimiser, means, saved_step, *rest)
        if saved_step >= step:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(loop, "_save", save_then_die)
        with pytest.raises(Killed):
            train()
    return train()
