"""One pass with the real model and data: SmolLM2 and MovieLens-100K, two steps of each stage, export, recommend."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from delrec_lite.config import parse
from delrec_lite.console import QUIET
from delrec_lite.pipeline.bundle import write_bundle
from delrec_lite.pipeline.run import Run
from delrec_lite.training.adapters import ADAPTER

PROGRAM = Path(sys.executable).parent / "delrec-lite"

# Two steps of each stage; the teacher needs one epoch.
RECIPE = """
name: real
model: {max_history: 20}
teacher: {settings: {epochs: 1, hidden: 32}}
distill: {epochs: 0.0013, tokens_per_step: 64, temporal_share: 0.5}
finetune: {epochs: 0.0013, tokens_per_step: 64, teacher_weight: 0.3}
export: {quant: q8_0}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = Run(parse(RECIPE, "real"), tmp_path_factory.mktemp("runs"), QUIET)
    run.export()
    return run


@pytest.mark.real
def test_the_data_is_movielens(run):
    facts = run.prepare().result
    assert (facts["users"], facts["items"], facts["interactions"]) == (943, 1349, 99287)
    assert "The Matrix" not in run.dataset.catalog.titles[0]
    assert "Toy Story (1995)" in run.dataset.catalog.titles
    assert run.candidates["test"].items.shape == (943, 15)


@pytest.mark.real
def test_both_stages_trained_two_steps(run):
    assert run.distill().result["steps"] == 2
    assert run.finetune().result["steps"] == 2
    lines = (run.finetune().folder / "metrics.jsonl").read_text().splitlines()
    assert all(0 < json.loads(line)["next_item"] < 20 for line in lines)
    assert (run.finetune().folder / ADAPTER / "adapter_model.safetensors").is_file()


@pytest.mark.real
def test_the_bundle_scores_as_training_precision_does(run):
    """F16 against torch in float32 over 50 users: cosine of scores, and the same first ten."""
    import numpy as np

    from delrec_lite.llm.forward import score_all
    from delrec_lite.runtime.recommender import Recommender

    target = run.folder / "f16.delrec"
    write_bundle(run, target, ["f16"])
    built = run.models.trained()
    model, prompts = built.model, built.prompts
    model.lm.float()
    histories = run.dataset.test().histories[:50]
    trained = score_all(model, prompts, histories, 20)
    with Recommender.load(target, threads=1) as recommender:
        served = recommender.scores(histories)
    a, b = (s - s.mean(1, keepdims=True) for s in (trained, served))
    cosine = (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))
    assert cosine.min() > 0.999
    for user, (x, y) in enumerate(zip(np.argsort(-trained, 1)[:, :10], np.argsort(-served, 1)[:, :10], strict=True)):
        # The same first ten, except items that tie with the tenth in half precision.
        level = 0.01 * trained[user].std()
        for item in np.setxor1d(x, y):
            assert abs(trained[user, item] - trained[user, x[-1]]) < level


@pytest.mark.real
def test_recommend_prints_titles(run):
    arguments = ["--history", "Toy Story (1995)", "--history", "star wars", "-k", "10", "--json"]
    process = subprocess.run(
        [PROGRAM, "recommend", run.bundle, *arguments], capture_output=True, text=True, env=os.environ, check=False
    )
    assert process.returncode == 0, process.stderr
    answer = json.loads(process.stdout)
    assert len(answer["items"]) == 10
    assert answer["matched"][1]["title"] == "Star Wars (1977)"
    assert not {"Toy Story (1995)", "Star Wars (1977)"} & {item["title"] for item in answer["items"]}
