"""A web server with those responses of the Hugging Face Hub that a download needs."""

import hashlib
import http.server
import json
import re
import threading

REVISION = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """One repository, ``owner/thing``; ``files`` by name, and every request with its token in ``requests``."""

    def __init__(self, files):
        self.files, self.requests = dict(files), []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                hub.answer(self)

            def do_HEAD(self):
                hub.answer(self)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, request):
        self.requests.append((request.command, request.path, request.headers.get("Authorization")))
        if re.match(rf"/api/models/owner/thing/revision/({REVISION}|main)", request.path):
            listed = [{"rfilename": name} for name in self.files]
            self.send(request, json.dumps({"id": "owner/thing", "sha": REVISION, "siblings": listed}).encode())
            return
        if re.match(rf"/api/models/owner/thing/tree/{REVISION}", request.path):  # huggingface_hub 1.33 and later
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in self.files.items()
            ]
            self.send(request, json.dumps(entries).encode())
            return
        match = re.fullmatch(rf"/owner/thing/resolve/(?:{REVISION}|main)/([\w.]+)", request.path)
        if match is None or match[1] not in self.files:
            request.send_error(404)
            return
        self.send(request, self.files[match[1]])

    def send(self, request, data):
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        request.send_header("X-Repo-Commit", REVISION)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(data)

    def close(self):
        self.server.shutdown()
        self.server.server_close()
