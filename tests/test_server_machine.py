"""A server stays what it was: any sequence of requests, hang-ups and reloads of good and broken bundles."""

import asyncio
import json
import shutil
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from delrec_lite.runtime.explain import explain
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.server.api import make_api
from delrec_lite.server.serve import Settings, _reload, load
from delrec_lite.server.worker import Worker
from tests.bundles import TITLES, tiny_bundle

SETTINGS = Settings(threads=1)
HISTORIES = st.lists(st.sampled_from(TITLES), min_size=1, max_size=4)
DAMAGES = {
    "gone": shutil.rmtree,
    "empty": lambda folder: [file.unlink() for file in folder.iterdir()],
    "a file": lambda folder: (shutil.rmtree(folder), folder.write_text("no bundle")),
    "cut": lambda folder: [file.write_bytes(file.read_bytes()[:99]) for file in folder.iterdir()],
    "other bytes": lambda folder: [file.write_bytes(bytes(file.stat().st_size)) for file in folder.glob("model*")],
    "no tokenizer": lambda folder: (folder / "tokenizer.json").write_text("{}"),
    "a folder": lambda folder: [(file.unlink(), file.mkdir()) for file in folder.glob("*.json")],
    "no manifest": lambda folder: (folder / "manifest.json").write_text("[]"),
}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Two bundles of the same titles and different weights, by name."""
    folder = tmp_path_factory.mktemp("bundles")
    return {name: tiny_bundle(folder, seed=seed, name=name).bundle.folder for name, seed in (("old", 0), ("new", 9))}


def test_a_server_stays_what_it_was(bundles):
    with ExitStack() as stack:
        opened = {name: stack.enter_context(Recommender.load(path, threads=1)) for name, path in bundles.items()}

        @cache
        def expected(name, history):
            return [item.title for item in opened[name].recommend(history, allow_new=True).items]

        class Server(Serving):
            paths, recommenders, first_titles = bundles, opened, staticmethod(expected)

        run_state_machine_as_test(
            Server,
            settings=settings(
                max_examples=25,
                stateful_step_count=12,
                deadline=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            ),
        )


class Serving(RuleBasedStateMachine):
    """The model: the name of the bundle that is served, and of the one that lies in the folder (None: a broken one)."""

    def __init__(self):
        super().__init__()
        self.exit = ExitStack()
        self.folder = Path(self.exit.enter_context(TemporaryDirectory())) / "served.delrec"
        self.put("old")
        self.served = "old"
        self.worker = Worker(load(self.folder, SETTINGS))
        self.client = self.exit.enter_context(TestClient(make_api(self.worker)))

    def teardown(self):
        self.exit.close()

    @rule(name=st.sampled_from(["old", "new"]))
    def put(self, name):
        """Another bundle takes the folder's place."""
        if self.folder.is_file():
            self.folder.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.paths[name], self.folder)
        self.on_disk = name

    @rule(damage=st.sampled_from(sorted(DAMAGES)))
    def damage(self, damage):
        """The folder breaks, in place."""
        if self.on_disk is not None:
            DAMAGES[damage](self.folder)
            self.on_disk = None

    @rule()
    def hang_up_signal(self):
        """What SIGHUP does."""
        _reload(self.folder, SETTINGS, self.worker)
        self.served = self.on_disk or self.served

    @rule(history=HISTORIES, new=st.booleans(), session=st.sampled_from([None, "a", "b"]))
    def ask(self, history, new, session):
        history = [*history, "A quite new title"] if new else history
        body = {"history": history, "session": session, "allow_new": new}
        answer = self.client.post("/v1/recommend", json=body)
        assert answer.status_code == 200
        assert [item["title"] for item in answer.json()["items"]] == self.first_titles(self.served, tuple(history))

    @rule(histories=st.lists(HISTORIES, min_size=1, max_size=20))
    def ask_for_a_batch(self, histories):
        answer = self.client.post("/v1/batch", json={"histories": histories})
        titles = [[item["title"] for item in ranking] for ranking in answer.json()["answers"]]
        assert titles == [self.first_titles(self.served, tuple(history)) for history in histories]

    @rule(history=HISTORIES)
    def explain(self, history):
        answer = self.client.post("/v1/explain", json={"history": history})
        assert answer.json()["title"] == explain(self.recommenders[self.served], history).title

    @rule(body=st.sampled_from(["", "{", "[]", '{"history": 3}', '{"history": ["x"], "on_unknown": "refuse"}']))
    def ask_wrongly(self, body):
        answer = self.client.post("/v1/recommend", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in {400, 422}

    @rule(path=st.sampled_from(["batch", "recommend", "explain"]))
    def disconnect(self, path):
        """A caller goes before its answer comes."""
        body = {"histories": [TITLES[:3]] * 200} if path == "batch" else {"history": TITLES[:9]}
        self.client.portal.call(ask_and_disconnect, self.client.app, f"/v1/{path}", json.dumps(body).encode())

    @invariant()
    def is_ready(self):
        answer = self.client.get("/readyz")
        assert (answer.status_code, answer.json()["bundle"]) == (200, self.served)

    @invariant()
    def has_no_teacher(self):
        answer = self.client.post("/v1/teacher", json={"history": TITLES[:1]})
        assert (answer.status_code, "no teacher" in answer.json()["error"]) == (400, True)


async def ask_and_disconnect(api, path, body):
    """Send a request to an ASGI application, and close the connection once it has been read."""
    messages = [{"type": "http.request", "body": body, "more_body": False}, {"type": "http.disconnect"}]
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
    scope |= {"headers": headers, "http_version": "1.1", "scheme": "http", "server": ("x", 80), "client": ("x", 1)}

    async def receive():
        if len(messages) == 1:
            await asyncio.sleep(0.002)
        return messages.pop(0) if len(messages) > 1 else messages[0]

    async def send(_):
        pass

    await api(scope, receive, send)
