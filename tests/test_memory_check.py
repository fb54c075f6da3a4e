"""A training that does not fit is refused in one line before anything is loaded, on a card and on a CPU."""

import pytest

from delrec_lite import cards
from delrec_lite.config import load_recipe
from delrec_lite.errors import OutOfMemoryError
from delrec_lite.pipeline import machine_check, memory, teacher_stage
from delrec_lite.pipeline.memory import Place, RecipeCheck, check_memory, trainings
from delrec_lite.pipeline.model_builder import ModelBuilder
from delrec_lite.training.shapes import SHAPES

LAPTOP, CARD = Place("this machine", 2e9, cuda=False), Place("GeForce GT 1030", 2e9, cuda=True)
SMALL, QWEN = SHAPES["smollm2-135m"], SHAPES["qwen2.5-1.5b"]


def refused(recipe, shape, precision, place):
    with pytest.raises(OutOfMemoryError) as raised:
        check_memory(recipe, shape, 1349, precision, place)
    assert "\n" not in raised.value.message + raised.value.hint
    return raised.value


def with_hint(recipe, hint):
    """The recipe as an error says to set it."""
    content = recipe.dump()
    for pair in hint.removeprefix("set ").split(", "):
        key, value = pair.split(": ")
        section, name = key.split(".")
        content[section][name] = {"true": True, "false": False}.get(value, value)
    return type(recipe).model_validate_json(type(recipe).model_validate(content, strict=False).model_dump_json())


@pytest.mark.parametrize(
    ("name", "shape", "precision", "place"),
    [("ml-100k-cpu", SMALL, "fp32", LAPTOP), ("ml-100k-gpu", QWEN, "nf4", Place("a card", 3e9, cuda=True))],
)
def test_what_the_error_says_to_set_fits(name, shape, precision, place):
    recipe = load_recipe(name)
    error = refused(recipe, shape, precision, place)
    assert f"of {name} needs" in error.message
    assert place.name in error.message
    changed = with_hint(recipe, error.hint)
    check_memory(changed, shape, 1349, changed.model.precision.replace("auto", precision), place)


def test_a_base_that_no_setting_fits_is_named():
    recipe = load_recipe("ml-100k-gpu")
    assert "no setting of this base fits" in refused(recipe, SHAPES["qwen2.5-7b"], "nf4", CARD).hint


def test_what_fits_is_not_refused():
    check_memory(load_recipe("ml-100k-cpu"), SMALL, 1349, "bf16", LAPTOP)
    check_memory(load_recipe("ml-100k-cpu"), SMALL, 1349, "fp32", Place("this machine", 0, cuda=False))  # unknown
    check_memory(load_recipe("ml-100k-paper"), SMALL, 1349, "fp32", LAPTOP)  # a form that the plan does not compute


def test_processes_share_a_step():
    recipe = load_recipe("ml-100k-cpu")
    assert trainings(recipe, 1349, "bf16", 2)["finetune"].tokens == 400
    assert trainings(recipe, 1349, "nf4/fp32")["distill"].precision == "nf4"


@pytest.fixture
def never(monkeypatch):
    """Nothing may be fitted or loaded."""

    def fail(*_):
        raise AssertionError("computed before the check")

    monkeypatch.setattr(teacher_stage, "fit_teacher", fail)
    monkeypatch.setattr("delrec_lite.pipeline.run.fit_teacher", fail)
    monkeypatch.setattr(ModelBuilder, "base", fail)


def test_training_is_refused_before_the_teacher_is_fitted(tiny_run, never, monkeypatch):
    monkeypatch.setattr(memory.machine, "memory_limit_bytes", lambda: 4 * 10**8)
    with pytest.raises(OutOfMemoryError, match="distill of r needs .* this machine has 0.4 GB"):
        tiny_run().finetune()


def test_a_finished_run_needs_no_memory_for_training(tiny_run, monkeypatch):
    tiny_run().finetune()
    monkeypatch.setattr(memory.machine, "memory_limit_bytes", lambda: 4 * 10**8)
    assert not tiny_run().finetune().computed
    with pytest.raises(OutOfMemoryError, match="needs"):
        tiny_run(finetune={"lr": 0.5}).finetune()


def test_training_says_once_why_a_card_is_not_used(tiny_run, monkeypatch):
    problem = cards.Problem("torch is built for CUDA 13.0, but no NVIDIA driver answers", "install the driver")
    monkeypatch.setattr(machine_check, "problem_here", lambda: problem)
    run, lines = tiny_run(), []
    monkeypatch.setattr(run.console, "say", lines.append)
    run.finetune()
    assert [line for line in lines if "CUDA" in line] == [
        f"  training on the CPU: {problem.message}; install the driver"
    ]


def test_a_base_cut_to_few_layers_needs_less(monkeypatch):
    whole = load_recipe("ml-100k-cpu")
    cut = whole.model_copy(update={"model": whole.model.model_copy(update={"layers": 8, "device": "cpu"})})
    monkeypatch.setattr(memory.machine, "memory_limit_bytes", lambda: 2 * 10**9)
    check = RecipeCheck.of(cut, "8GB", 1349, ())
    assert check.shape.layers == 8
    check_memory(cut, check.shape, 1349, "fp32", check.place)
    refused(whole, SMALL, "fp32", check.place)
