"""From the files of a small shop to recommendations, by the commands of docs/own-data.md, on the tiny model."""

import json
import os
import pty
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from delrec_lite.config import Recipe, load_recipe
from delrec_lite.console import QUIET
from delrec_lite.data.candidates import SPLITS, sample_candidates
from delrec_lite.data.store import Settings, load_dataset, save_dataset
from delrec_lite.errors import ConfigError, OutOfMemoryError, UsageError
from delrec_lite.pipeline.memory import RecipeCheck
from delrec_lite.pipeline.rows import TRAINED, bundle_row
from delrec_lite.pipeline.run import Run
from delrec_lite.pipeline.start import DENSE, SPARSE, start_recipe
from delrec_lite.pipeline.table import evaluate
from delrec_lite.training.plan import plan
from tests.serving import PROGRAM, Served
from tests.tiny import candidates

COLOURS, THINGS = ("red", "blue", "green", "white", "black"), ("lamp", "chair", "table", "shelf", "mirror", "rug")


@pytest.fixture
def shop(tmp_path):
    """A folder with the files of a shop: users buy the articles in a fixed order, with some noise."""
    rng = np.random.default_rng(7)
    articles = [f"{colour} {thing}" for thing in THINGS for colour in COLOURS]
    rows, moment = [], 0
    for user in range(40):
        at = int(rng.integers(len(articles)))
        for _ in range(8):
            at, moment = (at + int(rng.integers(1, 3))) % len(articles), moment + 60
            rows.append(f"customer-{user},sku-{at},2024-01-{1 + moment // 86400:02}T00:{moment // 60 % 60:02}:00\n")
    (tmp_path / "log.csv").write_text("uid,sku,ts\n" + "".join(rows))
    (tmp_path / "items.csv").write_text(
        "sku,name\n" + "".join(f'sku-{n},"{a}, large"\n' for n, a in enumerate(articles))
    )
    (tmp_path / "new.csv").write_text('sku,name\nsku-900,"golden lamp, large"\n')
    return tmp_path


def program(folder, *arguments, code=0):
    process = subprocess.run(
        [PROGRAM, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "DELREC_OFFLINE": "1", "DELREC_CACHE": str(folder / "cache")},
    )
    assert process.returncode == code, process.stderr
    return process.stdout


COLUMNS = "user=uid,item=sku,time=ts,title=name"


def prepared(shop):
    files = ["--interactions", "log.csv", "--items", "items.csv", "--columns", COLUMNS, "--k-core", 2]
    return json.loads(program(shop, "prepare", "shop", *files, "--candidates", 5, "--json"))


def test_a_shop_s_files_become_a_bundle_that_answers(shop, tiny_base):
    assert prepared(shop)["users"] == 40
    started = json.loads(program(shop, "init", "shop", "--base", tiny_base, "--json"))
    assert started == {"path": "shop.yaml", "minutes": 1}
    recipe = yaml.safe_load((shop / "shop.yaml").read_text())
    recipe["model"]["item_text"] = "rows"  # the sentence encoder cannot be fetched here
    recipe["teacher"] = {"text": True, "settings": {"epochs": 1, "hidden": 8, "max_length": 8}}
    recipe["distill"] |= {"epochs": 0.3, "tokens_per_step": 100}
    recipe["finetune"] |= {"epochs": 0.3, "tokens_per_step": 100, "rank": 2, "valid_every": 0.0}
    recipe["export"] = {"quant": "f16", "score_correlation": 0.5}
    (shop / "shop.yaml").write_text(yaml.safe_dump(recipe))
    program(shop, "train", "shop.yaml", "-q")
    program(shop, "export", "shop.yaml", "-q")
    bundle = "runs/shop/shop.delrec"
    answer = json.loads(
        program(shop, "recommend", bundle, "--history", "Red lamp large", "--history", "id:sku-3", "--json")
    )
    assert len(answer["items"]) == 10
    with Served(shop, bundle=shop / bundle) as served:
        over_http = served.post({"history": ["Red lamp large", "id:sku-3"]})
        assert [item["title"] for item in over_http["items"]] == [item["title"] for item in answer["items"]]
        program(shop, "catalog", "add", bundle, "new.csv", "--columns", COLUMNS)
        served.process.send_signal(signal.SIGHUP)
        served.wait_for('"reload": "done"')
        body = {"history": ["id:sku-3"], "candidates": ["golden lamp, large", "red lamp, large"]}
        assert {item["id"] for item in served.post(body)["items"]} == {"sku-900", "sku-0"}
    ranking = program(
        shop, "recommend", bundle, "--history", "golden lamp large", "--candidates", "blue rug, large", "--json"
    )
    assert json.loads(ranking)["items"][0]["id"] == "sku-26"


def test_a_recipe_is_sized_to_its_data_and_never_overwritten(shop, monkeypatch):
    prepared(shop)
    monkeypatch.chdir(shop)
    out = shop / "recipe.yaml"
    started = start_recipe("shop", Path("data/shop"), "item", "", out)
    assert load_recipe(str(out)) == started.recipe
    few = load_recipe("beauty")  # the shop has 11 interactions an item
    assert (started.recipe.finetune, started.recipe.model, started.recipe.teacher) == (
        few.finetune,
        few.model,
        few.teacher,
    )
    monkeypatch.setattr("delrec_lite.pipeline.start.TOKENS_PER_SECOND", {DENSE: 1.0, SPARSE: 0.1})
    larger = start_recipe("shop", Path("data/shop"), "item", "", shop / "larger.yaml")
    assert larger.recipe.finetune.epochs == pytest.approx(3600 * 0.1 / 320, abs=0.01)
    with pytest.raises(UsageError, match="exists"):
        start_recipe("shop", Path("data/shop"), "item", "", out)


def test_items_with_many_interactions_get_the_recipe_of_dense_data(shop, monkeypatch, tiny_base):
    prepared(shop)
    monkeypatch.chdir(shop)
    monkeypatch.setattr("delrec_lite.pipeline.start.DENSE_FROM", 10)
    many = load_recipe("ml-100k-cpu")
    started = start_recipe("shop", Path("data/shop"), "item", "", shop / "dense.yaml").recipe
    assert (started.finetune, started.model) == (many.finetune, many.model)
    monkeypatch.setattr("delrec_lite.softmax.choice.LARGE", 10)  # then the softmax is sampled, which keeps no mean
    assert start_recipe("shop", Path("data/shop"), "item", "", shop / "large.yaml").recipe.finetune.average == 0
    own_base = start_recipe("shop", Path("data/shop"), "item", str(tiny_base), shop / "base.yaml").recipe
    assert own_base.model.layers is None  # how many suffice is known of the default base alone


def test_a_recipe_for_a_card_holds_what_the_plan_finds(shop, monkeypatch):
    monkeypatch.setattr("delrec_lite.pipeline.start.DENSE_FROM", 1)  # the plan is of the dense recipe
    prepared(shop)
    monkeypatch.chdir(shop)
    base = "Qwen/Qwen2.5-7B-Instruct"
    started = start_recipe("card", Path("data/shop"), "item", base, shop / "card.yaml", gpu="12GB")
    planned = plan(base, "12GB", 50, len(load_dataset(Path("data/shop")).catalog), 800)["recommended"]
    for key in ("model.precision", "finetune.checkpointing", "finetune.gradient_accumulation_steps"):
        section, name = key.split(".")
        assert getattr(getattr(started.recipe, section), name) == planned[key], key
    model = started.recipe.model
    assert (model.precision, model.device, model.base) == ("nf4", "cuda", base)
    RecipeCheck.of(started.recipe, "12GB", 0, ()).run()
    assert started.minutes >= 1
    assert "no card was measured" in started.summary
    smaller = start_recipe("card", Path("data/shop"), "item", base, shop / "smaller.yaml", gpu="8GB").recipe
    RecipeCheck.of(smaller, "8GB", 0, ()).run()
    with pytest.raises(OutOfMemoryError, match="of card needs"):
        RecipeCheck.of(started.recipe, "8GB", 0, ()).run()
    with pytest.raises(OutOfMemoryError, match="no setting of Qwen/Qwen2.5-7B-Instruct fits a card of 4GB"):
        start_recipe("card", Path("data/shop"), "item", base, shop / "none.yaml", gpu="4GB")
    assert not (shop / "none.yaml").exists()


def test_a_recipe_for_a_data_set_that_can_be_pulled(shop, monkeypatch):
    prepared(shop)
    monkeypatch.chdir(shop)
    monkeypatch.setattr("delrec_lite.pipeline.start._counted", lambda name, _: load_dataset(Path("data/shop")))
    started = start_recipe("films", Path("ml-100k"), "movie", "", shop / "films.yaml", gpu="12GB")
    assert (started.recipe.data.name, started.recipe.data.folder) == ("ml-100k", None)
    assert started.recipe.model.precision == "bf16"
    assert load_recipe(str(started.path)) == started.recipe


def test_init_asks_for_missing_arguments(shop):
    """At a terminal; an empty answer takes the proposed value."""
    prepared(shop)
    master, slave = pty.openpty()
    command = [PROGRAM, "init", "--json"]
    process = subprocess.Popen(command, cwd=shop, stdin=slave, stderr=slave, stdout=subprocess.PIPE, text=True)
    os.close(slave)
    output = ""
    for question, reply in (("Name", "shop"), ("Prepared data set", ""), ("What is an item", "game")):
        while question not in output:
            output += os.read(master, 1024).decode()
        os.write(master, f"{reply}\n".encode())
    result, _ = process.communicate(timeout=60)
    os.close(master)
    assert process.returncode == 0
    assert json.loads(result)["path"] == "shop.yaml"
    recipe = load_recipe(str(shop / "shop.yaml"))
    assert (recipe.name, recipe.data.folder, recipe.data.domain) == ("shop", "data/shop", "game")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "has no name"),
        (["shop", "--data", "nowhere"], "nowhere"),
        (["shop", "--domain", "fish"], "data.domain"),
        (["a/b", "--data", "data/shop"], "name"),
    ],
)
def test_init_refuses_wrong_arguments_with_a_message(shop, arguments, message):
    prepared(shop)
    process = subprocess.run(
        [PROGRAM, "init", *arguments], cwd=shop, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert process.returncode not in (0, 1)
    assert message in process.stderr
    assert "Traceback" not in process.stderr
    assert not list(shop.glob("*.yaml"))


# --- A recipe and its prepared data set. ---


def resample(folder, m, seed=3):
    """Write other candidate sets into the data set, as a second ``prepare`` does."""
    data = load_dataset(folder)
    sets = {split: sample_candidates(data, split, m, seed) for split in SPLITS}
    save_dataset(data, sets, Settings(2, m, seed), folder)


def test_new_candidate_sets_rank_every_row_again(tiny_run, tmp_path):
    first = {row.model: row for row in evaluate(tiny_run()) if row.protocol == "sampled"}
    resample(tmp_path / "ring", 9)
    run = tiny_run()
    rows = {row.model: row for row in evaluate(run) if row.protocol == "sampled"}
    assert rows.keys() == first.keys() == {"popularity", "SASRec", TRAINED, bundle_row(run)}
    for name, row in rows.items():
        assert row.metrics["HR@10"] == 1.0 > row.metrics["HR@1"], name  # nine candidates are all in the first ten
        assert row.metrics["HR@5"] < 1.0 == first[name].metrics["HR@5"], (
            name
        )  # five candidates were all in the first five
    computed = {name: stage.computed for name, stage in run.stages.items()}
    assert computed == {"prepare": True, "teacher": False, "distill": True, "finetune": True, "export": True}
    assert run.distill().result["candidates"] == 9
    assert len(json.loads((run.bundle / "golden.json").read_text())["candidates"][0]) == 9


def test_new_candidate_sets_of_the_test_split_train_nothing_again(tiny_run, tmp_path):
    tiny_run().export()
    data = load_dataset(tmp_path / "ring")
    sets = {"valid": candidates("valid"), "test": sample_candidates(data, "test", 5, 9)}
    save_dataset(data, sets, Settings(2, 5, 3), tmp_path / "ring")
    run = tiny_run()
    run.export()
    computed = {name: stage.computed for name, stage in run.stages.items()}
    assert computed == {"prepare": True, "teacher": False, "distill": False, "finetune": False, "export": True}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("candidates", 40, "prepared with 5"),
        ("k_core", 5, "prepared with 2"),
        ("seed", 2024, "prepared with 3"),
        ("split", "chronological", "prepared with leave-one-out"),
        ("name", "ml-100k", "prepared with ring"),
    ],
)
def test_a_recipe_that_contradicts_its_data_set_is_refused_by_key(tiny_run, tmp_path, key, value, message):
    recipe = Recipe.model_validate({"name": "r", "data": {"folder": str(tmp_path / "ring"), key: value}})
    with pytest.raises(ConfigError, match=message) as caught:
        Run(recipe, tmp_path / "runs", QUIET)
    assert f"data.{key} is {value}" in caught.value.message
    assert str(tmp_path / "ring") in caught.value.message
    assert not (tmp_path / "runs").exists()


def test_the_written_recipe_has_the_values_of_the_data_set(tiny_run):
    run = tiny_run()
    written = load_recipe(str(run.folder / "recipe.yaml"))
    assert written == run.recipe
    data = written.data
    assert (data.name, data.k_core, data.candidates, data.seed, data.split) == ("ring", 2, 5, 3, "leave-one-out")
    run.export()
    manifest = json.loads((run.bundle / "manifest.json").read_text())
    assert manifest["provenance"]["recipe"]["data"] == data.model_dump(mode="json")
    del run
    reread = Run(written, Path(data.folder).parent / "again", QUIET)
    assert reread.recipe == written
