"""What several test files share: the tiny base model, a tiny trained model's bundle, one thread for torch."""

import shutil

import pytest

from tests.tiny import candidates, dataset, make_model, write_base


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    import torch

    torch.set_num_threads(1)


def export_tiny(base_folder, target, quant="f16", model=None, **changed):
    """A bundle of the tiny model; returns what export returns."""
    from delrec_lite.console import QUIET
    from delrec_lite.export.write import export

    made, prompts, base = make_model(base_folder) if model is None else model
    settings = {
        "name": "tiny",
        "quant": quant,
        "max_history": 10,
        "score_correlation": 0.9,
        "licences": {"tiny": "none"},
        "provenance": {},
        "console": QUIET,
        **changed,
    }
    return export(made, base, prompts, dataset(), {"test": candidates()}, target, **settings)


@pytest.fixture(scope="session")
def tiny_bundle_made(tiny_base, tmp_path_factory):
    return export_tiny(tiny_base, tmp_path_factory.mktemp("bundle") / "tiny.delrec").path


@pytest.fixture
def tiny_bundle(tiny_bundle_made, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(tiny_bundle_made, tmp_path / "tiny.delrec")
