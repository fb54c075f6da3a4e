"""Builds and starts what a Containerfile says, without a container engine; this machine stands for the base image.

Each stage is an overlay over this machine's root folder, in a mount namespace of its own, and its commands run in it
by chroot. `unshare --mount python tests/images.py build CONTAINERFILE CONTEXT TARGET BUNDLE SCRIPT [ARGUMENT...]`
builds the stage TARGET and starts its ENTRYPOINT with the arguments: as its USER, with a read-only root, without
capabilities, in a network of its own. SCRIPT, a shell command, runs beside it. The standard library is enough.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

SETTINGS = ("USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT")
# Where the base image has python and pip.
BASE_PATH = f"{sys.base_prefix}/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Stage:
    """A stage of a Containerfile: its base, its instructions in order, and its settings, inherited ones too."""

    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)


def read_stages(text):
    """The stages by name, in their order."""
    stages, stage = {}, None
    plain = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    for line in filter(str.strip, plain.splitlines()):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, name = re.fullmatch(r"(\S+) AS (\S+)", rest).groups()
            inherited = dict(stages[base].settings) if base in stages else {}
            stages[name] = stage = Stage(base, settings=inherited)
        elif word in SETTINGS:
            stage.settings[word] = rest
            stage.steps.append((word, rest))
        else:
            assert word in ("COPY", "RUN", "ENV", "ARG"), f"unknown instruction: {line}"
            stage.steps.append((word, rest))
    return stages


def exec_form(value):
    """The command of an instruction in its JSON form."""
    return json.loads(value[value.index("[") :])


def copy_context(source, target):
    """Copy the files that `.dockerignore` leaves in the build context; the last pattern that fits decides."""
    patterns = [line for line in (source / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]

    def left_out(path):
        parents = [str(path), *(str(parent) for parent in path.parents if parent.name)]
        ignored = False
        for pattern in patterns:
            kept, pattern = pattern.startswith("!"), pattern.lstrip("!")
            if any(fnmatch(name, pattern) or fnmatch(name, pattern.removeprefix("**/")) for name in parents):
                ignored = not kept
            if pattern.startswith("**/") and any(part == pattern[3:] for part in path.parts):
                ignored = not kept
        return ignored

    for folder, folders, files in os.walk(source):
        inside = Path(folder).relative_to(source)
        folders[:] = [name for name in folders if name not in (".git", ".venv", "build", "runs")]
        for name in files:
            if not left_out(inside / name):
                (target / inside).mkdir(parents=True, exist_ok=True)
                shutil.copy(source / inside / name, target / inside / name)


class Builder:
    """Builds stages; its process must have a mount namespace of its own."""

    def __init__(self, stages, context, scratch):
        self.stages, self.context, self.scratch = stages, context, scratch
        self.roots = {}
        call("mount", "-t", "tmpfs", "scratch", scratch)

    def build(self, name):
        """The root folder of a finished stage, and the environment that it sets."""
        if name in self.roots:
            return self.roots[name]
        stage = self.stages[name]
        lower, environment = self.build(stage.base) if stage.base in self.stages else (Path("/"), {"PATH": BASE_PATH})
        environment, arguments, user = dict(environment), {}, "0:0"
        root = self._overlay(name, lower)
        for word, rest in stage.steps:
            if word == "COPY":
                self._copy(root, rest)
            elif word == "RUN":
                run = ["chroot", f"--userspec={user}", root, "/bin/sh", "-ec", rest]
                subprocess.run(run, check=True, env={**environment, **arguments})
            elif word == "USER":
                user = rest
            elif word in ("ENV", "ARG"):
                added = dict(pair.split("=", 1) for pair in rest.split(" "))
                (environment if word == "ENV" else arguments).update(added)
        self.roots[name] = root, environment
        return root, environment

    def _overlay(self, name, lower):
        folder = self.scratch / name
        for part in ("upper", "work", "root"):
            (folder / part).mkdir(parents=True)
        options = f"lowerdir={lower},upperdir={folder / 'upper'},workdir={folder / 'work'}"
        root = folder / "root"
        call("mount", "-t", "overlay", "overlay", "-o", options, root)
        for part in Path(sys.base_prefix).parents:  # every user can start the base image's python
            inside = root / part.relative_to("/")
            inside.chmod(inside.stat().st_mode | 0o555)
        for part in ("proc", "dev"):
            call("mount", "--rbind", f"/{part}", root / part)
        return root

    def _copy(self, root, rest):
        source, target = rest.split(" ")[-2:]
        target = root / target.lstrip("/")
        if rest.startswith("--from="):
            stage = rest.split(" ")[0].removeprefix("--from=")
            shutil.copytree(self.build(stage)[0] / source.lstrip("/"), target, symlinks=True)
        else:
            copy_context(self.context / source, target)


def call(*arguments):
    """Run a command that must work."""
    subprocess.run([str(argument) for argument in arguments], check=True)


def confined(root, user, command):
    """A command in ``root`` as ``user``, without capabilities."""
    uid, gid = user.split(":")
    who = [f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
    return ["chroot", str(root), "setpriv", *who, "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", *command]


def loopback_up():
    """Switch on the loopback device of a fresh network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP


def build(containerfile, context, target, bundle, *arguments):
    """Build a stage, make its root read-only, and start it in a network of its own."""
    stage = read_stages(Path(containerfile).read_text())[target]
    scratch = Path(bundle).parent / "scratch"
    scratch.mkdir()
    root, environment = Builder(read_stages(Path(containerfile).read_text()), Path(context), scratch).build(target)
    (root / "bundle").mkdir()
    call("mount", "--bind", bundle, root / "bundle")
    call("mount", "-o", "remount,ro", root)
    environment |= {name: value for name, value in os.environ.items() if name.startswith(("SHOP_", "DELREC_"))}
    plan = {"root": str(root), "environment": environment, **stage.settings}
    call("unshare", "--net", sys.executable, __file__, "start", json.dumps(plan), *arguments)


def start(plan, script, *arguments):
    """Start an image's server, wait until its health check passes, run ``script`` beside it, and stop it."""
    loopback_up()
    image = json.loads(plan)
    check = confined(image["root"], image["USER"], exec_form(image["HEALTHCHECK"]))
    command = confined(image["root"], image["USER"], [*exec_form(image["ENTRYPOINT"]), *arguments])
    server = subprocess.Popen(command, env=image["environment"], cwd="/")
    try:
        for _ in range(300):
            assert server.poll() is None, f"the server ended with {server.returncode}"
            asked = subprocess.run(check, env=image["environment"], stderr=subprocess.DEVNULL, check=False)
            if asked.returncode == 0:
                break
            time.sleep(0.2)
        else:
            raise AssertionError("the health check never passed")
        environment = {**os.environ, "ROOT": image["root"], "SERVER": str(server.pid)}
        subprocess.run(["/bin/sh", "-ec", script], check=True, env=environment)
        server.send_signal(signal.Signals[image["STOPSIGNAL"]])
        assert server.wait(40) in (0, -signal.SIGTERM), server.returncode
    finally:
        server.kill()


if __name__ == "__main__":
    {"build": build, "start": start}[sys.argv[1]](*sys.argv[2:])
