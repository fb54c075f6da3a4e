"""What can be recommended is changed while a server runs, and kept over a reload and a restart; a request's id."""

import json
import signal
import threading
import urllib.request

import pytest
from fastapi.testclient import TestClient

from delrec_lite.data.columns import ItemColumn
from delrec_lite.errors import StorageError, UsageError
from delrec_lite.runtime.explain import explain
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.server.api import make_api
from delrec_lite.server.availability import AvailabilityState
from delrec_lite.server.serve import Settings, _reload
from delrec_lite.server.worker import Worker
from tests.bundles import COLUMNS, TITLES, tiny_bundle
from tests.serving import Served

AVAILABLE = ItemColumn("available", "truth", tuple(None if n == 0 else n != 5 for n in range(len(TITLES))))
PATH = "/v1/catalog/availability"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    columns = (*COLUMNS, AVAILABLE)
    return tiny_bundle(tmp_path_factory.mktemp("availability"), columns=columns).bundle.folder


@pytest.fixture
def recommender(folder):
    with Recommender.load(folder, threads=1) as loaded:
        yield loaded


@pytest.fixture
def client(folder):
    with TestClient(make_api(Worker(Recommender.load(folder, threads=1)))) as opened:
        yield opened


def titles(items):
    return {item["title"] if isinstance(item, dict) else item.title for item in items}


def test_the_column_available_sets_the_start_and_changes_count_at_once(recommender):
    history = TITLES[10:12]
    start = titles(recommender.recommend(history, k=99).items)
    assert TITLES[5] not in start
    assert TITLES[0] in start
    change = recommender.availability.change(
        available=["i5"], unavailable=[7, "id:i8", TITLES[9], "i99", "blue winter"]
    )
    assert (change.changed, recommender.availability.unavailable) == (3, [8, 9])
    assert [(s.given, s.where) for s in change.skipped] == [(n, "unavailable") for n in ("7", "i99", "blue winter")]
    assert "i99" in change.skipped[1].reason
    now = titles(recommender.recommend(history, k=99).items)
    assert now == (start | {TITLES[5]}) - set(TITLES[8:10])
    assert titles(recommender.recommend_batch([history], k=99)[0]) == now
    assert recommender.availability.change(unavailable=["i8"]).changed == 0


def test_unavailable_items_stay_in_histories_and_are_named_among_candidates(recommender):
    before = recommender.recommend(TITLES[10:13], k=5)
    recommender.availability.change(unavailable=["i11", "i20"])
    after = recommender.recommend(TITLES[10:13], k=5)
    assert after.items[0].score == before.items[0].score  # the history is read as it was
    assert after.skipped == []
    among = recommender.recommend(TITLES[:2], candidates=[TITLES[20], "id:i20", TITLES[21]], on_unknown="refuse")
    assert titles(among.items) == {TITLES[21]}
    assert [(s.given, s.where, s.reason) for s in among.skipped] == [
        (name, "candidates", "it is not available now") for name in (TITLES[20], "id:i20")
    ]
    assert recommender.recommend(TITLES[:2], candidates=[TITLES[20]]).items == []


def test_explanations_are_about_what_is_available(recommender):
    first = explain(recommender, TITLES[10:12])
    recommender.availability.change(unavailable=[first.id])
    second = explain(recommender, TITLES[10:12])
    assert second.title == recommender.recommend(TITLES[10:12], k=1).items[0].title != first.title
    assert (second.rank, explain(recommender, TITLES[10:12], first.title).rank) == (1, 0)


@pytest.mark.parametrize("lists", [(["i1"], ["id:i1"]), ("i1", []), ([], [None]), ([], None)])
def test_a_change_that_is_none_changes_nothing(recommender, lists):
    with pytest.raises(UsageError):
        recommender.availability.change(*lists)
    assert recommender.availability.unavailable == [5]


def test_over_http_a_change_counts_from_the_next_request_on(client):
    shown = client.get(PATH).json()
    assert shown == {
        "unavailable": [{"id": "i5", "title": TITLES[5]}],
        "count": 1,
        "items": len(TITLES),
        "vanished": [],
        "kept": False,
    }
    answer = client.post(PATH, json={"unavailable": ["i20", "id:i21", "gone"], "available": ["i5"]})
    assert answer.json() == {
        "changed": 3,
        "skipped": [{"given": "gone", "where": "unavailable", "reason": "no item has the id or title 'gone'"}],
        "count": 2,
        "kept": False,
    }
    ranked = titles(client.post("/v1/recommend", json={"history": [TITLES[1]], "k": 99}).json()["items"])
    assert ranked == set(TITLES) - {TITLES[1], TITLES[20], TITLES[21]}
    batch = client.post("/v1/batch", json={"histories": [[TITLES[1]], []], "k": 99}).json()
    assert titles(batch["answers"][0]) == ranked
    assert titles(batch["answers"][1]) == ranked | {TITLES[1]}
    assert client.get(f"{PATH}?limit=1").json()["unavailable"] == [{"id": "i20", "title": TITLES[20]}]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"available": ["i1"], "unavailable": ["i1"]}, 400, "in both lists"),
        ({"unavailable": ["gone"], "on_unknown": "refuse"}, 400, "unavailable: no item has the id or title 'gone'"),
        ({"unavailable": "i1"}, 422, "unavailable is a text, not a list"),
        ({"unavailabel": ["i1"]}, 422, "there is no field unavailabel"),
        ({"unavailable": [5]}, 422, "unavailable[0] is a number"),
        ([], 422, "the body is a list"),
    ],
)
def test_a_body_that_does_not_fit_changes_nothing(client, body, status, words):
    answer = client.post(PATH, json=body)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text
    assert answer.json()["hint"]
    assert client.get(PATH).json()["count"] == 1


def test_filters_and_options_over_http_are_those_of_the_library(client, recommender):
    options = {"where": "price < 15 and not new", "diversity": 0.5, "popularity_discount": 0.25}
    body = {"history": TITLES[10:12], "k": 4, **options}
    expected = [item.title for item in recommender.recommend(TITLES[10:12], 4, **options).items]
    assert [item["title"] for item in client.post("/v1/recommend", json=body).json()["items"]] == expected
    histories = [TITLES[10:12], ["id:gone"], []]
    lists = {"exclude": [[TITLES[0]], ["id:no"], []], "candidates": [None, TITLES[2:9], None]}
    batch = client.post("/v1/batch", json={"histories": histories, "k": 4, **options, **lists}).json()
    together = recommender.recommend_batch(histories, 4, **options, **lists)
    assert [[i["title"] for i in items] for items in batch["answers"]] == [[i.title for i in r] for r in together]
    assert [[(s["given"], s["where"]) for s in part] for part in batch["skipped"]] == [
        [],
        [("id:gone", "history"), ("id:no", "exclude"), (TITLES[5], "candidates")],
        [],
    ]
    assert batch["basis"] == ["model", "popularity", "popularity"]
    wrong = client.post("/v1/recommend", json={"history": [], "where": "prise < 5"})
    assert (wrong.status_code, "character 1: there is no column 'prise'" in wrong.json()["error"]) == (400, True)
    assert "did you mean price?" in wrong.json()["hint"]
    for name, value in (("diversity", 2), ("popularity_discount", -1), ("diversity", "0.5"), ("where", "x" * 4001)):
        assert client.post("/v1/recommend", json={"history": [], name: value}).status_code == 422


def test_the_columns_are_listed_with_their_values(client):
    by_name = {column.pop("name"): column for column in client.get("/v1/catalog/columns").json()}
    assert list(by_name) == ["colour", "price", "new", "tags", "available"]
    assert by_name["price"] == {"kind": "number", "missing": 5, "lowest": 0.0, "highest": 19.5}
    assert by_name["available"] == {"kind": "truth", "missing": 1, "true": 38}
    assert by_name["colour"]["values"] == dict.fromkeys(sorted({t.split()[0] for t in TITLES}), 5)


def test_changes_survive_a_reload_by_id_and_vanished_ids_are_told(folder, tmp_path, caplog):
    fewer = tiny_bundle(tmp_path, titles=tuple(TITLES[:30]), name="fewer").bundle.folder
    state, worker = AvailabilityState(), Worker(Recommender.load(folder, threads=1))
    with TestClient(make_api(worker, state=state)) as client:
        client.post(PATH, json={"unavailable": ["i3", "i35"]})
        with caplog.at_level("WARNING", "delrec_lite.server"):
            _reload(fewer, Settings(threads=1), worker, state)
        assert "1 items whose availability was changed are not in this bundle" in caplog.text
        shown = client.get(PATH).json()
        assert (shown["unavailable"], shown["vanished"]) == ([{"id": "i3", "title": TITLES[3]}], ["i35"])
        _reload(tmp_path / "none", Settings(threads=1), worker, state)  # refused: all stays
        assert client.get(PATH).json() == shown
        _reload(folder, Settings(threads=1), worker, state)
        back = client.get(PATH).json()
        assert ([item["id"] for item in back["unavailable"]], back["vanished"]) == (["i3", "i5", "i35"], [])


def test_no_change_is_lost_beside_reloads(folder):
    state, worker = AvailabilityState(), Worker(Recommender.load(folder, threads=1))
    ids = [f"i{n}" for n in range(10, 40)]

    def post():
        for item in ids:
            state.change(lambda: worker.recommender.availability, unavailable=[item])

    with TestClient(make_api(worker, state=state)):
        changing = threading.Thread(target=post)
        changing.start()
        for _ in range(3):
            _reload(folder, Settings(threads=1), worker, state)
        changing.join()
        assert worker.recommender.availability.unavailable == [5, *range(10, 40)]


def test_a_state_file_keeps_changes_and_is_shared(recommender, tmp_path):
    file = tmp_path / "state.json"
    first = AvailabilityState(file)
    first.change(lambda: recommender.availability, ["i5"], ["i7", "i8"])
    content = json.loads(file.read_text())
    assert (content["available"], content["unavailable"]) == (["i5"], ["i7", "i8"])
    second = AvailabilityState(file)
    assert second.kept
    with second.carried_to(recommender.availability):
        pass
    second.change(lambda: recommender.availability, available=["i8"], unavailable=["i9"])
    first.refresh(recommender.availability)
    assert first.vanished(recommender.availability) == []
    first.change(lambda: recommender.availability, unavailable=["i1"])
    assert json.loads(file.read_text())["unavailable"] == ["i1", "i7", "i9"]
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]
    file.unlink()
    first.change(lambda: recommender.availability, unavailable=["i1"])  # as before; but it must be kept
    assert json.loads(file.read_text())["unavailable"] == ["i1", "i7", "i9"]


@pytest.mark.parametrize(
    "content", ['{"other": 1}', "text", '{"delrec_availability": 9, "available": [], "unavailable": []}']
)
def test_a_file_that_is_no_state_is_refused_and_kept(tmp_path, content):
    file = tmp_path / "state.json"
    file.write_text(content)
    with pytest.raises(StorageError) as raised:
        AvailabilityState(file)
    assert (raised.value.hint != "", file.read_text()) == (True, content)


def test_a_state_that_breaks_while_it_is_served_is_logged_and_the_last_one_stays(recommender, tmp_path, caplog):
    file = tmp_path / "state.json"
    state = AvailabilityState(file)
    state.change(lambda: recommender.availability, unavailable=["i1"])
    file.write_text("{")
    with caplog.at_level("WARNING", "delrec_lite.server"):
        state.refresh(recommender.availability)
        state.refresh(recommender.availability)
    assert caplog.text.count("cannot be read") == 1
    assert 1 in recommender.availability.unavailable


def test_a_change_that_cannot_be_kept_is_no_change(folder, tmp_path, monkeypatch):
    state = AvailabilityState(tmp_path / "state.json")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("delrec_lite.server.availability.write_atomic", full)
    with TestClient(make_api(Worker(Recommender.load(folder, threads=1)), state=state)) as client:
        answer = client.post(PATH, json={"unavailable": ["i1"]})
        assert (answer.status_code, "No space left" in answer.json()["error"]) == (503, True)
        assert client.get(PATH).json()["count"] == 1


def test_a_folder_that_is_missing_or_vanishes_is_one_clear_error(recommender, tmp_path):
    with pytest.raises(StorageError, match="no folder"):
        AvailabilityState(tmp_path / "none" / "state.json")
    (tmp_path / "some").mkdir()
    state = AvailabilityState(tmp_path / "some" / "state.json")
    (tmp_path / "some").rmdir()
    with pytest.raises(StorageError, match="cannot be kept"):
        state.change(lambda: recommender.availability, unavailable=["i1"])
    assert recommender.availability.unavailable == [5]


def test_a_server_keeps_changes_over_a_hangup_and_a_restart(folder, tmp_path):
    file = tmp_path / "state.json"

    def post(server, body):
        request = urllib.request.Request(
            f"{server.address}{PATH}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    with Served(tmp_path, "--state", file, bundle=folder) as server:
        assert post(server, {"unavailable": ["i1"]}) == {"changed": 1, "skipped": [], "count": 2, "kept": True}
        server.process.send_signal(signal.SIGHUP)
        server.wait_for('"reload": "done"')
        assert TITLES[1] not in titles(server.post({"history": [], "k": 99})["items"])
    with Served(tmp_path, "--state", file, bundle=folder) as server:
        assert TITLES[1] not in titles(server.post({"history": [], "k": 99})["items"])


@pytest.mark.parametrize("given", ["order-7.A_1:x/y+z=@", "x" * 128])
def test_a_requests_own_id_comes_back_and_is_logged(client, caplog, given):
    with caplog.at_level("INFO", "delrec_lite.server"):
        answer = client.post("/v1/recommend", json={"history": []}, headers={"X-Request-Id": given})
    assert (answer.headers["x-request-id"], answer.json()["request_id"]) == (given, given)
    assert json.loads(caplog.messages[-1])["id"] == given
    assert client.get("/v1/nothing", headers={"X-Request-Id": given}).headers["x-request-id"] == given
    batch = client.post("/v1/batch", json={"histories": [[]]}, headers={"X-Request-Id": given})
    assert batch.json()["request_id"] == given


def test_the_answer_to_a_fault_has_the_id_too(folder, monkeypatch):
    worker = Worker(Recommender.load(folder, threads=1))
    monkeypatch.setattr(worker.recommender, "search", None)
    with TestClient(make_api(worker), raise_server_exceptions=False) as client:
        answer = client.get("/v1/items", headers={"X-Request-Id": "a1"})
        assert (answer.status_code, answer.headers["x-request-id"]) == (500, "a1")


@pytest.mark.parametrize("given", [None, "", "x" * 129, 'a"b', "a b", "-a", "a\x7f", "é"])
def test_a_request_without_an_id_that_is_safe_gets_a_new_one(client, given):
    headers = {} if given is None else {"X-Request-Id": given.encode("latin-1")}
    first, second = (client.get("/healthz", headers=headers).headers["x-request-id"] for _ in range(2))
    assert first != second
    assert len(first) == 32
    assert first != given


@pytest.mark.parametrize("where", ["history", "candidates", "exclude"])
@pytest.mark.parametrize("policy", ["skip", "refuse"])
def test_what_is_unknown_is_skipped_and_named_or_refused_in_every_kind_of_request(client, where, policy):
    lists = {"history": [TITLES[1]], "candidates": TITLES[2:5], "exclude": [TITLES[3]]}
    lists[where] = [*lists[where], "id:gone"]
    single = {**lists, "on_unknown": policy}
    batch = {
        "histories": [lists["history"]],
        **{n: [lists[n]] for n in ("candidates", "exclude")},
        "on_unknown": policy,
    }
    for path, body in (("recommend", single), ("batch", batch)):
        answer = client.post(f"/v1/{path}", json=body)
        if policy == "refuse":
            assert (answer.status_code, answer.json()["error"]) == (400, "no item has the id 'gone'")
        else:
            skipped = answer.json()["skipped"]
            assert [s["where"] for s in (skipped[0] if path == "batch" else skipped)] == [where]
    if where == "history":
        explained = client.post("/v1/explain", json={"history": lists["history"], "on_unknown": policy})
        assert explained.status_code == (400 if policy == "refuse" else 200)


def test_the_teacher_knows_filters_availability_and_unknown_ids(teacher_bundle):
    with Recommender.load(teacher_bundle[0], threads=1) as recommender:
        history = recommender.bundle.items.titles[:3]
        every = titles(recommender.teacher_ranking(history, 99))
        chosen = recommender.teacher_ranking(history, 1)[0]
        recommender.availability.change(unavailable=[chosen.id])
        assert titles(recommender.teacher_ranking([*history, "id:gone"], 99)) == every - {chosen.title}
        with pytest.raises(UsageError, match="no column 'price'"):
            recommender.teacher_ranking(history, where="price < 5")
        with pytest.raises(UsageError, match="gone"):
            recommender.teacher_ranking([*history, "id:gone"], on_unknown="refuse")
