"""Whatever the JSON files of a bundle hold, opening it gives an answer or one clear error."""

import json
import random

import numpy as np
import pytest

from delrec_lite.errors import DelrecError
from delrec_lite.files import sha256_of
from delrec_lite.runtime.explain import explain
from delrec_lite.runtime.golden import FILE, Golden, read_golden, write_golden
from delrec_lite.runtime.recommender import Recommender
from tests.bundles import COLUMNS, TITLES, tiny_bundle

FILES = ("manifest.json", "prompt.json", "catalog.json", "item-columns.json", FILE)
LEAVES = [None, True, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, 1e308, float("nan"), float("inf"), "", "x", "\x00", [], {}]
CHANGES = 150


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tiny = tiny_bundle(tmp_path_factory.mktemp("fuzz"), columns=COLUMNS)
    folder = tiny.bundle.folder
    histories = tuple(np.array([n, n + 1]) for n in range(3))
    golden = Golden(histories, np.array([5, 6, 7]), np.array([[5, 8], [6, 9], [7, 10]]))
    write_golden(folder, golden, tiny.scores([h.tolist() for h in histories]))
    rehash(folder)
    return folder


def rehash(folder):
    """Correct the sizes and hashes, so that only the content can be refused."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    if isinstance(manifest, dict) and isinstance(manifest.get("files"), dict):
        for name in FILES[1:]:
            if name in manifest["files"] or name == FILE:
                file = folder / name
                manifest["files"][name] = {"sha256": sha256_of(file), "bytes": file.stat().st_size}
    path.write_text(json.dumps(manifest))


def places(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def change(rng, content):
    """Replace, remove or double one value somewhere in a JSON document."""
    *parents, key = rng.choice([path for path in places(content) if path])
    inner = content
    for parent in parents:
        inner = inner[parent]
    kind = rng.random()
    if kind < 0.2:
        del inner[key]
    elif kind < 0.3 and isinstance(inner, list):
        inner.append(inner[key])
    elif kind < 0.4:
        inner[key] = [inner[key]]
    else:
        inner[key] = rng.choice(LEAVES)


def use(folder):
    read_golden(folder, len(TITLES))
    with Recommender.load(folder, threads=1) as recommender:
        recommender.recommend([TITLES[0], "Purple Cactus"], k=3, candidates=TITLES[:5], allow_new=True)
        recommender.recommend_batch([["id:i0"], []], k=3)
        recommender.columns.summaries()
        for name in recommender.columns.names:
            recommender.recommend([], k=3, where=f"not `{name}` is missing")
        recommender.recommend([], k=3, where='colour > "Blue" or price < 5 or new or tags has "odd"', diversity=0.5)
        explain(recommender, ["id:i0", "id:i1"])
        recommender.search("red", 3)


def test_json_of_any_content_is_an_answer_or_one_clear_error(folder):
    rng = random.Random(11)
    intact = {name: (folder / name).read_text() for name in FILES}
    use(folder)
    messages = []
    for _ in range(CHANGES):
        name = rng.choice(FILES)
        content = json.loads(intact[name])
        change(rng, content)
        (folder / name).write_text(json.dumps(content))
        rehash(folder)
        try:
            use(folder)
        except DelrecError as error:
            messages.append(error.message)
        except Exception as error:
            raise AssertionError(f"{name}: {describe(intact[name], content)}: {error!r}") from error
        finally:
            for file, text in intact.items():
                (folder / file).write_text(text)
    assert not [message for message in messages if "\n" in message]
    assert len(messages) > CHANGES // 3


def describe(before, after):
    """The changed values, for the message of a failure."""
    before = json.loads(before)
    return {key: str(after.get(key))[:80] for key in {*before, *after} if str(before.get(key)) != str(after.get(key))}
