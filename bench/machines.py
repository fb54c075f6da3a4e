"""A recipe here and on a laptop without AVX512: ``python -m delrec_lite.bench.machines RECIPE --out FILE``.

Steps of training, the demo, and the latency of every quantisation. The second setting switches torch's kernels to AVX2
and takes a llama.cpp built without AVX512. ONNX Runtime has no such switch: its figures are of this machine in both.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from delrec_lite.bench.script import add_recipe, script_parser, write_json
from delrec_lite.config import Recipe, load_recipe
from delrec_lite.console import QUIET
from delrec_lite.errors import DelrecError
from delrec_lite.provenance import stamp
from delrec_lite.runtime.bundle import Bundle

# Environment of each setting.
SETTINGS: dict[str, dict[str, str]] = {
    "this machine": {},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
}
PRECISIONS = ("auto", "bf16", "fp32")
WORKLOADS = ("cold", "step")
FIRST_RECOMMENDATION = "ms on the CPU"  # the last line of the example of `quickstart`
_CHILD = "from delrec_lite.bench.machines import train; train()"


def train() -> None:
    """A process: a job from standard input, a few steps of stage 2, and a line with their seconds."""
    job = json.loads(sys.stdin.readline())
    with tempfile.TemporaryDirectory() as folder:
        report = seconds_per_step(load_recipe(job["recipe"]), Path(job["runs"]), job["precision"], job["steps"], folder)
    print(json.dumps(report))


def seconds_per_step(recipe: Recipe, runs: Path, precision: str, steps: int, folder: str) -> dict[str, Any]:
    """Seconds of steps of stage 2, from the untrained model; the first step is left out.

    Args:
        recipe: Its stage 2.
        runs: Folder of all runs.
        precision: As in ``model.precision``.
        steps: Timed steps.
        folder: For checkpoints and the log.
    """
    from delrec_lite.pipeline.run import Run
    from delrec_lite.training.finetune import finetune
    from delrec_lite.training.loop import METRICS

    model = recipe.model.model_copy(update={"precision": precision, "item_start": "titles"})
    run = Run(recipe.model_copy(update={"model": model}), runs, QUIET)
    built = run.models.untrained()
    context = run.context(built, Path(folder))
    tokens = recipe.finetune.tokens_per_step
    epochs = (steps + 1) * tokens / sum(len(sequence) - 1 for sequence in run.dataset.train())
    finetune(context, recipe.finetune.model_copy(update={"epochs": epochs, "valid_every": 0.0}))
    lines = (Path(folder) / METRICS).read_text(encoding="utf-8").splitlines()
    seconds = [json.loads(line)["seconds"] for line in lines][1:]
    return {
        "precision": run.models.precision,
        "seconds": seconds,
        "tokens_per_second": round(tokens / median(seconds), 1),
    }


def measure(
    recipe: str,
    runs: Path,
    bundle: Path | None,
    settings: Sequence[str],
    llama_cpp: Path | None,
    steps: int,
    demo: bool,
) -> dict[str, Any]:
    """Every figure in every setting, one after another.

    Args:
        recipe: Name or file.
        runs: Folder of all runs, for the teacher of the training steps.
        bundle: Timed with all its quantisations; None: that of the demo.
        settings: Names in ``SETTINGS``.
        llama_cpp: Folder with a package ``llama_cpp`` built without AVX512, for the setting ``avx2``.
        steps: Timed training steps.
        demo: Whether ``quickstart`` is timed.

    Raises:
        DelrecError: A command failed; the message has its last line.
    """
    report = {**stamp(), "recipe": recipe, "settings": {}}
    for name in settings:
        environment = {**os.environ, **SETTINGS[name]}
        if name == "avx2" and llama_cpp is not None:
            environment["PYTHONPATH"] = os.pathsep.join(
                [str(llama_cpp), *filter(None, [environment.get("PYTHONPATH")])]
            )
        figures: dict[str, Any] = {
            "environment": SETTINGS[name],
            "llama_cpp_without_avx512": name == "avx2" and llama_cpp is not None,
        }
        with tempfile.TemporaryDirectory() as folder:
            if demo:
                figures["demo"] = _demo(recipe, Path(folder), environment)
            exported = bundle or Path(folder) / Path(recipe).stem / f"{Path(recipe).stem}.delrec"
            if bundle or demo:
                figures["latency"] = _latency(exported, environment)
        figures["training"] = [_training(recipe, runs, p, steps, environment) for p in PRECISIONS]
        report["settings"][name] = figures
    return report


def _run(arguments: Sequence[str], environment: dict[str, str], text: str = "") -> str:
    """Standard output of a process of this Python."""
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, input=text, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DelrecError(f"{' '.join(arguments)[:80]} failed: {last}", "run it by itself")
    return done.stdout


def _training(recipe: str, runs: Path, precision: str, steps: int, environment: dict[str, str]) -> dict[str, Any]:
    job = {"recipe": recipe, "runs": str(runs), "precision": precision, "steps": steps}
    line = _run(["-c", _CHILD], environment, json.dumps(job) + "\n").splitlines()[-1]
    return {"model.precision": precision, **json.loads(line)}


def _demo(recipe: str, runs: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Seconds of ``quickstart`` in an empty folder: until the first recommendation, and until the table."""
    command = [sys.executable, "-m", "delrec_lite", "quickstart", recipe, "--runs", str(runs)]
    start, first = time.monotonic(), 0.0
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if not first and FIRST_RECOMMENDATION in line:
                first = time.monotonic() - start
    if process.returncode:
        raise DelrecError(f"quickstart ended with {process.returncode}", "run it by itself")
    export = json.loads((runs / Path(recipe).stem / "export" / "done.json").read_text(encoding="utf-8"))["seconds"]
    return {
        "export_seconds": export,
        "first_recommendation_seconds": round(first, 1),
        "minutes": round((time.monotonic() - start) / 60, 2),
    }


def _latency(bundle: Path, environment: dict[str, str]) -> list[dict[str, Any]]:
    """The rows of ``delrec-lite bench`` over all quantisations of a bundle."""
    quants = ",".join(model.quant for model in Bundle.open(bundle).models)
    workloads = [word for name in WORKLOADS for word in ("-w", name)]
    output = _run(
        ["-m", "delrec_lite", "bench", str(bundle), "--quant", quants, *workloads, "--json", "-q"], environment
    )
    rows: list[dict[str, Any]] = json.loads(output)["results"]
    return rows


def parser() -> argparse.ArgumentParser:
    """Recipe, bundle and what is measured."""
    options = script_parser("machines", __doc__)
    add_recipe(options)
    options.add_argument("--bundle", type=Path, help="timed with all its quantisations; default: that of the demo")
    options.add_argument("--settings", default=",".join(SETTINGS), help="separated by commas")
    options.add_argument("--llama-cpp", type=Path, help="folder with a package llama_cpp built without AVX512")
    options.add_argument("--steps", type=int, default=3, help="timed training steps")
    options.add_argument("--no-demo", action="store_true", help="leave out `quickstart`, about 10 minutes a setting")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the report."""
    options = parser().parse_args(arguments)
    report = measure(
        options.recipe,
        options.runs,
        options.bundle,
        options.settings.split(","),
        options.llama_cpp,
        options.steps,
        not options.no_demo,
    )
    write_json(report, options.out)


if __name__ == "__main__":
    main()
