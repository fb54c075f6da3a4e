"""A verbalizer and a history format of another package: a recipe names them, and serving scores as training did."""

import importlib
import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from delrec_lite import registry
from delrec_lite.config import parse
from delrec_lite.errors import ConfigError
from delrec_lite.llm.questions import score_candidates
from delrec_lite.prompts.history import HISTORIES
from delrec_lite.prompts.verbalizer import VERBALIZERS, VerbalizerKind, register_verbalizer
from delrec_lite.runtime.recommender import Recommender
from tests.tiny import dataset

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"


@pytest.fixture
def registered(monkeypatch, tmp_path):
    """The examples of the page on extending, registered until the test ends."""
    for records in (VERBALIZERS, HISTORIES):
        monkeypatch.setattr(records, "_records", dict(records._records))
    monkeypatch.syspath_prepend(tmp_path)
    for name, code in re.findall(r"```python\n# (\w+)\.py\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    for name in ("word_mean", "bracketed"):
        importlib.import_module(name)


@pytest.mark.parametrize("history", ["items", "bracketed"])
def test_a_registered_verbalizer_is_trained_exported_and_served(tiny_run, registered, history):
    run = tiny_run(model={"verbalizer": "word-mean", "history": history})
    learned = load_file(run.finetune().folder / "items.safetensors")
    assert set(learned) == ({"log_scale", "offset_in"} if history == "items" else {"log_scale"})
    assert float(learned["log_scale"]) != -1.0
    run.export()
    built = run.models.trained()
    model, prompts = built.model, built.prompts
    histories, sets = dataset().test().histories, run.candidates["test"].items
    trained = score_candidates(model, prompts, histories, sets, 10)
    with Recommender.load(run.bundle, threads=1) as recommender:
        served = recommender.score_candidates(histories, sets)
        titles = dataset().catalog.titles
        names = ["Violet Forest (2020)", titles[4]]
        answer = recommender.recommend([titles[3]], candidates=names, allow_new=True) if history != "items" else None
    assert np.corrcoef(trained.ravel(), served.ravel())[0, 1] > 0.999
    np.testing.assert_allclose(served, trained, atol=0.02 * np.abs(trained).max() + 1e-3)
    assert answer is None or {item.title for item in answer.items} == set(names)


@pytest.mark.parametrize(
    ("key", "known_names"), [("verbalizer", "letter, likelihood, title-mean"), ("history", "items, titles")]
)
def test_the_error_for_an_unknown_name_lists_the_known_names(key, known_names):
    with pytest.raises(ConfigError, match=f"model.{key}.*no .* 'word-mean': one of {known_names}$"):
        parse(f"name: x\nmodel: {{{key}: word-mean}}", "f")


class Constant(VerbalizerKind):
    def score(self, answer, candidates, pieces):
        return np.zeros(len(candidates), np.float32)


CONSTANT = Constant(name="constant", training="")


def test_a_built_in_name_is_refused():
    with pytest.raises(ConfigError, match="comes with delrec-lite"):
        register_verbalizer(Constant(name="letter", training=""))


def install_package(monkeypatch, value):
    """An installed package that names ``value`` as its verbalizer `constant`."""
    entry = EntryPoint("constant", value, "delrec_lite.prompts.verbalizers")
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry] if group == entry.group else [])
    monkeypatch.setattr(VERBALIZERS, "_records", dict(VERBALIZERS._records))


def test_the_verbalizer_of_an_installed_package_is_found_by_its_name(monkeypatch):
    install_package(monkeypatch, f"{__name__}:CONSTANT")
    assert parse("name: x\nmodel: {verbalizer: constant}", "f").model.verbalizer == "constant"
    assert VERBALIZERS["constant"] is CONSTANT
    assert "constant" in VERBALIZERS.names()


@pytest.mark.parametrize(
    ("value", "words"), [("nowhere:KIND", "cannot be loaded"), (f"{__name__}:np", "is not its record")]
)
def test_a_package_without_its_verbalizer_is_named(monkeypatch, value, words):
    install_package(monkeypatch, value)
    with pytest.raises(ConfigError, match=f"'constant'.*{words}"):
        VERBALIZERS["constant"]
