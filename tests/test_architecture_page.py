"""docs/architecture.md agrees with the code: its rooms, its arrows, and the functions that its data paths name."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

from delrec_lite.config import load_recipe
from delrec_lite.runtime.recommender import Recommender

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
LAYERS = next(contract for contract in CONTRACTS if contract["type"] == "layers")
PATHS = dict(re.findall(r"^### (.+?)\n(.*?)(?=^###|\Z)", PAGE, re.MULTILINE | re.DOTALL))
PLACE = re.compile(r"`([\w/]+\.py):([\w.]+)`")
PLACES = sorted(set(PLACE.findall(PAGE)))


def test_the_picture_has_the_layers_of_the_contract():
    drawing = re.search(r"```mermaid\n(.*?)```", PAGE, re.DOTALL)[1]
    layers = dict(re.findall(r'(L\d+)\["(.*?)"\]', drawing))
    arrows = re.findall(r"(L\d+)(?:\[.*?\])? --> (L\d+)", drawing)
    assert list(layers.values()) == LAYERS["layers"]
    assert arrows == list(zip(layers, list(layers)[1:], strict=False)), "each layer points to the next one"


def test_every_room_is_described():
    rooms = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    layered = [room for layer in LAYERS["layers"] for room in layer.split(" | ")]
    assert rooms == [*layered, *(name for name in LAYERS["exhaustive_ignores"] if name != "__main__")]


def test_what_serving_never_reaches_is_what_the_contract_forbids():
    sources, targets = re.search(r"((?:`\w+`, )*`\w+`) never reach ((?:`\w+`, )*`\w+`)\.", PAGE).groups()
    contract = next(contract for contract in CONTRACTS if contract["type"] == "forbidden")
    for named, modules in ((sources, contract["source_modules"]), (targets, contract["forbidden_modules"])):
        assert re.findall(r"\w+", named) == [module.rpartition(".")[2] for module in modules]


def test_a_path_is_a_list_of_at_most_eight_places():
    assert list(PATHS) == ["A history to scores", "A recipe to a training step", "A soft prompt to the GGUF"]
    for text in PATHS.values():
        places = re.findall(r"^\d+\. (.*)", text, re.MULTILINE)
        assert 3 <= len(places) <= 8
        assert all(PLACE.match(place) for place in places)


@pytest.mark.parametrize(("file", "name"), PLACES)
def test_a_named_function_exists(file, name):
    body = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
    for part in name.split("."):
        kinds = (ast.FunctionDef, ast.ClassDef)
        node = next((node for node in body if isinstance(node, kinds) and node.name == part), None)
        assert node is not None, f"{file} has no {name}"
        body = node.body


def test_a_run_goes_through_every_named_place(tiny_run):
    """A run of the tiny model, from its recipe to an answer of its bundle, calls every function that the page names."""
    called = set()

    def note(frame, event, _):
        if event == "call":
            called.add(frame.f_code)

    run = tiny_run(export={"quant": "q8_0", "retriever": False})
    sys.setprofile(note)
    try:
        load_recipe("ml-100k-cpu")
        run.export()
        with Recommender.load(run.bundle) as recommender:
            recommender.recommend(recommender.bundle.items.titles[:3])
    finally:
        sys.setprofile(None)
    classes = {("delrec_lite/training/context.py", "TrainingContext")}
    names = {(Path(code.co_filename).resolve(), code.co_qualname) for code in called}
    assert [place for place in PLACES if place not in classes and (ROOT / place[0], place[1]) not in names] == []
