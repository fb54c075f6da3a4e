"""`delrec-lite serve` as a process, for the tests that need one."""

import json
import os
import subprocess
import time
import urllib.request

from tests.bundles import TITLES, tiny_bundle
from tests.command import PROGRAM

MARKUP = "<img src=x onerror=document.title='broken'> & Sons"


class Served:
    """A server on a free port, with its own tiny bundle or with ``bundle``.

    ``before`` is called with the process before the server is ready.
    """

    def __init__(self, folder, *options, bundle=None, preexec=None, before=None, **environment):
        self.bundle = bundle or tiny_bundle(folder, titles=(*TITLES[:-1], MARKUP)).bundle.folder
        self.log = folder / "log"
        command = [PROGRAM, "serve", self.bundle, "--port", "0", "--threads", "1", *options]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stderr=log, env={**os.environ, **environment}, preexec_fn=preexec)
        if before:
            before(self.process)
        self.address = json.loads(self.wait_for("address"))["address"]
        port = self.address.rsplit(":", 1)[1]
        self.port = int(port) if port.isdecimal() else None  # a Unix socket has none
        self.context = None  # for TLS

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def wait_for(self, words):
        for _ in range(1800):
            for line in self.log.read_text().splitlines():
                if words in line:
                    return line
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(f"{words} not in {self.log.read_text()}")

    def post(self, body, path="recommend", **headers):
        headers = {"Content-Type": "application/json", **headers}
        request = urllib.request.Request(f"{self.address}/v1/{path}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=30, context=self.context) as answer:
            return json.loads(answer.read())
