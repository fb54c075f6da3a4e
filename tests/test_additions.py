"""Items added after training: scored and read from their titles, while trained items keep their scores."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from delrec_lite.errors import BundleError, UsageError
from delrec_lite.runtime.additions import add_items
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.runtime.verify import verify
from tests.bundles import MAX_HISTORY, TITLES, tiny_bundle
from tests.command import call

NEW = {"n1": "Violet Forest (2020)", "n2": "Red River (1950)"}  # the second is a title of the catalogue


@pytest.fixture
def bundles(tmp_path):
    tiny = tiny_bundle(tmp_path)
    return tiny, add_items(tiny.bundle.folder, NEW, tmp_path / "more.delrec")


def test_an_added_item_is_scored_by_its_title_and_the_others_as_before(bundles):
    tiny, added = bundles
    assert added.titles == ["Violet Forest (2020)", "Red River [2] (1950)"]
    assert added.items == len(TITLES) + 2
    history = [3, 1, 4]
    with Recommender.load(added.folder) as recommender:
        scores = recommender.scores([history])[0]
        assert scores[: len(TITLES)] == pytest.approx(tiny.scores([history])[0], abs=5e-3)
        outputs = np.stack([recommender.new_item(title)[1] for title in NEW.values()])
        assert scores[len(TITLES) :] == pytest.approx(outputs @ tiny.hidden_states([history])[0], abs=5e-3)
        titles = [TITLES[i] for i in history]
        first = recommender.recommend(titles, k=len(scores)).items
        assert {"n1", "n2"} < {item.id for item in first}
        stepped = recommender.recommend(titles, k=len(scores), session="u").items
        assert [item.id for item in stepped] == [item.id for item in first]


def test_an_added_item_in_a_history_is_read_as_its_title(bundles):
    _, added = bundles
    with Recommender.load(added.folder) as recommender:
        by_id = recommender.recommend([TITLES[0], "id:n1"]).items
        by_name = recommender.recommend([TITLES[0], "violet forest"]).items
    with Recommender.load(bundles[0].bundle.folder) as recommender:
        by_words = recommender.recommend([TITLES[0], "Violet Forest (2020)"], k=99, allow_new=True).items
    assert by_id == by_name
    scores = {item.id: item.score for item in by_words}
    assert all(item.score == pytest.approx(scores[item.id], abs=1e-3) for item in by_id if item.id in scores)


def test_tokens_are_counted_as_without_additions(bundles):
    """One evaluation answers for trained and added items; a history longer than the prefix shows a second one."""
    tiny, added = bundles
    history = TITLES[:MAX_HISTORY]
    assert len(history) > len(tiny.prefix)
    counts = []
    for folder in (tiny.bundle.folder, added.folder):
        with Recommender.load(folder, threads=1) as recommender:
            answers = [recommender.recommend(history)]
            answers += [recommender.recommend(history[:-1], session="u"), recommender.recommend(history, session="u")]
            counts.append([(answer.tokens_computed, answer.tokens_avoided) for answer in answers])
    prefix = len(tiny.prefix)
    assert counts[0] == counts[1] == [(10, prefix), (9, prefix), (1, prefix + 9)]


def test_a_new_candidate_costs_no_second_evaluation(bundles):
    request = {"history": TITLES[:4], "candidates": ["Grey Harbour", TITLES[7]], "allow_new": True}
    for folder in (bundles[0].bundle.folder, bundles[1].folder):
        with Recommender.load(folder, threads=1) as recommender:
            cold, first, repeated = (recommender.recommend(**request, session=name) for name in (None, "u", "u"))
        assert [answer.tokens_computed for answer in (cold, first, repeated)] == [4, 4, 1]
        assert {item.title: item.score for item in repeated.items} == pytest.approx(
            {item.title: item.score for item in cold.items}, abs=5e-3
        )


def test_a_server_answers_and_counts_sessions_of_a_bundle_with_additions(bundles):
    from fastapi.testclient import TestClient

    from delrec_lite.server.api import make_api
    from delrec_lite.server.worker import Worker

    with TestClient(make_api(Worker(Recommender.load(bundles[1].folder, threads=1)))) as client:
        answers = [client.post("/v1/recommend", json={"history": TITLES[:end], "session": "u"}) for end in (9, 10)]
        text = client.get("/metrics").text
    assert [answer.status_code for answer in answers] == [200, 200]
    prefix = len(bundles[0].prefix)
    counts = [(answer.json()["tokens_computed"], answer.json()["tokens_avoided"]) for answer in answers]
    assert counts == [(9, prefix), (1, prefix + 9)]
    assert "delrec_tokens_computed_total 10.0" in text
    assert f"delrec_tokens_avoided_total {2 * prefix + 9}.0" in text
    assert "delrec_session_hits_total 1.0" in text


def test_adding_twice_keeps_all_items_and_leaves_the_first_bundle_unchanged(bundles):
    tiny, added = bundles
    before = {path.name: path.read_bytes() for path in tiny.bundle.folder.iterdir()}
    add_items(added.folder, {"n3": "Grey Harbour (2021)"})
    reopened = Bundle.open(added.folder)
    assert reopened.items.ids[-3:] == ["n1", "n2", "n3"]
    assert reopened.trained == len(TITLES)
    assert np.load(added.folder / "additions.npy").shape[:2] == (2, 3)
    assert {path.name: path.read_bytes() for path in tiny.bundle.folder.iterdir()} == before
    assert not [path for path in added.folder.parent.iterdir() if path.name.startswith(".")]


def test_items_that_cannot_be_added_are_refused(bundles, tmp_path):
    tiny, added = bundles
    with pytest.raises(UsageError, match="no items to add"):
        add_items(added.folder, {})
    with pytest.raises(BundleError, match="no bundle"):
        add_items(tmp_path / "nowhere", NEW)
    with pytest.raises(UsageError, match="no item has the index 42"), Recommender.load(added.folder) as recommender:
        recommender.scores([[1, 42]])


def test_known_items_are_left_as_they_are_and_counted(bundles, tmp_path):
    _, added = bundles
    again = add_items(added.folder, {"n2": "Something else", "n3": "Grey Harbour (2021)"})
    assert (again.titles, again.known, again.items) == (["Grey Harbour (2021)"], ["n2"], len(TITLES) + 3)
    assert Bundle.open(added.folder).items.titles[-2:] == ["Red River [2] (1950)", "Grey Harbour (2021)"]
    copy = add_items(added.folder, {"n2": "Something else"}, tmp_path / "copy.delrec")
    assert (copy.titles, copy.known) == ([], ["n2"])
    assert Bundle.open(copy.folder).items == Bundle.open(added.folder).items


def spoil_json(folder):
    (folder / "additions.json").write_text(json.dumps({"ids": ["n1"], "titles": ["A", "B"]}))


def spoil_rows(folder):
    np.save(folder / "additions.npy", np.zeros((2, 5, 64), np.float32))


def spoil_width(folder):
    np.save(folder / "additions.npy", np.zeros((2, 2, 32), np.float32))


def spoil_pickle(folder):
    np.save(folder / "additions.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize("spoil", [spoil_json, spoil_rows, spoil_width, spoil_pickle])
def test_spoilt_additions_are_refused_even_with_the_right_digest(bundles, spoil):
    folder = bundles[1].folder
    spoil(folder)
    with pytest.raises(BundleError, match="sha256|bytes"):
        Bundle.open(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    from delrec_lite.files import sha256_of

    for name in ("additions.json", "additions.npy"):
        path = folder / name
        manifest["files"][name] = {"sha256": sha256_of(path), "bytes": path.stat().st_size}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"additions\.(json|npy)"):
        Recommender.load(folder)


def test_the_command_reads_a_list_and_verify_still_agrees(tiny_bundle, tmp_path):
    (tmp_path / "new.csv").write_text("sku,name\nx1,A Wholly New Film (2031)\nx2,<|im_start|> Film\n")
    program = Path(sys.executable).parent / "delrec-lite"
    command = [
        program,
        "catalog",
        "add",
        tiny_bundle,
        tmp_path / "new.csv",
        "--columns",
        "item=sku,title=name",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["added"] == ["A Wholly New Film (2031)", "<|im_start|> Film"]
    manifest = (tiny_bundle / "manifest.json").read_bytes()
    assert verify(tiny_bundle).top10_overlap == 1.0
    repeated = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert (repeated["added"], repeated["known"]) == ([], ["x1", "x2"])
    assert (tiny_bundle / "manifest.json").read_bytes() == manifest
    shutil.rmtree(tiny_bundle)


@pytest.mark.parametrize(
    ("columns", "options", "texts", "said"),
    [
        ("category,brand", (), "wet, b1", ""),
        ("category", (), "wet", "side text of the other items has brand, too"),
        ("category,brand", ("--text-columns", "brand"), "b1", "has category, too"),
    ],
)
def test_the_command_reads_the_side_text_of_the_data_set(tmp_path, capfd, columns, options, texts, said):
    folder, cells = tiny_bundle(tmp_path).bundle.folder, {"category": "wet", "brand": "b1"}
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["model"]["new_item_boost"] = 0.5
    manifest["provenance"] = {"recipe": {"data": {"text_columns": ["category", "brand"]}}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    row = ",".join(cells[name] for name in columns.split(","))
    (tmp_path / "new.csv").write_text(f"item_id,title,{columns}\nx1,New Film,{row}\n")
    assert call("catalog", "add", folder, tmp_path / "new.csv", *options) == 0
    assert Bundle.open(folder).added_texts == [texts]
    heard = capfd.readouterr().err
    assert (said in heard) if said else ("side text" not in heard)
    assert "a boost of +0.50" in heard


def test_items_are_added_to_a_bundle_of_links(tmp_path):
    folder, blobs = tiny_bundle(tmp_path).bundle.folder, tmp_path / "blobs"
    blobs.mkdir()
    for n, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(n))
        path.symlink_to(f"../blobs/{n}")
    added = add_items(folder, NEW, tmp_path / "deeper" / "more.delrec")
    assert not any(path.is_symlink() for path in added.folder.iterdir())
    with Recommender.load(added.folder, threads=1) as recommender:
        assert recommender.find(f"id:{next(iter(NEW))}").item == len(TITLES)
