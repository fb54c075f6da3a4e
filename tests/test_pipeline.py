"""A stage is computed once, resumed after an interruption, and computed again only when its inputs changed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from delrec_lite.config import (
    DistillSection,
    FinetuneSection,
    ModelSection,
    Recipe,
    load_recipe,
    parse,
    shipped_recipes,
)
from delrec_lite.console import QUIET
from delrec_lite.errors import ConfigError, UsageError
from delrec_lite.hub.cache import Pulled
from delrec_lite.pipeline.run import Run
from delrec_lite.pipeline.stage import key_of, run_stage
from delrec_lite.pipeline.table import evaluate

ROOT = Path(__file__).parents[1]


def test_a_stage_is_computed_once(tmp_path):
    calls = []

    def make(folder):
        calls.append(folder)
        (folder / "file").write_text("x")
        return {"n": len(calls)}

    first = run_stage(tmp_path / "s", "key", make)
    repeated = run_stage(tmp_path / "s", "key", make)
    assert (first.computed, repeated.computed, len(calls)) == (True, False, 1)
    assert repeated.result == {"n": 1}
    other = run_stage(tmp_path / "s", "other key", make)
    assert other.computed
    assert other.result == {"n": 2}


def test_an_interrupted_stage_keeps_its_files_for_the_same_key_only(tmp_path):
    def cut(folder):
        (folder / "checkpoint").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path / "s", "key", cut)
    existed = []
    run_stage(tmp_path / "s", "key", lambda folder: existed.append((folder / "checkpoint").exists()) or {})
    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path / "s", "second key", cut)
    run_stage(tmp_path / "s", "third key", lambda folder: existed.append((folder / "checkpoint").exists()) or {})
    assert existed == [True, False]


@pytest.fixture
def computed_stages(tiny_base, tmp_path, monkeypatch):
    """Names of the stages that a changed recipe computes; a note replaces the work of every stage."""
    notes = []

    def fake(self, name, key, make):
        data = self.recipe.data
        prepared = {
            "items": 1000,
            "fingerprint": f"{data.k_core} {data.split}",
            "candidates": {split: f"{split} {data.candidates} {data.seed}" for split in ("valid", "test")},
        }

        def note(folder):
            notes.append(name)
            return prepared if name == "prepare" else {}

        from delrec_lite.pipeline.stage import run_stage as real

        if name not in self.stages:
            self.stages[name] = real(self.folder / name, key, note)
        return self.stages[name]

    pulled = Pulled("tiny", tiny_base, "here", True, {"a": "b"}, "none", 1)
    monkeypatch.setattr(Run, "_stage", fake)
    monkeypatch.setattr(Run, "pulled", {"model": pulled, "data": pulled})

    def export_stages(**changes):
        notes.clear()
        base = Recipe(name="r").model_dump()
        base["model"]["precision"] = "bf16"
        for section, values in changes.items():
            base[section] |= values
        run = Run(Recipe.model_validate(base), tmp_path, QUIET)
        run.bundle.mkdir(exist_ok=True)
        (run.bundle / "manifest.json").write_text("{}")
        run.export()
        return list(notes)

    return export_stages


def test_a_changed_recipe_computes_exactly_the_affected_stages(computed_stages):
    assert computed_stages() == ["prepare", "teacher", "distill", "finetune", "export"]
    assert computed_stages() == []
    assert computed_stages(export={"quant": "q4_0"}) == ["export"]
    assert computed_stages(export={"quant": "q4_0"}, finetune={"epochs": 9}) == ["finetune", "export"]
    assert computed_stages(distill={"lr": 0.5}, export={"quant": "q4_0"}) == ["distill", "finetune", "export"]
    assert computed_stages(distill={"lr": 0.5}, data={"k_core": 6}) == [
        "prepare",
        "teacher",
        "distill",
        "finetune",
        "export",
    ]


def test_other_candidate_sets_compute_the_stages_that_use_them(computed_stages):
    computed_stages()
    assert computed_stages(data={"seed": 1}) == ["prepare", "distill", "finetune", "export"]
    assert computed_stages(data={"seed": 1, "candidates": 40}) == ["prepare", "distill", "finetune", "export"]


def test_recipes_of_the_package_are_read_and_written_the_same(tmp_path):
    assert "ml-100k-cpu" in shipped_recipes()
    for name in shipped_recipes():
        recipe = load_recipe(name)
        assert recipe.name == name
        assert parse(json.dumps(recipe.dump()), "x") == recipe


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: x\nfoo: 1", "unknown key 'foo'"),
        ("name: x\nmodel: {soft_tokens: 0}", "model.soft_tokens"),
        ("name: x\nfinetune: {lr: fast}", "finetune.lr"),
        ("name: ../x", "name"),
        ("[1, 2]", "no recipe"),
        ("name: [", "not valid YAML"),
        ("name: x\ncreated: 2024-13-45", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
        ("name: ..", "file.yaml: name"),
        ("name: .", "file.yaml: name"),
        ("name: ../elsewhere", "file.yaml: name"),
        ("name: !!python/object/apply:os.system [id]", "not valid YAML"),
        ("name: x\nteacher: {kind: bert}", "teacher.kind"),
        ("name: x\nteacher: {kind: [caser, caser]}", "twice"),
        ("name: x\nteacher: {kind: []}", "teacher.kind"),
        ("name: x\nteacher: {kind: [caser, sasrec], settings: {hidden: 8}}", "'hidden' is not such a mapping"),
        (
            "name: x\nteacher: {kind: [caser, sasrec], settings: {gru4rec: {hidden: 8}}}",
            "'gru4rec' is not such a mapping",
        ),
        ("name: x\nteacher: {settings: {sasrec: {hidden: 8}}}", "'sasrec' is not a number"),
    ],
)
def test_a_wrong_recipe_is_refused_by_key(text, words):
    with pytest.raises(ConfigError, match=words):
        parse(text, "file.yaml")


def test_a_few_lines_that_stand_for_gigabytes_are_refused_in_one():
    levels = [f"k{n}: &k{n} [{', '.join([f'*k{n - 1}'] * 10)}]" for n in range(1, 10)]
    with pytest.raises(ConfigError, match="unknown key|name") as raised:
        parse("\n".join(["k0: &k0 [x, x]", *levels, "name: *k9"]), "file.yaml")
    assert len(raised.value.message + raised.value.hint) < 500


def test_keys_depend_on_every_part():
    assert key_of(1, {"a": 2, "b": 3}) == key_of(1, {"b": 3, "a": 2})
    assert key_of(1, {"a": 2}) != key_of(1, {"a": 3})


def test_a_new_key_at_its_default_trains_nothing_again():
    """A key that joins these is named in its section's ``default_compatible``, or every finished run starts again."""
    assert sorted(DistillSection().cache_key_fields()) == [
        *("epochs", "lr", "pattern_loss", "seed", "temperature", "temporal_share", "tokens_per_step", "train_llm"),
        *("warmup", "weighting"),
    ]
    assert sorted(FinetuneSection().cache_key_fields()) == [
        *("adapter", "alpha", "average", "dropout", "epochs", "item_lr", "lr", "modules", "optimiser", "patience"),
        *("rank", "seed", "teacher_until", "teacher_weight", "tokens_per_step", "train_soft", "valid_every", "warmup"),
    ]
    assert sorted(ModelSection().cache_key_fields()) == [
        *("base", "candidates_in_prompt", "history", "item_start", "max_history", "max_tokens", "pattern_prompt"),
        *("precision", "soft_start", "soft_tokens", "title_tokens", "verbalizer"),
    ]
    assert {"soft_layers", "weights"} <= ModelSection(soft_layers="all", weights="random").cache_key_fields().keys()


def test_a_folder_that_is_no_run_is_not_changed(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "thesis.txt").write_text("text")
    with pytest.raises(UsageError, match="not a run"):
        Run(Recipe(name="r"), tmp_path, QUIET, fresh=True)
    assert (tmp_path / "r" / "thesis.txt").read_text() == "text"


def test_a_run_is_locked_by_one_process_at_a_time(tmp_path):
    code = f"""
import time
from pathlib import Path
from delrec_lite.config import Recipe
from delrec_lite.console import QUIET
from delrec_lite.pipeline.run import Run
with Run(Recipe(name="r"), Path({str(tmp_path)!r}), QUIET).locked():
    print("locked", flush=True)
    time.sleep(600)
"""
    run = Run(Recipe(name="r"), tmp_path, QUIET)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT) as process:
        try:
            assert process.stdout.readline() == b"locked\n"
            for work in (run.prepare, lambda: evaluate(run), lambda: Run(Recipe(name="r"), tmp_path, QUIET)):
                with pytest.raises(UsageError, match="another process"):
                    work()
            Run(Recipe(name="other"), tmp_path, QUIET)
        finally:
            process.kill()
    with run.locked(), run.locked():  # a killed process leaves no lock behind
        pass


def test_two_runs_of_one_folder_take_turns_in_one_process(tiny_run):
    first, second = tiny_run(), tiny_run(teacher={"settings": {"epochs": 2, "hidden": 8, "max_length": 8}})
    first.teacher()
    assert tiny_run().teacher().computed is False
    epochs = 2
    assert second.teacher().computed
    assert second.teacher().folder == first.folder / "teacher"
    assert first.models.teachers()["sasrec"].config.epochs == 1, "not the teacher of the second run"
    assert second.models.teachers()["sasrec"].config.epochs == epochs
    assert yaml.safe_load((second.folder / "recipe.yaml").read_text())["teacher"]["settings"]["epochs"] == epochs


def test_a_failed_stage_unlocks_the_run(tiny_run, monkeypatch):
    run = tiny_run()
    with monkeypatch.context() as patched:
        patched.setattr("delrec_lite.pipeline.run.fit_teacher", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run.teacher()
    assert tiny_run().teacher().computed
