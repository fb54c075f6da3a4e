"""Several processes on one run: the steps of one process, one writer, and a killed run that resumes."""

import json
import os
import subprocess
import sys
import time

import psutil
import pytest
import torch

from delrec_lite.config import DistillSection, FinetuneSection
from delrec_lite.training import finetune as stage2
from delrec_lite.training.tasks import task_losses
from tests.formats import FORMATS, make_formatted
from tests.launched import ROOT, start, weights, write_recipe
from tests.tiny import context

TWO = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0")


@pytest.fixture(scope="module")
def recipe(tiny_base, tmp_path_factory):
    return write_recipe(tiny_base, tmp_path_factory.mktemp("recipe"))


def train(recipe, runs, launcher=()):
    """``delrec-lite train`` in a process of its own, or in several."""
    return start(*launcher, "-m", "delrec_lite", "train", recipe, "--runs", runs, "--json")


@pytest.fixture(scope="module")
def two_processes(recipe, tmp_path_factory):
    runs = tmp_path_factory.mktemp("two")
    process = train(recipe, runs, TWO)
    out, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors.decode()
    return runs, out


def test_two_processes_train_the_weights_of_one(recipe, two_processes, tmp_path):
    process = train(recipe, tmp_path)
    assert process.wait(900) == 0
    expected, result = weights(tmp_path), weights(two_processes[0])
    assert expected.keys() == result.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(result[name], tensor, atol=2e-4, rtol=1e-3)
    assert any(torch.count_nonzero(tensor) for name, tensor in expected.items() if "lora_B" in name)


def test_only_the_first_process_prints_and_writes(two_processes):
    runs, out = two_processes
    assert json.loads(out).keys() == {"prepare", "teacher", "distill", "finetune"}
    lines = [json.loads(line) for line in (runs / "r/finetune/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(len(lines)))


def test_a_killed_run_resumes_in_all_processes(recipe, two_processes, tmp_path):
    launcher = train(recipe, tmp_path, TWO)
    stage = tmp_path / "r" / "finetune"
    deadline = time.monotonic() + 900
    while not (stage / "checkpoint.safetensors").is_file():
        assert launcher.poll() is None, launcher.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    psutil.Process(launcher.pid).children()[-1].kill()
    assert launcher.wait(120) != 0
    assert not (stage / "done.json").exists()
    second_launcher = train(recipe, tmp_path, TWO)
    _, errors = second_launcher.communicate(timeout=900)
    assert second_launcher.returncode == 0, errors.decode()
    unbroken, resumed = weights(two_processes[0]), weights(tmp_path)
    for name, tensor in unbroken.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=0)
    steps = [json.loads(line)["step"] for line in (stage / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(len(steps)))


def test_a_single_process_imports_neither_accelerate_nor_torch():
    imported = "[name in sys.modules for name in ('accelerate', 'torch')]"
    code = f"import sys; from delrec_lite.processes import join; print(join(), {imported})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "Processes(count=1, index=0) [False, False]"


def test_no_thread_of_the_process_group_remains(tmp_path):
    """A remaining thread makes the process abort now and then."""
    script = tmp_path / "joins.py"
    script.write_text(
        """
import atexit, os
from pathlib import Path

def tell(when):
    names = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
    Path(when + "-" + os.environ["RANK"]).write_text(str(sum("gloo" in name for name in names)))

atexit.register(tell, "after")  # the first to ask is called last
from delrec_lite.processes import join
processes = join("cpu")
import peft
processes.wait()
tell("before")
"""
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *TWO, str(script)]
    subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    assert [int((tmp_path / f"before-{rank}").read_text()) > 0 for rank in (0, 1)] == [True, True]
    assert [(tmp_path / f"after-{rank}").read_text() for rank in (0, 1)] == ["0", "0"]


# --- the parts of a step ---


def accumulated(loss_of, model, parts, step=2):
    """Loss and gradients of a step in ``parts`` micro-batches."""
    model.zero_grad()
    total = 0.0
    for part in range(step * parts, (step + 1) * parts):
        loss, _ = loss_of(part)
        (loss / parts).backward()
        total += loss.item() / parts
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_step(step, expected):
    assert step[0] == pytest.approx(expected[0], rel=1e-5)
    assert step[1].keys() == expected[1].keys()
    for name, gradient in step[1].items():
        torch.testing.assert_close(expected[1][name], gradient, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("prompt_format", ["titles", "letter, items"])
@pytest.mark.parametrize("parts", [3, 40])
def test_micro_batches_add_up_to_the_step(tiny_base, tmp_path, prompt_format, parts):
    """Also with random positions, and with fewer windows than micro-batches."""
    model, prompts, _ = make_formatted(tiny_base, FORMATS[prompt_format])
    model.soft.requires_grad_(True)
    recipe = FinetuneSection(tokens_per_step=100, teacher_weight=0.3)
    stage_context = context(model, prompts, tmp_path)
    steps = [accumulated(stage2.losses(stage_context, recipe, n), model, n) for n in (1, parts)]
    assert_same_step(*steps)
    first = DistillSection(tokens_per_step=100, temporal_share=0.5)
    for task in ("pattern", "temporal"):
        by_parts = [task_losses(stage_context, first, n)[task] for n in (1, parts)]
        assert_same_step(*(accumulated(loss_of, model, n) for loss_of, n in zip(by_parts, (1, parts), strict=True)))


def test_adalora_is_regularised_in_every_form(tiny_base, tmp_path):
    """A model that chooses among candidates keeps its factors as near to orthogonal as one that ranks the catalogue."""
    model, prompts, _ = make_formatted(tiny_base, FORMATS["letter, items"])
    recipe = FinetuneSection(epochs=3, tokens_per_step=80, rank=2, adapter="adalora")
    stage2.finetune(context(model, prompts, tmp_path), recipe)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(line["loss"] > line["next_item"] + 1e-3 for line in lines)
