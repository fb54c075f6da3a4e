"""A stand-in of the Hugging Face Hub on this machine: commits, branches, LFS files, visibility and tokens."""

import base64
import hashlib
import http.server
import json
import re
import threading
import urllib.parse

TOKEN = "hf_owner"
# Files up to this size are sent inside a commit, larger ones through LFS.
REGULAR = 20_000


class Repository:
    """Its branches name commits; a commit is its files by name."""

    def __init__(self, private):
        self.private, self.branches, self.commits = private, {}, {}
        self.commit("main", {})

    def commit(self, branch, files):
        commit = hashlib.sha1(f"{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.branches[branch] = commit
        return commit

    def resolve(self, revision):
        return revision if revision in self.commits else self.branches.get(revision)


class HubServer:
    """``repositories`` by name; ``requests`` has the method, path and token of each one.

    ``cut`` names files whose transfer ends in the middle, ``status`` is what every request is refused with, and
    ``makes_public`` is a Hub that does not make private repositories.
    """

    def __init__(self):
        self.repositories, self.large, self.requests = {}, {}, []
        self.cut, self.status, self.makes_public, self.card_error = set(), None, False, ""
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                length = int(self.headers.get("Content-Length") or 0)
                hub.answer(self, urllib.parse.unquote(self.path.partition("?")[0]), self.rfile.read(length))

            do_GET = do_HEAD = do_POST = do_PUT = answer

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request, path, body):
        token = (request.headers.get("Authorization") or "").removeprefix("Bearer ")
        self.requests.append((request.command, path, token))
        if self.status:
            return self.refuse(request, self.status, "", "out of order")
        if path == "/api/validate-yaml":
            errors = [{"message": self.card_error}] if self.card_error else []
            return self.send(request, {"errors": errors, "warnings": []}, 400 if errors else 200)
        if path.startswith("/lfs/"):
            self.large[path.removeprefix("/lfs/")] = body
            return self.send(request, {})
        if token and token != TOKEN:
            return self.refuse(request, 401, "", "Invalid credentials in Authorization header")
        if path == "/api/repos/create":
            return self.create(request, json.loads(body), token)
        match = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/(\w+)/(.+))?", path)
        if match:
            return self.api(request, match[1], match[2], match[3], body, token)
        if match := re.fullmatch(r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            return self.batch(request, json.loads(body))
        if match := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/(.+)/([^/]+)", path):
            return self.resolve(request, match[1], match[2], match[3], token)
        return self.refuse(request, 404, "", "no such page")

    def visible(self, name, token):
        repository = self.repositories.get(name)
        return None if repository is None or (repository.private and token != TOKEN) else repository

    def create(self, request, asked, token):
        if token != TOKEN:
            return self.refuse(request, 401, "", "You need to be authenticated")
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.repositories:
            return self.refuse(request, 409, "", "You already created this model repo")
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.repositories[name] = Repository(private and not self.makes_public)
        return self.send(request, {"url": f"{self.url}/{name}", "name": name})

    def api(self, request, name, verb, rest, body, token):
        repository = self.visible(name, token)
        if repository is None:
            return self.refuse(request, 401, "RepoNotFound", "Repository not found")
        if verb in (None, "revision"):
            commit = repository.resolve(rest or "main")
            if commit is None:
                return self.refuse(request, 404, "RevisionNotFound", f"Invalid rev id: {rest}")
            siblings = [{"rfilename": file} for file in repository.commits[commit]]
            return self.send(request, {"id": name, "sha": commit, "private": repository.private, "siblings": siblings})
        if token != TOKEN:
            return self.refuse(request, 403, "", "you may read alone")
        if verb == "branch":
            repository.branches.setdefault(rest, repository.branches["main"])
            return self.send(request, {})
        if verb == "preupload":
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "regular" if file["size"] <= REGULAR else "lfs",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self.send(request, {"files": modes})
        assert verb == "commit", verb
        files = dict(repository.commits[repository.branches[rest]])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = repository.commit(rest, files)
        return self.send(request, {"commitUrl": f"{self.url}/{name}/commit/{commit}", "commitOid": commit})

    def batch(self, request, asked):
        objects = [
            {**entry, "actions": {"upload": {"href": f"{self.url}/lfs/{entry['oid']}"}}} for entry in asked["objects"]
        ]
        self.send(request, {"transfer": "basic", "objects": objects}, kind="application/vnd.git-lfs+json")

    def resolve(self, request, name, revision, file, token):
        repository = self.visible(name, token)
        if repository is None:
            return self.refuse(request, 401, "RepoNotFound", "Repository not found")
        commit = repository.resolve(revision)
        if commit is None:
            return self.refuse(request, 404, "RevisionNotFound", f"Invalid rev id: {revision}")
        data = repository.commits[commit].get(file)
        if data is None:
            return self.refuse(request, 404, "EntryNotFound", "Entry not found", commit)
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        request.send_header("X-Repo-Commit", commit)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(data[: len(data) // 2] if file in self.cut else data)
            request.close_connection = file in self.cut
        return None

    def send(self, request, content, status=200, kind="application/json"):
        data = json.dumps(content).encode()
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data)

    def refuse(self, request, status, code, message, commit=""):
        request.send_response(status)
        for name, value in (("X-Error-Code", code), ("X-Error-Message", message), ("X-Repo-Commit", commit)):
            if value:
                request.send_header(name, value)
        request.send_header("Content-Length", "0")
        request.end_headers()
