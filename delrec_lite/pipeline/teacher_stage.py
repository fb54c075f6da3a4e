"""The teachers of a recipe: fitting each, and their inputs outside the recipe."""

from pathlib import Path
from typing import TYPE_CHECKING

from delrec_lite.config import TeacherSection
from delrec_lite.errors import DataError
from delrec_lite.files import sha256_of
from delrec_lite.pipeline.base import need_torch
from delrec_lite.pipeline.stage import Stages
from delrec_lite.teacher_kinds.registry import TEACHERS

if TYPE_CHECKING:  # what needs torch is imported where it is used
    from delrec_lite.teachers.contract import Teacher


def external_inputs(section: TeacherSection) -> list[str]:
    """The inputs outside the section: the digest of ranked lists, and the settings of kinds of other packages.

    Raises:
        DataError: The lists cannot be read.
    """
    inputs = [] if section.lists is None else [file_digest(Path(section.lists), "teacher.lists")]
    # The defaults of a kind of another package change with that package; those of built-in kinds with `CODE`.
    added_kinds = (TEACHERS[kind] for kind in section.kinds if kind not in TEACHERS.built_in)
    configs = (kind.configure(**section.settings_of(kind.name)) for kind in added_kinds)
    # Without settings of no value: kinds fitted before those existed stay valid.
    return inputs + [config.model_dump_json(exclude_none=True) for config in configs]


def fit_teacher(run: Stages, kind: str, folder: Path) -> "Teacher":
    """Fit one of the recipe's teachers.

    Args:
        run: Its recipe and data set are used.
        kind: One of the recipe's.
        folder: For its log.

    Raises:
        MissingPackageError: No torch or no transformers.
    """
    need_torch()
    from delrec_lite.llm.item_text import ItemText
    from delrec_lite.llm.precision import device_for
    from delrec_lite.teachers.fit import fit

    record, lists = TEACHERS[kind], run.recipe.teacher.lists
    config = record.configure(**run.recipe.teacher.settings_of(kind))
    device = device_for(run.recipe.model.device)
    features = ItemText.load(run.text().folder).features if run.recipe.teacher.text else None
    if not record.reads_lists or lists is None:
        return fit(config, run.dataset, run.console, out=folder, device=device, features=features)
    from delrec_lite.data.lists import read_lists
    from delrec_lite.teachers.external import fit_external

    ranked = read_lists(Path(lists), run.dataset)
    if ranked.unknown:
        run.console.say(
            f"  {lists}: {ranked.unknown} rows do not name a user and an item of this data set and are left out"
        )
    return fit_external(config, run.dataset, ranked, run.console, folder, device, features)


def file_digest(path: Path, key: str) -> str:
    """sha256 of a file that a recipe names.

    Raises:
        DataError: It cannot be read; names the recipe's ``key``.
    """
    try:
        return sha256_of(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", f"check {key} in the recipe") from error
