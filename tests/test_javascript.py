"""docs/examples/shop.mjs under Node: answers, the server's errors, and a busy server that is asked again."""

import json
import os
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.bundles import TITLES
from tests.serving import Served

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "shop.mjs"
pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="no Node here")


def node(*arguments, **environment):
    return subprocess.run(
        ["node", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **environment},
    )


def script(code):
    """Run some lines after the import of the example; returns what they print as JSON."""
    done = node(
        "--input-type=module", "-e", f"import {{recommend, search, Refused}} from '{EXAMPLE.as_uri()}';\n{code}"
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_example_prints_the_servers_ranking(tmp_path):
    with Served(tmp_path, "--api-key-env", "SHOP_KEY", SHOP_KEY="k") as served:
        done = node(EXAMPLE, served.address, *TITLES[:2], SHOP_KEY="k")
        expected = served.post({"history": TITLES[:2], "k": 5}, Authorization="Bearer k")["items"]
        lines = [f"{item['rank']}. {item['title']}  {100 * item['probability']:.1f}%" for item in expected]
        assert done.stdout.splitlines() == lines
        assert "most popular" in node(EXAMPLE, served.address + "/", SHOP_KEY="k").stdout
        refused = node(EXAMPLE, served.address, TITLES[0], SHOP_KEY="wrong")
        assert refused.returncode == 1
        assert refused.stderr == "this server requires a key (the key that was sent is not one of them)\n"
        server = f"{{address: '{served.address}', key: 'k'}}"
        found = script(f"console.log(JSON.stringify(await search({server}, 'red rivr & <x>', 1)))")
        assert found[0]["title"] == TITLES[0]
        told = script(
            f"const error = await recommend({server}, [], {{k: 0}}).catch(error => error);\n"
            "console.log(JSON.stringify([error instanceof Refused, error.status, error.message]))"
        )
        assert told[:2] == [True, 422]
        assert told[2].startswith("k: ")


def test_a_busy_server_is_asked_again_and_not_for_ever():
    asked = []

    class Busy(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.path)
            busy = self.path.startswith("/always") or len(asked) < 3
            body = {"error": "busy", "hint": "later"} if busy else {"items": [], "basis": "model"}
            content = json.dumps(body).encode()
            self.send_response(503 if busy else 200)
            self.send_header("Retry-After", "60" if self.path.startswith("/always/long") else "0")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{http.server_port}"
    ask = "await recommend({{address: '{}', attempts: 2}}, ['a']).catch(error => error.status)"
    once = f"await recommend({{address: '{address}'}}, ['a'])"
    never, long = ask.format(f"{address}/always"), ask.format(f"{address}/always/long")
    assert script(f"console.log(JSON.stringify([{once}, {never}, {long}]))") == [
        {"items": [], "basis": "model"},
        503,
        503,
    ]
    assert asked == ["/v1/recommend"] * 3 + ["/always/v1/recommend"] * 2 + ["/always/long/v1/recommend"]
    http.shutdown()
