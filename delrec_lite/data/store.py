"""Reads and writes a prepared data set as a folder of JSON, npz and npy files, without pickle.

``dataset.json`` (counts, settings, fingerprint), ``catalog.json`` (ids, titles, side texts), ``columns.json`` (item
columns, where there are any), ``users.json`` (ids),
``sequences.npz`` (``items`` of all users concatenated, ``lengths`` per user, ``cuts`` of a split by time, ``unasked``
users without questions, ``asked`` users who were sampled),
``candidates-valid.json`` and ``candidates-test.json``. Schema 2, of large data sets, has arrays in place of the last
three: see ``arrays``. ``item-vectors.npy``: see ``vectors``. Training reads no ``times.npy``: see ``kept``.
"""

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from delrec_lite.data.arrays import (
    ARRAY_FILES,
    map_sequences,
    question_arrays,
    read_candidates,
    read_cuts,
    read_users,
    write_arrays,
)
from delrec_lite.data.columns import columns_fingerprint, dump_columns, load_columns
from delrec_lite.data.duplicates import Duplicates
from delrec_lite.data.kept import TIMES
from delrec_lite.data.sequences import MappedSequences, joined_blocks, lengths_of
from delrec_lite.data.types import SPLITS, CandidateSets, Catalog, Dataset, Ints
from delrec_lite.data.vectors import FILE as VECTORS
from delrec_lite.errors import DataError, StorageError, UsageError, did_you_mean
from delrec_lite.files import put_in_place, writing

SplitRule = Literal["leave-one-out", "chronological"]
SCHEMA, SCHEMA_OF_ARRAYS = 1, 2
_AGAIN = "prepare the data set again"
_FILES = {
    "dataset.json",
    "catalog.json",
    "columns.json",
    "users.json",
    "sequences.npz",
    "candidates-valid.json",
    "candidates-test.json",
    TIMES,
    VECTORS,
    *ARRAY_FILES,
}


@dataclass(frozen=True)
class Settings:
    """Settings that a data set was prepared with.

    Attributes:
        k_core: Minimum interactions per user and per item.
        m: Candidates per user.
        seed: Random seed of the candidate sets.
        split: ``leave-one-out``, or ``chronological``: 8:1:1 by time, cut at the same two times for all users.
        text_columns: Columns of the item list that are kept as side text.
        duplicates: See ``without_duplicates``.
        repeats: Whether an item that a user had before may be the next one; None: if that is usual in the log.
        item_columns: Columns of the item list that are kept for filters, each maybe with its type: ``price:number``.
        test_users: How many users have questions, drawn with the seed; None: all.
        domain: What an item is, for prompts, see ``prompts.domain``; None: the recipe says it.
        verb: What people have done with an item; None: the verb of the domain.
    """

    k_core: int
    m: int
    seed: int
    split: SplitRule = "leave-one-out"
    text_columns: tuple[str, ...] = ()
    duplicates: Duplicates = "keep"
    repeats: bool | None = None
    item_columns: tuple[str, ...] = ()
    test_users: int | None = None
    domain: str | None = None
    verb: str | None = None

    def dump(self) -> dict[str, Any]:
        """As JSON values; without columns, ``test_users`` and words where there are none."""
        listed = {name: list(getattr(self, name)) for name in ("text_columns", "item_columns")}
        values, optional = {**vars(self), **listed}, {*listed, "test_users", "domain", "verb"}
        return {name: value for name, value in values.items() if value or name not in optional}


def parse_split(text: str) -> SplitRule:
    """Read ``leave-one-out`` or ``chronological``.

    Raises:
        UsageError: Anything else.
    """
    if text not in get_args(SplitRule):
        raise UsageError(f"no split is called {text!r}", did_you_mean(text, get_args(SplitRule)))
    return text  # type: ignore[return-value]


def make_dataset(
    name: str,
    catalog: Catalog,
    user_ids: Sequence[str],
    sequences: Sequence[Ints],
    cuts: Ints | None = None,
    repeats: bool = False,
    unasked: tuple[int, ...] = (),
    asked: tuple[int, ...] | None = None,
) -> Dataset:
    """A data set with its fingerprint: sha256 over all attributes."""
    texts = [catalog.texts] if catalog.texts else []
    digest = hashlib.sha256(json.dumps([name, catalog.ids, catalog.titles, list(user_ids), *texts]).encode())
    lengths = lengths_of(sequences)
    for users, items in joined_blocks(sequences):  # before its items, the length of each sequence
        counts = lengths[users]
        digest.update(np.insert(items, np.cumsum(counts) - counts, counts).astype("<i8").tobytes())
    if cuts is not None:
        digest.update(cuts.astype("<i8").tobytes())
    if repeats or unasked:  # else the fingerprint is that of data sets from before there was either
        digest.update(json.dumps([repeats, unasked]).encode())
    if asked is not None:
        digest.update(json.dumps({"asked": asked}).encode())
    kept = sequences if isinstance(sequences, MappedSequences) else tuple(sequences)
    return Dataset(name, catalog, tuple(user_ids), kept, digest.hexdigest(), cuts, repeats, unasked, asked)


def save_dataset(
    dataset: Dataset,
    candidates: Mapping[str, CandidateSets],
    settings: Settings,
    folder: Path,
    checks: Mapping[str, Any] | None = None,
    times: Any | None = None,
    source: Mapping[str, Any] | None = None,
) -> None:
    """Write ``folder`` atomically; an existing data set in its place is replaced.

    Args:
        dataset: To write; ``dataset.json`` has its ``repeats``.
        candidates: Candidate sets by split.
        settings: That it was prepared with.
        folder: Its place.
        checks: What was found in the log, for ``dataset.json``.
        times: Of its interactions, user after user, for updates.
        source: How the log was read, for updates, see ``kept.source_of``.

    Raises:
        StorageError: It cannot be written, or contains something else than a data set.
    """
    try:
        with writing(folder, "data set", dataset_files) as (target, staging):
            staging.mkdir()
            if times is not None:
                np.save(staging / TIMES, times, allow_pickle=False)
            _write(dataset, candidates, settings, staging, checks or {}, source)
            put_in_place(staging, target, "data set", dataset_files)
    except OSError as error:
        raise StorageError(
            f"cannot write {folder}: {error.strerror or error}",
            "choose a folder you own on a disk with free space",
        ) from error


def dataset_files(folder: Path) -> set[str] | None:
    """The files of a data set in ``folder``, see ``files.check_folder``; None if there is no data set."""
    try:
        about = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return _FILES if isinstance(about, dict) and {"schema", "fingerprint"} <= about.keys() else None


def _write(
    dataset: Dataset,
    candidates: Mapping[str, CandidateSets],
    settings: Settings,
    folder: Path,
    checks: Mapping[str, Any],
    source: Mapping[str, Any] | None,
) -> None:
    lengths = lengths_of(dataset.sequences)
    items = np.concatenate(dataset.sequences) if dataset.sequences else np.empty(0, dtype=np.int64)
    arrays: dict[str, Any] = {"items": items.astype(np.int32), "lengths": lengths, **question_arrays(dataset)}
    np.savez_compressed(folder / "sequences.npz", **arrays)
    for split, sets in candidates.items():
        rows = {
            "split": split,
            "seed": sets.seed,
            "dataset": dataset.fingerprint,
            "items": sets.items.tolist(),
        }
        _dump(folder / f"candidates-{split}.json", rows)
    _write_about(dataset, candidates, settings, folder, checks, {"schema": SCHEMA}, source)


def write_large(
    dataset: Dataset,
    candidates: Mapping[str, CandidateSets],
    settings: Settings,
    folder: Path,
    checks: Mapping[str, Any],
    source: Mapping[str, Any] | None = None,
) -> None:
    """Write a data set whose sequences are already in ``folder`` as arrays; the rest as ``save_dataset``."""
    write_arrays(folder, dataset, candidates)
    digests = {split: sets.fingerprint for split, sets in candidates.items()}
    head = {"schema": SCHEMA_OF_ARRAYS, "candidates": digests}
    _write_about(dataset, candidates, settings, folder, checks, head, source)


def _write_about(
    dataset: Dataset,
    candidates: Mapping[str, CandidateSets],
    settings: Settings,
    folder: Path,
    checks: Mapping[str, Any],
    head: Mapping[str, Any],
    source: Mapping[str, Any] | None,
) -> None:
    catalog, texts = dataset.catalog, {"texts": dataset.catalog.texts} if dataset.catalog.texts else {}
    _dump(folder / "catalog.json", {"ids": catalog.ids, "titles": catalog.titles, **texts})
    _dump(folder / "users.json", dataset.user_ids)
    if catalog.columns:
        _dump(folder / "columns.json", dump_columns(catalog.columns))
    about = {
        **head,
        "name": dataset.name,
        "users": len(dataset.user_ids),
        "items": len(dataset.catalog),
        "interactions": dataset.interactions,
        "questions": {split: len(sets.items) for split, sets in candidates.items()},
        **settings.dump(),
        "repeats": dataset.repeats,
        **({"checks": checks} if checks else {}),
        **({"source": source} if source else {}),
        **({"columns": columns_fingerprint(catalog.columns)} if catalog.columns else {}),
        "fingerprint": dataset.fingerprint,
    }
    _dump(folder / "dataset.json", about, indent=2)


def _dump(path: Path, data: Any, indent: int | None = None) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(data, file, ensure_ascii=False, indent=indent)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def load_dataset(folder: Path) -> Dataset:
    """Read a prepared data set and check its fingerprint.

    Raises:
        DataError: Not a prepared data set, another schema version, or changed after it was prepared.
    """
    about = _load(folder / "dataset.json")
    if about.get("schema") not in (SCHEMA, SCHEMA_OF_ARRAYS):
        schemas = f"{SCHEMA} and {SCHEMA_OF_ARRAYS}"
        raise DataError(f"{folder} has data set schema {about.get('schema')}, this program reads {schemas}", _AGAIN)
    try:
        titles, users = _load(folder / "catalog.json"), _load(folder / "users.json")
        columns = load_columns(_load(folder / "columns.json"), len(titles["ids"])) if "columns" in about else ()
        catalog = Catalog(tuple(titles["ids"]), tuple(titles["titles"]), tuple(titles.get("texts", ())), columns)
        parts = _mapped_parts(folder) if about["schema"] == SCHEMA_OF_ARRAYS else _packed_parts(folder)
        sequences, cuts, unasked, asked = parts
        repeats = about.get("repeats", False)
        dataset = make_dataset(about["name"], catalog, users, sequences, cuts, repeats, unasked or (), asked)
        intact = dataset.fingerprint == about["fingerprint"]
        intact &= not columns or columns_fingerprint(columns) == about["columns"]
        if "repeats" not in about and has_repeats(dataset):
            # Written when every item was a question; its candidate sets fit if items of the history count.
            dataset = replace(dataset, repeats=True)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"cannot read {folder}: {error}", _AGAIN) from error
    if not intact:
        raise DataError(f"{folder} was changed after it was prepared: its fingerprint differs", _AGAIN)
    return dataset


_Users = tuple[int, ...] | None


def _packed_parts(folder: Path) -> tuple[Sequence[Ints], Ints | None, _Users, _Users]:
    """Sequences, cuts, unasked and asked users."""
    with np.load(folder / "sequences.npz", allow_pickle=False) as arrays:
        items, lengths = arrays["items"].astype(np.int64), arrays["lengths"]
        cuts = arrays["cuts"].astype(np.int64) if "cuts" in arrays else None
        unasked, asked = (tuple(arrays[n].tolist()) if n in arrays else None for n in ("unasked", "asked"))
    return np.split(items, np.cumsum(lengths)[:-1]), cuts, unasked, asked


def _mapped_parts(folder: Path) -> tuple[Sequence[Ints], Ints | None, _Users, _Users]:
    return map_sequences(folder), read_cuts(folder), read_users(folder, "unasked"), read_users(folder, "asked")


def has_repeats(dataset: Dataset) -> bool:
    """Whether a question of the data set would be an item that the user had before."""
    return any(len(dataset.targets(split)) > len(replace(dataset, repeats=False).questions(split)) for split in SPLITS)


def load_settings(folder: Path) -> tuple[str, Settings]:
    """Name and settings of a prepared data set.

    Raises:
        DataError: Not a prepared data set.
    """
    about = _load(folder / "dataset.json")
    try:
        repeats = about["repeats"] if "repeats" in about else load_dataset(folder).repeats
        return about["name"], Settings(
            k_core=about["k_core"],
            m=about["m"],
            seed=about["seed"],
            split=about["split"],
            text_columns=tuple(about.get("text_columns", ())),
            duplicates=about.get("duplicates", "keep"),
            repeats=repeats,
            item_columns=tuple(about.get("item_columns", ())),
            test_users=about.get("test_users"),
            domain=about.get("domain"),
            verb=about.get("verb"),
        )
    except (KeyError, TypeError) as error:
        raise DataError(f"{folder}/dataset.json has no valid settings: {error}", _AGAIN) from error


def load_candidates(folder: Path) -> dict[str, CandidateSets]:
    """The candidate sets of a prepared data set, by split: ``valid`` and ``test``.

    Raises:
        DataError: Missing, or sampled for another data set.
    """
    about = _load(folder / "dataset.json")
    candidates = {}
    for split in SPLITS:
        path = folder / f"candidates-{split}.{'npy' if about.get('schema') == SCHEMA_OF_ARRAYS else 'json'}"
        try:
            if path.suffix == ".npy":
                sets = read_candidates(folder, split, int(about["seed"]))
                fits = sets.fingerprint == about["candidates"][split]
            else:
                data = _load(path)
                items = np.array(data["items"], dtype=np.int64)
                items = items if items.size else items.reshape(0, about["m"])  # JSON stores no shape
                sets = CandidateSets(split, items, int(data["seed"]))
                fits = data["dataset"] == about["fingerprint"]
            count = about["questions"][split] if "questions" in about else about["users"]
            fits = fits and sets.items.shape == (count, about["m"])
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"cannot read {path}: {error}", _AGAIN) from error
        if not fits:
            raise DataError(f"{path} belongs to another data set", _AGAIN)
        candidates[split] = sets
    return candidates


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path.parent} is no prepared data set: {path.name} is missing", _AGAIN) from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}", _AGAIN) from error
