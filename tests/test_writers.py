"""No command removes or changes a file that it did not make: every verb, every path option, folders of a stranger."""

import itertools
import shutil
from importlib import import_module

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delrec_lite.cli import app as cli
from delrec_lite.config import Recipe
from delrec_lite.console import QUIET
from delrec_lite.data.store import load_dataset
from delrec_lite.errors import DelrecError, StorageError, UsageError
from delrec_lite.pipeline.folder import RECIPE, write_recipe
from delrec_lite.pipeline.run import Run
from delrec_lite.pipeline.stage import run_stage
from delrec_lite.runtime.additions import add_items
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.server.feedback.limit import Limit
from delrec_lite.server.feedback.log import FeedbackLog
from tests.bundles import tiny_bundle as serving_bundle
from tests.command import call
from tests.strangers import LOOKALIKES, snapshot, write_strangers

OK = 0
NAMES = st.lists(st.sampled_from(sorted(LOOKALIKES)), max_size=4, unique=True)
# Where an option points: the strangers' folder, a file or a folder in it, the folder above it, links to these.
PLACES = ("folder", "file", "inner", "above", "link", "link to file", "lookalike")


def place(root, kind):
    """The path that an option is given, for a kind of ``PLACES``."""
    theirs = root / "theirs"
    links = {"link": theirs, "link to file": theirs / "thesis.txt"}
    if kind in links:
        link = root / "links" / kind
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(links[kind])
        return link
    lookalike = next((path for path in theirs.iterdir() if path.name in LOOKALIKES), theirs / "thesis.txt")
    inner = theirs / "inner" if (theirs / "inner").is_dir() else theirs
    return {"folder": theirs, "file": theirs / "thesis.txt", "inner": inner, "above": root, "lookalike": lookalike}[
        kind
    ]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """What commands read: a bundle, a data set, a log, items, a recipe named as the strangers' folder."""
    folder = tmp_path_factory.mktemp("inputs")
    serving_bundle(folder)
    rows = "".join(f"u{user},i{(user + n) % 9},{n}\n" for user in range(10) for n in range(5))
    (folder / "log.csv").write_text("user_id,item_id,timestamp\n" + rows)
    (folder / "items.csv").write_text("item_id,title\n" + "".join(f"i{n},Lamp {n}\n" for n in range(9)))
    (folder / "new.csv").write_text("item_id,title\nn1,New\n")
    call("prepare", "shop", *own_log(folder), "--out", folder / "shop", "-q")
    FeedbackLog(feedback_log(folder), Limit.parse("1GB")).close()
    (folder / "run").mkdir()
    write_recipe(folder / "run", Recipe(name="run"))
    (folder / "theirs.yaml").write_text(f"name: theirs\ndata: {{folder: {folder / 'shop'}}}\n")
    return folder


def feedback_log(folder):
    """Beside the inputs, because SQLite writes beside a log while it is read."""
    return folder.with_name(f"{folder.name}-feedback.sqlite")


def own_log(folder):
    return ("--interactions", folder / "log.csv", "--items", folder / "items.csv", "--k-core", 1, "--candidates", 3)


def commands(inputs, root, target):
    """Calls of every verb that writes to a path of the user, each option once."""
    bundle, recipe, shop = inputs / "tiny.delrec", inputs / "theirs.yaml", inputs / "shop"
    own = ("catalog", "add", bundle, inputs / "new.csv", "--out", target)
    yield own
    yield ("catalog", "add", target, inputs / "new.csv")
    yield ("catalog", "columns", bundle, inputs / "new.csv", "--item-columns", "title", "--out", target)
    yield ("score", bundle, inputs / "log.csv", "--out", target, "--on-bad-row", "drop", "--workers", 1)
    yield ("feedback", "report", feedback_log(inputs), "--plot", target)
    yield ("prepare", "shop", *own_log(inputs), "--out", target)
    yield ("init", "shop", "--data", shop, "--out", target)
    yield ("report", target)
    yield ("report", recipe, "--runs", root)
    yield ("report", inputs / "run", "--out", target)
    yield ("bench", bundle, "-w", "load", "-r", 1, "--threads", 1, "--out", target)
    yield ("export", recipe, "--runs", root / "runs", "--out", target)
    yield ("export", recipe, "--runs", root / "runs", "--out", target, "--compare", "q8_0")
    for verb in ("train", "export", "eval", "quickstart", "ablate"):
        yield (verb, recipe, "--runs", root)  # the run is ROOT/theirs
    yield ("update", recipe, "--runs", root, "--interactions", inputs / "log.csv")
    yield ("train", recipe, "--runs", root, "--set", "finetune.seed=1,2")
    yield ("tune", recipe, "--runs", root, "--trials", 1)
    for verb in ("train", "quickstart"):
        yield (verb, recipe, "--runs", root, "--fresh")


def test_every_verb_with_a_path_to_write_is_among_those_that_are_tried(inputs, tmp_path):
    tried = {
        words[:2] if words[0] in {"catalog", "feedback"} else words[:1]
        for words in commands(inputs, tmp_path, tmp_path)
    }
    options = {"--out", "--runs", "--plot"}
    for name, command in typer.main.get_command(cli.app).commands.items():
        for sub, inner in (getattr(command, "commands", None) or {"": command}).items():
            writes = options & {option for parameter in inner.params for option in parameter.opts}
            assert not writes or ((name, sub) if sub else (name,)) in tried


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_of_a_stranger_changes(inputs, tmp_path_factory, data):
    root = tmp_path_factory.mktemp("root")
    write_strangers(root / "theirs", data.draw(NAMES), data.draw(NAMES))
    for name in ("theirs-ablation", "theirs-sweep", "theirs-tune-student"):
        shutil.copytree(root / "theirs", root / name)
    target = place(root, data.draw(st.sampled_from(PLACES)))
    calls = list(commands(inputs, root, target))
    words = calls[data.draw(st.integers(0, len(calls) - 1))]
    before, read = snapshot(root), snapshot(inputs)
    code = call(*words)
    assert code not in {OK, DelrecError.exit_code}, words
    after = snapshot(root)
    after.pop(".theirs.lock", None)  # a run's lock stays
    assert after == before, words
    assert snapshot(inputs) == read, words
    shutil.rmtree(root)


SCRIPTS_THAT_REPORT = (
    "busy",
    "catalogue",
    "cold_items",
    "explain",
    "install",
    "load",
    "machines",
    "new_items",
    "preparing",
    "pruning",
    "teachers",
    "training_memory",
    "updating",
)


@pytest.mark.parametrize("name", SCRIPTS_THAT_REPORT)
def test_no_script_writes_over_a_file_of_a_stranger(tmp_path, name):
    write_strangers(tmp_path, ["manifest.json"])
    before = snapshot(tmp_path)
    for target in ("thesis.txt", "manifest.json", "."):
        with pytest.raises(StorageError):
            import_module(f"delrec_lite.bench.{name}").parser().parse_args(["--out", str(tmp_path / target)])
    assert snapshot(tmp_path) == before


def test_what_is_packed_for_shipping_replaces_nothing_of_a_stranger(tmp_path):
    from delrec_lite.files import writing
    from delrec_lite.pipeline.pack import _packed_files

    write_strangers(tmp_path / "theirs", ["reference.json"])
    before = snapshot(tmp_path)
    with pytest.raises(StorageError), writing(tmp_path / "theirs", "folder of trained weights", _packed_files):
        pass
    assert snapshot(tmp_path) == before


def test_an_input_is_never_its_own_output(inputs, tmp_path):
    for name in ("log.csv", "items.csv"):
        shutil.copy(inputs / name, tmp_path)
    bundle = shutil.copytree(inputs / "tiny.delrec", tmp_path / "sub" / "b.delrec")
    before = snapshot(tmp_path)
    outs = (tmp_path / "log.csv", tmp_path / "items.csv", tmp_path, tmp_path / "sub", bundle)
    for out in outs:
        assert call("prepare", "shop", *own_log(tmp_path), "--out", out) == StorageError.exit_code
    for out in (inputs / "new.csv", tmp_path / "sub", bundle / "catalog.json", bundle / "new.delrec"):
        assert call("catalog", "add", bundle, inputs / "new.csv", "--out", out) == StorageError.exit_code
    assert call("init", "shop", "--data", inputs / "shop", "--out", inputs / "theirs.yaml") == UsageError.exit_code
    assert snapshot(tmp_path) == before


def test_what_a_command_made_is_replaced_unless_something_else_lies_in_it(inputs, tmp_path):
    prepare = ("prepare", "shop", *own_log(inputs), "--out", tmp_path / "shop")
    assert [call(*prepare), call(*prepare, "--seed", 7)] == [OK, OK]
    assert load_dataset(tmp_path / "shop").name == "shop"
    (tmp_path / "shop" / "notes.md").write_text("mine")
    before = snapshot(tmp_path)
    assert call(*prepare) == StorageError.exit_code
    bundle = shutil.copytree(inputs / "tiny.delrec", tmp_path / "b.delrec")
    (bundle / "inner").mkdir()
    with pytest.raises(StorageError, match="holds inner, which is no part of the bundle"):
        add_items(bundle, {"n1": "New"})
    (bundle / "inner").rmdir()
    assert add_items(bundle, {"n1": "New"}).titles == ["New"]
    shutil.rmtree(bundle)
    assert snapshot(tmp_path) == before


def test_an_empty_folder_is_filled(inputs, tmp_path):
    (tmp_path / "shop").mkdir()
    assert call("prepare", "shop", *own_log(inputs), "--out", tmp_path / "shop") == OK
    assert load_dataset(tmp_path / "shop").name == "shop"


def test_a_link_stays_a_link_and_what_it_names_is_replaced(inputs, tmp_path):
    shutil.copytree(inputs / "tiny.delrec", tmp_path / "releases" / "v1")
    (tmp_path / "current").symlink_to("releases/v1")
    (tmp_path / "next").symlink_to("releases/v2")
    add_items(tmp_path / "current", {"n1": "New"})
    add_items(tmp_path / "current", {"n2": "Newer"}, tmp_path / "next")
    assert Bundle.open(tmp_path / "releases" / "v1").items.ids[-1] == "n1"
    assert Bundle.open(tmp_path / "next").items.ids[-2:] == ["n1", "n2"]
    assert (tmp_path / "current").is_symlink()
    assert (tmp_path / "next").is_symlink()
    assert sorted(path.name for path in tmp_path.rglob("*") if "v" in path.name or "." in path.name[:1]) == ["v1", "v2"]


def stage(folder):
    (folder / "metrics.jsonl").write_text("{}\n")
    (folder / "sasrec").mkdir()
    (folder / "sasrec" / "teacher.safetensors").write_text("weights")
    return {}


def test_a_fresh_run_removes_its_own_files_alone(tmp_path):
    run = Run(Recipe(name="r"), tmp_path, QUIET)
    run_stage(run.folder / "teacher", "key", stage)
    (run.folder / "table.md").write_text("table")
    (run.folder / "notes.txt").write_text("mine")
    (run.folder / "teacher" / "ranks of my own.csv").write_text("mine")
    shutil.copytree(tmp_path / "r" / "teacher", tmp_path / "r" / "backup")
    (run.folder / "backup" / "key.json").unlink()
    (run.folder / "backup" / "done.json").unlink()
    backup = snapshot(run.folder / "backup")
    Run(Recipe(name="r"), tmp_path, QUIET, fresh=True)
    assert snapshot(run.folder / "backup") == backup
    theirs = {"notes.txt", "teacher", "teacher/ranks of my own.csv", RECIPE, "backup"}
    assert {name for name in snapshot(run.folder) if not name.startswith("backup/")} == theirs


def test_a_stage_that_is_computed_again_leaves_the_files_of_others(tmp_path):
    folder = tmp_path / "teacher"
    run_stage(folder, "key", stage)
    (folder / "mine.csv").write_text("mine")
    run_stage(folder, "other key", lambda folder: {"before": sorted(path.name for path in folder.iterdir())})
    assert run_stage(folder, "other key", stage).result["before"] == ["key.json", "mine.csv"]


def test_a_recipe_of_the_user_does_not_make_a_folder_a_run(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "recipe.yaml").write_text("name: r  # tuned by hand\n")
    before = snapshot(tmp_path / "r")
    for fresh in (False, True):
        with pytest.raises(UsageError, match="not a run"):
            Run(Recipe(name="r"), tmp_path, QUIET, fresh=fresh)
    assert snapshot(tmp_path / "r") == before


def test_places_differ(tmp_path):
    write_strangers(tmp_path / "theirs", ["manifest.json"], ["notes.md"])
    places = [place(tmp_path, kind) for kind in PLACES]
    assert all(a != b for a, b in itertools.combinations(places, 2))
