"""`score`: recommendations for all users of an input, in a folder; a run that was stopped goes on where it was."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from delrec_lite.console import QUIET, Console
from delrec_lite.data.badrows import Policy, parse_policy
from delrec_lite.data.packages import arrow
from delrec_lite.data.sources import is_data_file
from delrec_lite.errors import StorageError, UsageError, did_you_mean
from delrec_lite.files import put_in_place, writing
from delrec_lite.machine import cores_allowed
from delrec_lite.provenance import now
from delrec_lite.runtime.arguments import check_k
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines.hybrid import teacher_weight
from delrec_lite.runtime.filters import Filters
from delrec_lite.runtime.item_columns import ItemColumns
from delrec_lite.runtime.remote import located
from delrec_lite.scoring.columns import Names
from delrec_lite.scoring.folder import (
    DONE,
    KIND,
    RUNNING,
    WHAT,
    WORK,
    Scored,
    check_same,
    made,
    missing_parts,
    read_manifest,
    write_manifest,
)
from delrec_lite.scoring.inputs import InputFile, input_files, input_fingerprint
from delrec_lite.scoring.local import score_local
from delrec_lite.scoring.ray_engine import score_ray
from delrec_lite.scoring.scorer import bundle_fingerprint, ids_in
from delrec_lite.scoring.work import REJECTED, part_name, write_work
from delrec_lite.version import __version__

PART_USERS = 2000
Engine = Callable[[dict[str, Any], Path, Path, Sequence[str], int, Callable[[int], None]], None]
ENGINES: dict[str, Engine] = {"local": score_local, "ray": score_ray}
MOST_NAMED = 5


@dataclass(frozen=True)
class Options:
    """What is recommended to whom; a run that goes on must have the same ones.

    Attributes:
        k: Items for each user.
        candidates: As in ``Scorer``.
        exclude: As in ``Scorer``.
        where: As in ``Scorer``.
        exclude_history: As in ``Scorer``.
        on_bad_row: ``refuse`` or ``drop`` rows that cannot be scored.
        columns: Names of the input's columns.
        part_users: Users of a part, which is what is finished or not.
        quant: As in ``Scorer``.
        fused: As in ``Scorer``.
        exact: As in ``Scorer``.
    """

    k: int = 10
    candidates: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    where: str | None = None
    exclude_history: bool | None = None
    on_bad_row: Policy = "refuse"
    columns: Names = Names()
    part_users: int = PART_USERS
    quant: str | None = None
    fused: bool | None = None
    exact: bool = False

    def __post_init__(self) -> None:
        parse_policy(self.on_bad_row, "on_bad_row")
        if self.candidates is not None:
            object.__setattr__(self, "candidates", ids_in(self.candidates, "candidates"))
        object.__setattr__(self, "exclude", ids_in(self.exclude, "exclude"))

    def scorer(self) -> dict[str, Any]:
        """Arguments of ``Scorer``."""
        names = ("k", "candidates", "exclude", "where", "exclude_history", "quant", "fused", "exact")
        return {name: getattr(self, name) for name in names}

    def dump(self) -> dict[str, Any]:
        """For the manifest; lists of items by their number and sha256. Runs of older versions have no ``exact``."""
        lists = {"candidates": self.candidates, "exclude": self.exclude or None}
        facts = asdict(self) | {name: None if items is None else _digest(items) for name, items in lists.items()}
        return {name: value for name, value in facts.items() if name != "exact" or value}


def score(
    bundle: Path,
    users: str,
    out: Path,
    options: Options = Options(),
    engine: str = "local",
    workers: int | None = None,
    console: Console = QUIET,
) -> Scored:
    """Recommend items to all users of an input.

    Args:
        bundle: Its folder; all workers open it. Or ``hf://ORG/NAME[@REVISION]``, fetched here.
        users: Path of Parquet, CSV or JSON Lines: a file, a folder, or a pattern such as ``logs/*.parquet``.
        out: Folder for ``part-00000.parquet`` and so on, each with ``user_id``, ``rank``, ``item_id`` and ``score``,
            ``rejected.parquet`` with the rows left out, and ``manifest.json``.
        options: What is recommended to whom.
        engine: ``local``: processes of this machine; ``ray``: actors of Ray, with all folders on shared storage.
        workers: How many processes or actors; default: the cores allowed.
        console: Shows progress.

    Returns:
        The manifest, its ``counts`` with ``users``, ``rows``, ``rejected`` and others; ``to_frame`` reads the parts.

    Raises:
        BundleError: The bundle cannot be opened, or another one takes its place while this runs.
        DataError: The input cannot be read, lacks a column, or has rows that are refused.
        MissingPackageError: duckdb, pyarrow, Ray or the engine's package is not installed.
        StorageError: The disk is full; ``out`` holds something else, or another run, or is being written.
        UsageError: An option that cannot be.
    """
    if engine not in ENGINES:
        raise UsageError(f"no engine {engine!r}", did_you_mean(engine, ENGINES))
    check_k(options.k)
    workers = cores_allowed() if workers is None else workers
    if min(workers, options.part_users) < 1:
        raise UsageError("--workers and --part-rows are numbers from 1", "leave them out for the defaults")
    files = input_files(users)
    _refuse_within(files, users, out)
    bundle = located(bundle, console)
    known = _known_items(bundle, options, console)
    fingerprint = bundle_fingerprint(bundle)
    identity = {
        "bundle": fingerprint,
        "input": input_fingerprint(files),
        "options": options.dump(),
    }
    with writing(out, WHAT, made, lambda: _refuse(out)) as (target, staging):
        manifest = read_manifest(target)
        if manifest is not None:
            check_same(out, manifest, identity)
        missing = [] if manifest is None else missing_parts(target, manifest["counts"]["parts"])
        if manifest is None or not all((target / WORK / name).is_file() for name in missing):
            console.heading("reading users")
            (staging / WORK).mkdir(parents=True)
            counts = write_work(
                files, options.columns, known, staging / WORK, options.part_users, options.on_bad_row, console
            )
            manifest = _begin(target, staging, {**identity, "counts": counts.dump()})
        _score_missing(target, manifest, ENGINES[engine], _scorer(bundle, options, fingerprint), workers, console)
        return _finish(target, manifest)


def _refuse_within(files: Sequence[InputFile], users: str, out: Path) -> None:
    """Refuse recommendations among the users: the next call would read them as users.

    Raises:
        UsageError: ``out`` is in the folder of the input, or the input has files of ``out``.
    """
    target = out.resolve()
    read = [target.relative_to(Path(users).resolve())] if target.is_relative_to(Path(users).resolve()) else []
    if (Path(users).is_dir() and read and is_data_file(read[0] / part_name(0))) or any(
        file.path.resolve().is_relative_to(target) for file in files
    ):
        raise UsageError(f"--out {out} is among the users at {users}", "choose a folder beside them")


def _refuse(out: Path) -> None:
    raise StorageError(f"another process is writing {out}", "wait for it, or choose another --out")


def _known_items(bundle: Path, options: Options, console: Console) -> Collection[str]:
    """The ids of the catalogue.

    Raises:
        UsageError: Candidates are needed and missing, or none of them is known; the filter is none.
    """
    opened = Bundle.open(bundle, quant=options.quant)
    known = frozenset(opened.items.ids)
    if options.fused:
        teacher_weight(opened)
    if options.candidates is None and not opened.prompt.format.ranks_catalogue:
        raise UsageError(f"{bundle} ranks candidates alone", "give their ids in a file: --candidates FILE")
    if options.candidates is not None and known.isdisjoint(options.candidates):
        raise UsageError("no candidate is in the catalogue", "candidates are item ids of the data set, one a line")
    if options.where is not None:
        Filters(ItemColumns(opened.columns, len(opened.items.ids))).mask(options.where)
    for name, items in (("candidates", options.candidates or ()), ("exclude", options.exclude)):
        if unknown := [item for item in items if item not in known]:
            named = ", ".join(map(repr, unknown[:MOST_NAMED]))
            console.say(f"not in the catalogue, left out of {name}: {len(unknown)}, {named}")
    return known


def _scorer(bundle: Path, options: Options, fingerprint: str) -> dict[str, Any]:
    return {"bundle": str(bundle.absolute()), "fingerprint": fingerprint, **options.scorer()}


def _begin(target: Path, staging: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Put the work in place, and a manifest beside it."""
    manifest = {"kind": KIND, "version": __version__, "state": RUNNING, "created": now(), **facts}
    if read_manifest(target) is not None:  # parts of a finished run were removed
        shutil.rmtree(target / WORK, ignore_errors=True)
        (staging / WORK).rename(target / WORK)
        write_manifest(target, manifest)
        return manifest
    if (staging / WORK / REJECTED).is_file():
        (staging / WORK / REJECTED).rename(staging / REJECTED)
    write_manifest(staging, manifest)
    put_in_place(staging, target, WHAT, made)
    return manifest


def _score_missing(
    target: Path, manifest: Mapping[str, Any], engine: Engine, scorer: dict[str, Any], workers: int, console: Console
) -> None:
    counts, part_users = manifest["counts"], manifest["options"]["part_users"]
    missing = missing_parts(target, counts["parts"])
    if not missing:
        return
    if finished := counts["parts"] - len(missing):
        console.say(f"{finished} of {counts['parts']} parts are finished already")
    total = len(missing) * part_users
    if missing[-1] == part_name(counts["parts"] - 1):
        total += counts["users"] - counts["parts"] * part_users
    start, scored = time.monotonic(), 0
    with console.progress("users", total) as tick:

        def count(users: int) -> None:
            nonlocal scored
            scored += users
            tick(users, f"{scored / (time.monotonic() - start):.0f} users/s")

        engine(scorer, target / WORK, target, missing, min(workers, len(missing)), count)


def _finish(target: Path, manifest: dict[str, Any]) -> Scored:
    if manifest["state"] != DONE:
        parts = (target / part_name(number) for number in range(manifest["counts"]["parts"]))
        rows = sum(arrow().parquet.read_metadata(part).num_rows for part in parts)
        manifest = {**manifest, "state": DONE, "finished": now(), "counts": {**manifest["counts"], "rows": rows}}
        write_manifest(target, manifest)
    with suppress(FileNotFoundError):
        shutil.rmtree(target / WORK)
    return Scored(manifest, target)


def _digest(items: Sequence[str]) -> dict[str, Any]:
    return {"items": len(items), "sha256": hashlib.sha256(json.dumps(items).encode()).hexdigest()}
