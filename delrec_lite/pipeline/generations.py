"""The generations of a run: the first training is one, each update of its data another; one file says which counts.

``updates/current.json`` names the newest update and the data set that it extends. Its folder, ``updates/001`` and on,
has the extended data set and the stages that went on from the generation before, as the run's folder has those of the
first training.
"""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from delrec_lite.errors import DataError
from delrec_lite.files import put_in_place, remove_files, sha256_of, write_atomic, writing
from delrec_lite.pipeline.stage import DONE, FinishedStage, clear_stage
from delrec_lite.runtime.manifest import MANIFEST, bundle_files

UPDATES, CURRENT, REPORT = "updates", "current.json", "report.json"
STAGES = ("text", "teacher", "distill", "finetune", "export")
ANEW = "anew"


@dataclass(frozen=True)
class Generation:
    """An update that counts.

    Attributes:
        number: From 1.
        folder: Of its data set and stages.
        base: Identity of the data set that was prepared at first, see ``kept.identity_of``.
        bundle: sha256 of the manifest of its bundle.
    """

    number: int
    folder: Path
    base: str
    bundle: str


def folder_of(run: Path, number: int) -> Path:
    """The folder of a run's update."""
    return run / UPDATES / f"{number:03}"


def waiting_path(run: Path, number: int) -> Path:
    """The file of interactions that wait after an update; 0 is the first training."""
    return run / UPDATES / f"waiting-{number:03}.json"


def newest(run: Path) -> Generation | None:
    """The update that counts; None in a run without updates.

    Raises:
        DataError: ``current.json`` is damaged.
    """
    path = run / UPDATES / CURRENT
    if not path.is_file():
        return None
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        number, base, bundle = int(fields["update"]), str(fields["base"]), str(fields["bundle"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read {path}: {error}", "train again: `delrec-lite train RECIPE --fresh`") from error
    return Generation(number, folder_of(run, number), base, bundle)


def make_newest(run: Path, generation: Generation) -> None:
    """From now on this update counts."""
    fields = {"update": generation.number, "base": generation.base, "bundle": generation.bundle}
    write_atomic(run / UPDATES / CURRENT, json.dumps(fields) + "\n")


def prepared(generation: Path) -> FinishedStage:
    """The data set of an update, as the stage ``prepare``.

    Raises:
        DataError: It is missing or damaged.
    """
    try:
        done = json.loads((generation / DONE).read_text(encoding="utf-8"))
        return FinishedStage("prepare", generation, done["key"], done["result"], done["seconds"], computed=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read {generation / DONE}: {error}", "train again: --fresh") from error


def settle(run: Path, bundle: Path) -> None:
    """Give the bundle of the update that counts its place, if a process was killed before it did.

    Two folders swap their names, so a process that was killed after that has left the old bundle in the update's.
    """
    generation = newest(run)
    if generation is None or not (generation.folder / bundle.name / MANIFEST).is_file():
        return
    made = generation.folder / bundle.name
    if sha256_of(made / MANIFEST) != generation.bundle:
        remove_files(made, bundle_files(made) or ())
        return
    with writing(bundle, "bundle", bundle_files):
        put_in_place(made, bundle, "bundle", bundle_files)


def clear_generation(folder: Path) -> None:
    """Remove what training wrote into an update's folder; its report stays."""
    for part in (folder / ANEW, folder):
        for name in STAGES:
            clear_stage(part / name)
        for bundle in part.glob("*.delrec/"):
            remove_files(bundle, bundle_files(bundle) or ())
    with suppress(OSError):  # not empty
        (folder / ANEW).rmdir()
    clear_stage(folder)


def clear_updates(run: Path) -> None:
    """Remove all updates of a run; files of others stay."""
    updates = run / UPDATES
    if updates.is_symlink() or not updates.is_dir():
        return
    waiting = [path.name for path in updates.glob("waiting-*.json") if path.stem.partition("-")[2].isdecimal()]
    remove_files(updates, [CURRENT, *waiting])
    for folder in list(updates.glob("*/")):
        if folder.name.isdecimal() and not folder.is_symlink():
            remove_files(folder, [REPORT])
            clear_generation(folder)
    with suppress(OSError):
        updates.rmdir()
