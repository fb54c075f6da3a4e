"""`pull` against a server on this machine whose answers are cut short, altered, interrupted or resumed."""

import errno
import fcntl
import hashlib
import http.server
import io
import json
import os
import re
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from delrec_lite.errors import FetchError, StorageError, UsageError
from delrec_lite.hub import fetch
from delrec_lite.hub.cache import RECORD
from delrec_lite.hub.pull import cached, pull
from delrec_lite.hub.registry import ASSETS, DEFAULT, Asset, File, Mirror

BIG = bytes(range(256)) * 4000
SMALL = b'{"a": 1}'


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        for name, data in members.items():
            out.writestr(f"inner/{name}", data)
    return buffer.getvalue()


THING = archive(**{"small.json": SMALL, "big.bin": BIG})


class FileServer:
    """A web server whose answers a test decides: ``cut``: bytes after which it hangs up."""

    def __init__(self):
        self.files, self.cut, self.requests, self.ranges = {}, {}, [], True
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, request):
        path, range_header = request.path.lstrip("/"), request.headers.get("Range", "")
        self.requests.append((path, range_header))
        if path not in self.files:
            return request.send_error(404)
        start = int(re.sub(r"\D", "", range_header) or 0) if self.ranges else 0
        data = self.files[path][start:]
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        cuts = self.cut.get(path, [])
        request.wfile.write(data[: cuts.pop(0)] if cuts else data)
        return None


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "DELREC_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fetch.time, "sleep", lambda _: None)
    server = FileServer()
    server.files["thing.zip"] = THING
    yield server
    server.http.shutdown()
    server.http.server_close()


def thing_mirror(server, name="home"):
    files = (File("inner/small.json", sha(SMALL), len(SMALL)), File("inner/big.bin", sha(BIG), len(BIG)))
    return Mirror(name, "zip", f"{server.url}/thing.zip", files, sha(THING), len(THING))


@pytest.fixture
def register(monkeypatch):
    def add(*mirrors):
        monkeypatch.setitem(ASSETS, "thing", Asset("thing", "model", "CC0", "http://home", mirrors))

    return add


def files_in(cache):
    """Names of the files in the cache, without the locks."""
    return sorted(p.name for p in cache.rglob("*") if p.is_file() and p.suffix != ".lock")


def test_a_pulled_asset_is_complete_and_the_second_call_sends_no_request(server, register, tmp_path):
    register(thing_mirror(server))
    first = pull("thing", cache=tmp_path)
    requests = len(server.requests)
    second = pull("thing", cache=tmp_path)
    assert (first.folder / "big.bin").read_bytes() == BIG
    assert first.files == {"small.json": sha(SMALL), "big.bin": sha(BIG)}
    assert first.bytes == len(SMALL) + len(BIG)
    assert (first.cached, second.cached, first.mirror) == (False, True, "home")
    assert len(server.requests) == requests == 1
    assert files_in(tmp_path) == ["big.bin", RECORD, "small.json"]


def test_an_interrupted_transfer_resumes_where_it_stopped(server, register, tmp_path):
    register(thing_mirror(server))
    server.cut["thing.zip"] = [1000, 500_000]
    pulled = pull("thing", cache=tmp_path)
    assert (pulled.folder / "big.bin").read_bytes() == BIG
    assert [r for _, r in server.requests] == ["", "bytes=1000-", "bytes=501000-"]


def test_a_mirror_that_cannot_resume_starts_over(server, register, tmp_path):
    register(thing_mirror(server))
    server.ranges, server.cut["thing.zip"] = False, [1000]
    assert (pull("thing", cache=tmp_path).folder / "big.bin").read_bytes() == BIG


def test_the_next_call_resumes_an_interrupted_transfer(server, register, tmp_path):
    register(thing_mirror(server))
    server.cut["thing.zip"] = [10_000] * fetch.ATTEMPTS
    with pytest.raises(FetchError, match=rf"truncated at 40000 of {len(THING)} bytes"):
        pull("thing", cache=tmp_path)
    assert cached("thing", tmp_path) is None
    server.requests.clear()
    pull("thing", cache=tmp_path)
    assert server.requests == [("thing.zip", "bytes=40000-")]
    assert files_in(tmp_path) == ["big.bin", RECORD, "small.json"]


def test_wrong_content_is_refused_and_the_next_mirror_tried(server, register, tmp_path):
    other = FileServer()
    other.files["thing.zip"] = THING
    server.files["thing.zip"] = THING.replace(SMALL, SMALL[::-1])
    register(thing_mirror(server), thing_mirror(other, "second"))
    pulled = pull("thing", cache=tmp_path)
    other.http.shutdown()
    assert pulled.mirror == "second"
    assert (pulled.folder / "big.bin").read_bytes() == BIG


def test_the_error_names_each_mirror_with_its_reason_and_no_file_remains(server, register, tmp_path):
    server.files["thing.zip"] = data = archive(a=b"x")
    wrong = Mirror("altered", "zip", f"{server.url}/thing.zip", (File("inner/a"),), sha(b"other"), len(data))
    gone = Mirror("gone", "zip", f"{server.url}/none.zip", (File("inner/a"),), sha(data), len(data))
    dead = Mirror("dead", "zip", "http://127.0.0.1:9/x.zip", (File("inner/a"),), sha(data), len(data))
    register(wrong, gone, dead)
    with pytest.raises(FetchError) as caught:
        pull("thing", cache=tmp_path)
    assert re.search(r"altered: .*wrong sha256.*; gone: HTTP status 404.*; dead: unreachable", caught.value.message)
    assert caught.value.exit_code == 5
    assert caught.value.hint
    assert files_in(tmp_path) == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((File("inner/a"), File("inner/b")), "lacks"),
        ((File("inner/a", sha(b"other"), 1),), "wrong sha256"),
    ],
)
def test_an_archive_without_the_pinned_members_is_refused(server, register, tmp_path, files, message):
    server.files["thing.zip"] = data = archive(a=b"x")
    register(Mirror("home", "zip", f"{server.url}/thing.zip", files, sha(data), len(data)))
    with pytest.raises(FetchError, match=message):
        pull("thing", cache=tmp_path)
    assert cached("thing", tmp_path) is None


def test_only_named_members_are_extracted(server, register, tmp_path):
    server.files["thing.zip"] = data = archive(a=b"x", b=b"y")
    register(Mirror("home", "zip", f"{server.url}/thing.zip", (File("inner/a"),), sha(data), len(data)))
    assert pull("thing", cache=tmp_path).files == {"a": sha(b"x")}
    assert files_in(tmp_path) == ["a", RECORD]


def test_a_wheel_is_fetched_with_pip_of_this_environment(register, tmp_path, monkeypatch):
    data = archive(a=b"x")
    commands = []

    class Pip:
        def __init__(self, command, **_):
            commands.append(command)
            folder = command[command.index("--dest") + 1]
            with open(os.path.join(folder, "thing-1.0-py3-none-any.whl"), "wb") as out:  # noqa: PTH118, PTH123
                out.write(data)
            self.returncode = 0

        def poll(self):
            return 0

    monkeypatch.setattr(fetch.subprocess, "Popen", Pip)
    register(Mirror("index", "wheel", "thing==1.0", (File("inner/a", sha(b"x"), 1),), sha(data), len(data)))
    pulled = pull("thing", cache=tmp_path)
    assert (pulled.folder / "a").read_bytes() == b"x"
    assert commands[0][:5] == [fetch.sys.executable, "-m", "pip", "download", "thing==1.0"]
    assert "--no-deps" in commands[0]


def test_without_pip_the_error_says_how_to_get_it(register, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch.importlib.util, "find_spec", lambda _: None)
    register(Mirror("index", "wheel", "thing==1.0", (File("a", sha(b"x"), 1),), sha(b"x"), 1))
    with pytest.raises(FetchError, match="pip is not in this environment.*-m ensurepip"):
        pull("thing", cache=tmp_path)


def test_a_damaged_cache_is_noticed_and_fetched_again(server, register, tmp_path):
    register(thing_mirror(server))
    folder = pull("thing", cache=tmp_path).folder
    stamp = (folder / "small.json").stat().st_mtime_ns
    (folder / "small.json").write_bytes(b'{"a": 2}')
    os.utime(folder / "small.json", ns=(stamp, stamp))
    assert cached("thing", tmp_path) is None
    fetched = pull("thing", cache=tmp_path)
    assert not fetched.cached
    assert (fetched.folder / "small.json").read_bytes() == SMALL
    os.utime(folder / "big.bin", (1, 1))
    assert cached("thing", tmp_path), "another time stamp alone is no damage"
    record = json.loads((folder / RECORD).read_text())
    record["files"]["big.bin"]["sha256"] = sha(b"forged")
    (folder / RECORD).write_text(json.dumps(record))
    assert cached("thing", tmp_path) is None


def test_a_host_that_drops_packets_costs_at_most_eight_seconds(register, tmp_path, monkeypatch):
    waited = []

    def drop(address, timeout):
        waited.append(timeout)
        raise TimeoutError("timed out")

    addresses = [(2, 1, 6, "", (f"192.0.2.{n}", 80)) for n in range(5)]
    monkeypatch.setattr(fetch.urllib.request, "getproxies", dict)
    monkeypatch.setattr(fetch.socket, "getaddrinfo", lambda *_, **__: addresses)
    monkeypatch.setattr(fetch.socket, "create_connection", drop)
    register(Mirror("home", "zip", "http://home.example/x.zip", (File("a"),), sha(b""), 1))
    with pytest.raises(FetchError, match="home: unreachable: timed out"):
        pull("thing", cache=tmp_path)
    assert len(waited) == 5
    assert sum(waited) <= 8


def test_offline_uses_the_cache_and_nothing_else(server, register, tmp_path, monkeypatch):
    register(thing_mirror(server))
    monkeypatch.setenv("DELREC_OFFLINE", "1")
    with pytest.raises(FetchError, match="DELREC_OFFLINE"):
        pull("thing", cache=tmp_path)
    assert server.requests == []
    pull("thing", cache=tmp_path, offline=False)
    assert pull("thing", cache=tmp_path).cached


def test_two_pulls_at_once_fetch_once(server, register, tmp_path):
    register(thing_mirror(server))
    with ThreadPoolExecutor(4) as pool:
        pulls = list(pool.map(lambda _: pull("thing", cache=tmp_path), range(4)))
    assert sum(not p.cached for p in pulls) == 1
    assert len(server.requests) == 1
    assert files_in(tmp_path) == ["big.bin", RECORD, "small.json"]


def no_locks(*_):
    raise OSError(errno.ENOLCK, "No locks available")


def test_two_pulls_at_once_where_there_is_no_lock(server, register, tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", no_locks)
    register(thing_mirror(server))
    with ThreadPoolExecutor(4) as pool:
        pulls = list(pool.map(lambda _: pull("thing", cache=tmp_path), range(4)))
    assert {(p.folder / "big.bin").read_bytes() for p in pulls} == {BIG}
    assert files_in(tmp_path) == ["big.bin", RECORD, "small.json"]


def test_a_cache_that_cannot_be_created_is_a_storage_error(server, register, tmp_path):
    register(thing_mirror(server))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="file") as caught:
        pull("thing", cache=tmp_path / "file")
    assert "DELREC_CACHE" in caught.value.hint


def test_a_user_s_cache_that_cannot_be_written_is_replaced_by_one_in_the_temporary_folder(
    server, register, tmp_path, monkeypatch
):
    register(thing_mirror(server))
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "tmp").mkdir()
    monkeypatch.delenv("DELREC_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    first, second = pull("thing"), pull("thing", offline=True)
    assert (first.folder / "big.bin").read_bytes() == BIG
    assert first.folder.is_relative_to(tmp_path / "tmp")
    assert (second.folder, second.cached) == (first.folder, True)


@pytest.mark.parametrize("lookalike", ["u.data", "pulled.json"])
def test_files_that_were_not_pulled_are_never_replaced(server, register, tmp_path, lookalike):
    register(thing_mirror(server))
    theirs = tmp_path / "models" / "thing"
    theirs.mkdir(parents=True)
    (theirs / "thesis.txt").write_text("text")
    (theirs / lookalike).write_text('{"files": {}}')
    with pytest.raises(StorageError, match="thing"):
        pull("thing", cache=tmp_path)
    assert sorted(path.name for path in theirs.iterdir()) == sorted(["thesis.txt", lookalike])
    assert server.requests == []


def test_a_full_disk_is_a_storage_error_and_no_reason_to_try_the_next_mirror(server, register, tmp_path, monkeypatch):
    def full(path, mode):
        raise fetch.unwritable(path, OSError(28, "No space left on device"))

    monkeypatch.setattr(fetch, "_open", full)
    register(thing_mirror(server), thing_mirror(server, "second"))
    with pytest.raises(StorageError, match="no space left"):
        pull("thing", cache=tmp_path)
    assert len(server.requests) == 1
    assert files_in(tmp_path) == []


def test_the_error_for_an_unknown_name_lists_the_known_names():
    with pytest.raises(UsageError) as caught:
        pull("ml-1oo k")
    assert "ml-100k" in caught.value.hint


def test_every_registered_file_is_pinned():
    for asset in ASSETS.values():
        for mirror in asset.mirrors:
            pinned = mirror.sha256 or all(f.sha256 and f.bytes for f in mirror.files)
            assert pinned, f"{asset.name} from {mirror.name}"
            assert mirror.download > 0


@pytest.mark.real
def test_both_default_assets_can_be_fetched():
    model, data = pull("smollm2-135m-instruct"), pull("ml-100k")
    assert model.bytes > 50e6
    assert any(name.endswith((".gguf", ".safetensors")) for name in model.files)
    assert {"u.data", "ml-100k.inter"} & set(data.files)
    assert pull("ml-100k").cached


def test_a_file_in_parts_is_joined_in_order_and_checked(server, register, tmp_path):
    halves = [BIG[:400_000], BIG[400_000:]]
    server.files |= {f"{n}.zip": archive(piece=half) for n, half in enumerate(halves)}

    def mirror(sha256):
        parts = tuple(
            Mirror(f"part {n}", "zip", f"{server.url}/{n}.zip", (File("inner/piece"),), sha(data), len(data))
            for n, data in ((n, server.files[f"{n}.zip"]) for n in range(2))
        )
        return Mirror("parts", "parts", "", (File("model.gguf", sha256, len(BIG)),), parts=parts)

    register(mirror(sha(b"another")))
    with pytest.raises(FetchError, match="wrong sha256"):
        pull("thing", cache=tmp_path)
    register(mirror(sha(BIG)))
    assert mirror("").download == sum(len(server.files[f"{n}.zip"]) for n in range(2))
    pulled = pull("thing", cache=tmp_path)
    assert (pulled.folder / "model.gguf").read_bytes() == BIG
    assert files_in(tmp_path) == ["model.gguf", RECORD]


def test_pull_without_a_name_fetches_what_the_quickstart_needs():
    assert set(DEFAULT) < set(ASSETS)
