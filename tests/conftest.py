"""What several test files share: the tiny base model, a tiny trained model's bundle, one thread for torch."""

import importlib
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.tiny import candidates, dataset, make_model, write_base


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    import torch

    torch.set_num_threads(1)


def export_tiny(base_folder, target, quant="f16", model=None, formats="gguf", onnx_quant="int8", **changed):
    """Export the tiny model, in precisions separated by commas; returns what ``export`` returns."""
    from delrec_lite.console import QUIET
    from delrec_lite.export.request import ExportRequest
    from delrec_lite.export.write import export

    item_lm, prompts, base = make_model(base_folder) if model is None else model
    sets = changed.pop("candidates", {"test": candidates()})
    console = changed.pop("console", QUIET)
    settings = {
        "name": "tiny",
        "quants": [] if formats == "onnx" else quant.split(","),
        "onnx_quants": [] if formats == "gguf" else onnx_quant.split(","),
        "max_history": 10,
        "score_correlation": 0.9,
        "prune_vocab": False,
        "licences": {"tiny": "none"},
        "provenance": {},
        **changed,
    }
    request = ExportRequest(
        model=item_lm, base=base, prompts=prompts, dataset=dataset(), candidates=sets, target=target, **settings
    )
    return export(request, console)


@pytest.fixture(scope="session")
def shared_tiny_bundle(tiny_base, tmp_path_factory):
    return export_tiny(tiny_base, tmp_path_factory.mktemp("bundle") / "tiny.delrec").path


@pytest.fixture
def tiny_bundle(shared_tiny_bundle, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(shared_tiny_bundle, tmp_path / "tiny.delrec")


@pytest.fixture(scope="session")
def teacher_bundle(tiny_base, tmp_path_factory):
    """The path of a bundle that has a teacher of random weights, and that teacher; not to be changed."""
    import torch

    from delrec_lite.teacher_kinds.registry import TEACHERS
    from delrec_lite.teachers.contract import Teacher

    torch.manual_seed(1)
    items = len(dataset().catalog)
    sasrec = TEACHERS["sasrec"]
    teacher = Teacher(sasrec.build(sasrec.configure(hidden=8, max_length=8), items), items)
    return export_tiny(tiny_base, tmp_path_factory.mktemp("teacher") / "t.delrec", teacher=teacher).path, teacher


SECTIONS = {
    "model": {"base": "tiny", "soft_tokens": 3, "max_history": 10},
    "teacher": {"settings": {"epochs": 1, "hidden": 8, "max_length": 8}},
    "distill": {"epochs": 0.3, "tokens_per_step": 100},
    "finetune": {"epochs": 0.3, "tokens_per_step": 100, "rank": 2},
    "export": {"quant": "f16", "score_correlation": 0.5},
}


@pytest.fixture
def tiny_run(tiny_base, tmp_path, monkeypatch):
    """Makes recipes and runs of the tiny model on the ring of items, with changes by section.

    ``model.precision: auto`` is what ``tiny_run.faster`` says, fp32 at first: no test depends on the machine's speed.
    """
    from delrec_lite.config import Recipe
    from delrec_lite.console import QUIET
    from delrec_lite.data.store import Settings, make_dataset, save_dataset
    from delrec_lite.hub.cache import Pulled
    from delrec_lite.llm.load import load_base
    from delrec_lite.pipeline import model_builder
    from delrec_lite.pipeline.run import Run

    data = dataset()
    data = make_dataset("ring", data.catalog, data.user_ids, data.sequences)
    save_dataset(data, {s: candidates(s) for s in ("valid", "test")}, Settings(2, 5, 3), tmp_path / "ring")
    pulled = Pulled("tiny", tiny_base, "here", True, {"model": "abc"}, "none", 1)
    monkeypatch.setattr(Run, "pulled", {"model": pulled})

    def base(self, precision=None, whole=False):
        layers = None if whole else self._run.recipe.model.layers
        return load_base("tiny", tiny_base, precision or self.precision, init_seed=self.weights_seed, layers=layers)

    monkeypatch.setattr(model_builder.ModelBuilder, "base", base)

    def recipe(**changes):
        sections = {name: SECTIONS.get(name, {}) | changes.get(name, {}) for name in SECTIONS | changes}
        return Recipe.model_validate({"name": "r", "data": {"folder": str(tmp_path / "ring")}, **sections})

    def make(runs="runs", shipped=True, **changes):
        return Run(recipe(**changes), tmp_path / runs, QUIET, shipped=shipped)

    make.recipe = recipe
    make.faster = "fp32"
    monkeypatch.setattr(model_builder, "faster_precision", lambda device, cache: make.faster)
    return make


@pytest.fixture
def page_module(monkeypatch, tmp_path):
    """Imports a module that docs/extending.md shows, from its text."""

    def module(name):
        text = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
        code = re.search(rf"```python\n# {name}\.py\n(.*?)```", text, re.DOTALL)
        (tmp_path / f"{name}.py").write_text(code[1], encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return module


@pytest.fixture
def browser():
    """Chromium without a window; the test is left out where there is none."""
    from selenium import webdriver

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium and chromedriver here: make browser installs them")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(option)
    chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
    chrome.set_window_size(1100, 900)
    yield chrome
    chrome.quit()
