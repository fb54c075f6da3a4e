"""The words of prompts: four domains have their own, any other noun comes with a verb."""

import json
from pathlib import Path

import pytest
import yaml

from delrec_lite import Dataset
from delrec_lite.config import Recipe, load_recipe, parse
from delrec_lite.errors import ConfigError, DataError, UsageError
from delrec_lite.pipeline.prepared import with_dataset_settings
from delrec_lite.pipeline.start import start_recipe
from delrec_lite.prompts.domain import Domain, words_of
from tests.command import run
from tests.frames import interactions, items


@pytest.mark.parametrize(
    ("domain", "verb", "words"),
    [
        ("movie", None, Domain("movies", "watched")),
        ("movie", "rated", Domain("movies", "rated")),
        ("book", "read", Domain("books", "read")),
        ("dish", "ordered", Domain("dishes", "ordered")),
        ("library", "visited", Domain("libraries", "visited")),
        ("toy", "bought", Domain("toys", "bought")),
        ("series", "streamed", Domain("series", "streamed")),
        ("podcast episode", "heard", Domain("podcast episodes", "heard")),
        ("livre", "lu", Domain("livres", "lu")),
    ],
)
def test_words(domain, verb, words):
    assert words_of(domain, verb) == words
    assert Recipe(name="r", data={"domain": domain, "verb": verb}).data.words == words


@pytest.mark.parametrize(
    ("domain", "verb", "words"),
    [
        ("moive", None, "did you mean movie?"),
        ("book", None, "such as verb read"),
        ("", "read", "is no word"),
        ("book", "", "is no word"),
        ("a\nb", "read", "is no word"),
        ("{x}", "read", "is no word"),
        ("x" * 100, "read", "is no word"),
    ],
)
def test_a_noun_without_a_verb_and_what_is_no_word_are_refused(domain, verb, words):
    with pytest.raises(ConfigError) as raised:
        parse(json.dumps({"name": "r", "data": {"domain": domain, "verb": verb}}), "r.yaml")
    assert words in f"{raised.value.message} {raised.value.hint}"
    assert "data.domain" in raised.value.message or "data.verb" in raised.value.message


def test_the_words_are_in_the_prompts_and_in_the_keys(tiny_run):
    plain, books = tiny_run(), tiny_run(runs="books")
    assert plain.recipe.data.words_key == "movie", "as before there were other words"
    assert "verb" not in plain.recipe.data.cache_key_fields()
    books.recipe = books.recipe.model_copy(
        update={"data": books.recipe.data.model_copy(update={"domain": "book", "verb": "read"})}
    )
    assert books.recipe.data.words_key == ["book", "read"]
    built = [run.models.prompts(*_model(run), "words") for run in (plain, books)]
    assert built[0].next_prefix != built[1].next_prefix


def _model(run):
    from delrec_lite.llm.model import ItemLM

    base = run.models.base()
    return ItemLM(base, run.dataset.catalog.titles, 3, 0), base


def test_a_data_set_keeps_its_words_for_recipes_without(tmp_path):
    rows = "".join(f"u{user},i{(user + n) % 9},{n}\n" for user in range(10) for n in range(5))
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + rows)
    (tmp_path / "items.csv").write_text("item_id,title\n" + "".join(f"i{n},Book {n}\n" for n in range(9)))
    log = ("--interactions", "log.csv", "--items", "items.csv", "--k-core", 1, "--candidates", 3)
    for options in (("--verb", "read"), ("--domain", "bok")):
        assert run("prepare", "shop", *log, *options, cwd=tmp_path).returncode in (2, 3)
    assert not (tmp_path / "data").exists()
    done = run("prepare", "shop", *log, "--domain", "book", "--verb", "read", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "data" / "shop"
    about = json.loads((folder / "dataset.json").read_text())
    assert (about["domain"], about["verb"]) == ("book", "read")

    recipe = with_dataset_settings(Recipe(name="r", data={"folder": str(folder)}))
    assert recipe.data.words == Domain("books", "read")
    own = with_dataset_settings(Recipe(name="r", data={"folder": str(folder), "domain": "game"}))
    assert own.data.words == Domain("games", "played"), "a recipe's own words count"

    started = start_recipe("shop", folder, None, "", tmp_path / "shop.yaml")
    assert yaml.safe_load((tmp_path / "shop.yaml").read_text())["data"] == {
        "folder": str(folder),
        "domain": "book",
        "verb": "read",
    }
    assert started.recipe.data.words == Domain("books", "read")
    other = start_recipe("shop", folder, "dish", "", tmp_path / "dish.yaml", verb="ordered")
    assert other.recipe.data.words == Domain("dishes", "ordered")


def test_init_refuses_a_base_and_a_data_set_that_cannot_be(tmp_path):
    Dataset.from_frames(interactions(), items(), k_core=2, candidates=5, quiet=True).save(tmp_path / "data")
    for base, hint in (("gemma-3-270", "did you mean gemma-3-270m?"), ("ml-100k", "one of smollm2-135m-instruct")):
        with pytest.raises(UsageError, match=f"no base model '{base}'") as caught:
            start_recipe("shop", tmp_path / "data", None, base, tmp_path / "shop.yaml")
        assert hint in caught.value.hint
        assert "ml-100k" not in caught.value.hint
    with pytest.raises(DataError, match="no prepared data set at ml-100kk") as caught:
        start_recipe("shop", Path("ml-100kk"), None, "", tmp_path / "shop.yaml")
    assert "did you mean ml-100k?" in caught.value.hint
    assert not (tmp_path / "shop.yaml").exists()


def test_init_counts_minutes_for_the_base_and_its_layers(tmp_path, monkeypatch):
    from delrec_lite.pipeline import start

    monkeypatch.setattr(start, "base_folders", lambda: ())
    pattern = load_recipe("ml-100k-cpu").model_dump(mode="json", exclude_defaults=True)

    def slower(**model):
        return start._slower({**pattern, "model": {**pattern.get("model", {}), **model}}, start.DENSE, 1349)

    def of_the_llm(layers, **model):
        times, words = slower(layers=layers, **model)
        return (times - start.TEACHERS_SHARE) / (1 - start.TEACHERS_SHARE), words

    assert slower()[0] == 1.0
    assert "with smollm2-135m-instruct (6 layers" in slower()[1]
    (whole, words), (eight, of_eight) = of_the_llm(None), of_the_llm(8)
    assert words == "with smollm2-135m-instruct (30 layers, 135M parameters)"
    assert "8 layers" in of_eight
    # Measured: 18 minutes for two epochs of 30 layers on two cores, 5 minutes for one of 8 layers on one core.
    assert eight / whole == pytest.approx((5 / 2) / (18 / 2), rel=0.05)
    larger, words = of_the_llm(None, base="Qwen/Qwen2.5-0.5B-Instruct")
    assert "Qwen2.5-0.5B-Instruct (24 layers" in words
    assert 2.5 < larger / whole < 4.5
    assert slower(base="owner/unheard-of")[1].startswith("if owner/unheard-of, whose shape is not known")
