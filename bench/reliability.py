"""What kills and disk faults leave of a user's files: ``python -m delrec_lite.bench.reliability --out FILE``.

Every verb that writes is killed at random moments, and meets a full disk and I/O errors at calls that change files.
Then the same command runs again: its files must be those of a run without a fault, with nothing beside them. A language
model of two layers with random weights is trained, so that the whole takes a few minutes.
"""

import argparse
import hashlib
import importlib
import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from delrec_lite.bench.faults import Fault, arm, build, changes, is_loaded
from delrec_lite.bench.faulty_inputs import ASSET, serve_asset, write_inputs
from delrec_lite.bench.script import script_parser, write_json
from delrec_lite.errors import DelrecError, did_you_mean
from delrec_lite.provenance import stamp

# Imported once, before any process is forked.
LIGHT = ("delrec_lite.cli.app", "delrec_lite.data.prepare", "delrec_lite.hub.pull")
HEAVY = (
    "transformers.models.llama.modeling_llama",
    "peft",
    "delrec_lite.bench.quantisations",
    "delrec_lite.export.write",
    "delrec_lite.pipeline.text_stage",
    "delrec_lite.teachers.store",
    "delrec_lite.training.distill",
    "delrec_lite.training.finetune",
)
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "TOKENIZERS_PARALLELISM": "false",
    "no_proxy": "127.0.0.1",
}
SWITCHES = ("DELREC_OFFLINE", "DELREC_DEBUG")
CLEAR = ("error:", "interrupted")
MOST_TRIALS = 5
# Keys of times, which may be equal by chance.
TIMES = ("seconds", "created", "mtime_ns")
UNCLEAR = ("Traceback", "this is a bug", "should not happen")


@dataclass(frozen=True)
class Verb:
    """A command that writes.

    Attributes:
        name: As on the command line.
        words: Its arguments; paths are below the folder in which it runs.
        output: The folder it writes, with what lies beside it.
        needs_model: Whether it reads a model or its bundle.
        check: Raises if what is there can be read no more; called after each fault, before the command runs again.
    """

    name: str
    words: tuple[str, ...]
    output: str
    needs_model: bool
    check: Callable[[Path], Any]


@dataclass(frozen=True)
class Ended:
    """How a child process ended.

    Attributes:
        code: Exit code; negative: the signal.
        seconds: Elapsed.
        changes: Calls that changed files; 0 if it was killed.
        log: What it printed.
    """

    code: int
    seconds: float
    changes: int
    log: str


def verbs() -> dict[str, Verb]:
    """All verbs that are tried, by name."""
    prepare = ("--interactions", "log.csv", "--items", "items.csv", "--k-core", "1", "--candidates", "4", "-q")
    return {
        verb.name: verb
        for verb in (
            Verb("pull", (ASSET, "-q"), "cache", False, _nothing),
            Verb("prepare", ("shop", *prepare, "--seed", "5", "--out", "data/shop"), "data", False, _dataset),
            Verb("train", ("tiny.yaml", "--runs", "runs", "-q"), "runs", True, _nothing),
            Verb("export", ("tiny.yaml", "--runs", "trained", "-q"), "trained", True, _exported),
            Verb("catalog add", ("bundles/shop.delrec", "new.csv", "-q"), "bundles", True, _bundle),
        )
    }


def _nothing(_: Path) -> None:
    """There was nothing before."""


def _dataset(folder: Path) -> None:
    from delrec_lite.data.store import load_candidates, load_dataset

    load_dataset(folder / "data" / "shop")
    load_candidates(folder / "data" / "shop")


def _bundle(folder: Path) -> None:
    from delrec_lite.runtime.bundle import Bundle

    _ = Bundle.open(folder / "bundles" / "shop.delrec", verify_all=True).items


def _exported(folder: Path) -> None:
    from delrec_lite.runtime.bundle import Bundle

    target = folder / "trained" / "tiny" / "tiny.delrec"
    if target.exists():
        Bundle.open(target, verify_all=True)


def run_child(words: Sequence[str], folder: Path, watched: Path, fault: Fault, after: float | None = None) -> Ended:
    """Run a command in a process forked from this one.

    Args:
        words: Of the command line, without the program.
        folder: In which it runs.
        watched: The folder whose changes are counted, and meet the fault.
        fault: What happens to it.
        after: Seconds after which it is killed; None: never.
    """
    log, count = folder.with_suffix(".log"), folder.with_suffix(".count")
    count.unlink(missing_ok=True)
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        os._exit(_call(words, folder, watched, fault, log, count))
    status = _wait(child, None if after is None else start + after)
    seconds = time.monotonic() - start
    number = int(count.read_text()) if count.is_file() else 0
    return Ended(os.waitstatus_to_exitcode(status), seconds, number, log.read_text(errors="replace"))


def _wait(child: int, deadline: float | None) -> int:
    while deadline is not None:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        if time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
            break
        time.sleep(0.001)
    return os.waitpid(child, 0)[1]


def _call(words: Sequence[str], folder: Path, watched: Path, fault: Fault, log: Path, count: Path) -> int:
    """In the child: the exit code of the command."""
    output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(folder)
    os.environ["DELREC_CACHE"] = str(folder / "cache")
    sys.argv = ["delrec-lite", *words]
    code = 0
    arm(watched.resolve(), fault)
    try:
        runpy.run_module("delrec_lite", run_name="__main__")
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 70
    number = changes()
    arm(Path("/nowhere"), Fault())
    sys.stdout.flush()
    sys.stderr.flush()
    count.write_text(str(number))
    return code


def contents(folder: Path) -> dict[str, str]:
    """All files below a folder: each value of a JSON file by its key, other files by their digest."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or path.suffix == ".lock":
            continue
        if path.suffix == ".json":
            _flatten(json.loads(path.read_text(encoding="utf-8")), name, found)
        elif path.suffix == ".jsonl":
            _flatten([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()], name, found)
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _flatten(value: Any, name: str, found: dict[str, str]) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _flatten(inner, f"{name}#{key}", found)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for number, inner in enumerate(value):
            _flatten(inner, f"{name}#{number}", found)
    else:
        found[name] = json.dumps(value)


@dataclass(frozen=True)
class Unbroken:
    """What a command does without a fault.

    Attributes:
        contents: See ``contents``.
        volatile: Names whose value differs between two such runs, as times do.
        seconds: Of the second run.
        changes: Calls that changed files.
    """

    contents: dict[str, str]
    volatile: set[str]
    seconds: float
    changes: int

    def differences(self, now: dict[str, str]) -> list[str]:
        """Names that are missing, new, or have another value."""
        names = self.contents.keys() | now.keys()
        return sorted(n for n in names if (n in self.contents) != (n in now) or self._differs(n, now[n]))

    def _differs(self, name: str, value: str) -> bool:
        is_time = name.rpartition("#")[2] in TIMES
        return not is_time and name not in self.volatile and self.contents[name] != value


class Trials:
    """Runs one verb, whole and with faults.

    Args:
        verb: The command.
        inputs: Folder with what all verbs read; a copy of it is made for each trial.
        work: Folder for the copies.
    """

    def __init__(self, verb: Verb, inputs: Path, work: Path) -> None:
        self.verb, self._inputs, self._folder = verb, inputs, work / "trial"
        self._words = (*verb.name.split(), *verb.words)
        first, _ = self._whole()
        second, ended = self._whole()
        volatile = {name for name in first.keys() & second.keys() if first[name] != second[name]}
        self.unbroken = Unbroken(second, volatile, ended.seconds, ended.changes)

    def _fresh(self) -> Path:
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.copytree(self._inputs, self._folder, symlinks=True)
        return self._folder

    def _run(self, fault: Fault, after: float | None = None) -> Ended:
        return run_child(self._words, self._folder, self._folder / self.verb.output, fault, after)

    def _whole(self) -> tuple[dict[str, str], Ended]:
        folder = self._fresh()
        ended = self._run(Fault())
        if ended.code:
            raise DelrecError(f"{self.verb.name} fails without a fault: {ended.log[-500:]}")
        return contents(folder / self.verb.output), ended

    def trial(self, fault: Fault, after: float | None = None) -> dict[str, Any]:
        """One fault, and the same command again; ``lost`` lists what is wrong."""
        folder = self._fresh()
        broken = self._run(fault, after)
        lost = []
        if broken.code > 0 and (not any(c in broken.log for c in CLEAR) or any(u in broken.log for u in UNCLEAR)):
            lost.append(f"no clear message: {broken.log[-300:]}")
        try:
            self.verb.check(folder)
        except DelrecError as error:
            lost.append(f"after the fault: {error.message}")
        again = self._run(Fault())
        if again.code:
            lost.append(f"the same command again: {again.log[-300:]}")
        else:
            lost += self.unbroken.differences(contents(folder / self.verb.output))
        moment = {"after_seconds": round(after, 3)} if after is not None else {"at_change": fault.at}
        return {"fault": fault.kind, **moment, "exit": broken.code, "lost": lost}


def measure(verb: Verb, inputs: Path, work: Path, kills: int, faults: int, seed: int) -> dict[str, Any]:
    """Half of the kills at random moments, half at random changes of files; then as many faults of each kind."""
    rng, trials = random.Random(f"{seed} {verb.name}"), Trials(verb, inputs, work)
    unbroken = trials.unbroken
    results: list[dict[str, Any]] = []
    for _ in range(kills // 2):
        for _ in range(MOST_TRIALS):  # the command may end before the moment that was drawn
            results.append(trials.trial(Fault(), rng.uniform(0, unbroken.seconds)))
            if results[-1]["exit"] == -signal.SIGKILL:
                break
    for kind, count in (("kill", kills - kills // 2), ("ENOSPC", faults), ("EIO", faults)):
        for part in range(count):  # one in each part of the command
            first, last = (1 + unbroken.changes * edge // count for edge in (part, part + 1))
            results.append(trials.trial(Fault(kind, rng.randrange(first, max(first + 1, last)))))
    lost = [result for result in results if result["lost"]]
    killed = [result for result in results if result["exit"] == -signal.SIGKILL]
    print(f"{verb.name}: {len(results)} trials, {len(killed)} killed, {len(lost)} with a loss", file=sys.stderr)
    return {
        "verb": verb.name,
        "seconds": round(unbroken.seconds, 2),
        "changes": unbroken.changes,
        "trials": len(results),
        "killed": len(killed),
        "failed": sum(result["exit"] > 0 for result in results),
        "lost": lost,
        "results": results,
    }


def parser() -> argparse.ArgumentParser:
    """Verbs and numbers of faults."""
    options = script_parser("reliability", __doc__)
    options.add_argument("--verb", action="append", help=f"repeatable; default: all of {', '.join(verbs())}")
    options.add_argument("--kills", type=int, default=20, help="of each verb")
    options.add_argument("--faults", type=int, default=5, help="full disks and I/O errors, of each verb")
    options.add_argument("--seed", type=int, default=1)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Try the verbs and write the report."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = parser().parse_args(words)
    for name in options.verb or ():
        if name not in verbs():
            raise DelrecError(f"no verb {name!r} is tried", did_you_mean(name, verbs()))
    with tempfile.TemporaryDirectory() as folder:
        if not is_loaded():
            sys.exit(_preloaded(words, Path(folder)))
        write_json(_measure_all(options, Path(folder).resolve()), options.out)


def _preloaded(words: Sequence[str], folder: Path) -> int:
    """This program again, with the library loaded first and one thread."""
    environment = {**os.environ, **SETTINGS, "LD_PRELOAD": str(build(folder))}
    for name in SWITCHES:
        environment.pop(name, None)
    command = [sys.executable, "-m", "delrec_lite.bench.reliability", *words]
    return subprocess.run(command, env=environment, check=False).returncode


def _measure_all(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    os.environ.pop("LD_PRELOAD")  # not for the children's own children
    started, start = stamp(), time.monotonic()
    inputs, chosen = folder / "inputs", [verbs()[name] for name in options.verb or verbs()]
    needs_model = any(verb.needs_model for verb in chosen)
    for module in (*LIGHT, *(HEAVY if needs_model else ())):
        importlib.import_module(module)
    with serve_asset() as register:
        register()
        write_inputs(inputs, needs_model, partial(_must, inputs))
        rows = [measure(verb, inputs, folder, options.kills, options.faults, options.seed) for verb in chosen]
    return {
        **started,
        "seconds": round(time.monotonic() - start, 1),
        "seed": options.seed,
        "inputs_tried": sum(row["trials"] for row in rows),
        "kills_survived": sum(row["killed"] for row in rows),
        "faults_injected": sum(r["fault"] != "kill" for row in rows for r in row["results"]),
        "lost": sum(len(row["lost"]) for row in rows),
        "verbs": rows,
    }


def _must(folder: Path, *words: str) -> None:
    ended = run_child(words, folder, folder, Fault())
    if ended.code:
        raise DelrecError(f"{' '.join(words)} failed: {ended.log[-500:]}")


if __name__ == "__main__":
    main()
