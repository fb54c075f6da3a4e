"""Ablations: each variant trains another model, all on the same users, and an interrupted call resumes."""

import json
from unittest.mock import MagicMock

import numpy as np
import pytest

from delrec_lite.console import QUIET
from delrec_lite.errors import ConfigError, UsageError
from delrec_lite.files import sha256_of
from delrec_lite.pipeline.ablate import FULL_METHOD, VARIANTS, _possible, ablate
from tests.tiny import write_base


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory):
    """With three layers: a deep prompt has vectors before the third."""
    return write_base(tmp_path_factory.mktemp("three") / "base", layers=3)


def prefix(tiny_run, pattern):
    return tiny_run(runs=pattern, model={"pattern_prompt": pattern}).models.untrained().prompts


def test_the_pattern_prompt_is_soft_tokens_words_or_absent(tiny_run):
    soft, words, none = (prefix(tiny_run, pattern) for pattern in ("soft", "words", "none"))
    assert set(soft.vocabulary.soft_ids) <= set(soft.next_prefix)
    for prompts in (words, none):
        assert not set(prompts.vocabulary.soft_ids) & set(prompts.next_prefix)
    assert len(none.next_prefix) < len(soft.next_prefix) < len(words.next_prefix)
    assert none.text["next"] == words.text["next"]
    assert "order matters" in words.text["instruction"]


def test_every_variant_is_trained_and_in_the_table(tiny_run, tmp_path):
    learning = {"epochs": 1, "lr": 1e-3, "item_lr": 1e-2, "teacher_weight": 0.5}
    recipe = tiny_run.recipe(distill={"epochs": 3, "lr": 0.3}, finetune=learning)
    rows = ablate(recipe, tmp_path, QUIET, seeds=(1,)).rows
    assert [row.variant for row in rows if row.protocol == "sampled"] == list(VARIANTS)
    report = json.loads((tmp_path / "r-ablation" / "ablation.json").read_text())
    assert all(len(of_seeds[0]["full"]) == 24 for of_seeds in report["ranks"].values())
    learned = [sha256_of(path) for path in (tmp_path / "r-ablation").glob("*/finetune/items.safetensors")]
    assert len(set(learned)) == len(learned) == len(VARIANTS)
    table = (tmp_path / "r-ablation" / "ablation.md").read_text()
    assert all(name in table for name in VARIANTS)
    assert "**5 candidates (1 positive, 4 unseen negatives)**, 24 test users, means over 1 seeds" in table
    assert report["setting"] == {"candidates": 5, "by_time": False, "repeats": False}
    assert all(row.difference or row.variant == FULL_METHOD for row in rows)


def test_seeds_are_averaged_and_finished_runs_are_reused(tiny_run, tmp_path, monkeypatch):
    chosen = ["without stage 2"]
    single_seed = ablate(tiny_run.recipe(), tmp_path, QUIET, chosen, (1,)).rows
    monkeypatch.setattr("delrec_lite.teachers.fit.fit", None)  # shared: never fitted again
    two_seeds = ablate(tiny_run.recipe(), tmp_path, QUIET, chosen, (1, 2)).rows
    expected = [(name, p) for name in (FULL_METHOD, *chosen) for p in ("sampled", "expected_sampled", "full")]
    assert [(row.variant, row.protocol) for row in two_seeds] == expected
    for before, after in zip(single_seed, two_seeds, strict=True):
        assert after.by_seed["MRR"][0] == before.by_seed["MRR"][0]
        assert after.metrics["MRR"] == pytest.approx(np.mean(after.by_seed["MRR"]), abs=1e-4)
    assert two_seeds[0].by_seed["MRR"][0] != two_seeds[0].by_seed["MRR"][1]


def test_wrong_variants_and_seeds_are_refused(tiny_run, tmp_path):
    with pytest.raises(UsageError, match="without soul"):
        ablate(tiny_run.recipe(), tmp_path, QUIET, ["without soul"])
    with pytest.raises(UsageError, match="no seed"):
        ablate(tiny_run.recipe(), tmp_path, QUIET, seeds=())


def test_variants_that_a_recipe_contradicts_are_told_before_anything_is_trained(tiny_run, tmp_path, monkeypatch):
    taught = tiny_run.recipe(
        model={"layers": 2}, finetune={"teacher_weight": 0.5, "teacher_recipe": "other.yaml", "adapter": "full"}
    )
    name = "soft vectors between the layers too"
    with pytest.raises(ConfigError, match=f"the variant '{name}': model: soft_layers all needs more than 2 layers"):
        ablate(taught, tmp_path, QUIET, [name])
    assert not list(tmp_path.glob("r-ablation*"))
    said = []
    possible = _possible(taught, list(VARIANTS), MagicMock(say=said.append))
    assert [name for name in VARIANTS if name not in possible] == ["LLM trained in stage 1 too", name]
    assert len(said) == 2
