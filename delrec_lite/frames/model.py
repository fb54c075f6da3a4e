"""`DelRec`: fit a recipe on frames, recommend, evaluate, export; the stages are those of the commands."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from delrec_lite.data.badrows import parse_policy
from delrec_lite.data.frames import KINDS, FrameKind, frame_of
from delrec_lite.data.packages import arrow
from delrec_lite.errors import UsageError, did_you_mean
from delrec_lite.files import check_folder, put_in_place, writing
from delrec_lite.frames.columns import ColumnNames, parse_names
from delrec_lite.frames.dataset import Dataset
from delrec_lite.frames.report import Report
from delrec_lite.frames.requests import Asked, item_ids, read_request
from delrec_lite.frames.wording import PythonConsole, python_words
from delrec_lite.runtime.manifest import bundle_files
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.scoring.lists import lists_of
from delrec_lite.scoring.scorer import HISTORY, USER, Scorer

if TYPE_CHECKING:  # training needs packages that serving does not
    from delrec_lite.config import Recipe
    from delrec_lite.pipeline.run import Run

COLUMNS = (USER, "item_id", "score", "rank")
DEFAULT_RUNS = "runs"


class DelRec:
    """A sequential recommender that is distilled into a language model.

    ``fit`` computes the stages of a run in the folder ``RUNS/NAME``, NAME being the recipe's, as the commands do: what
    is finished is not computed again, in another process neither, and what was interrupted continues.

    Args:
        recipe: Name of a shipped recipe, path of a YAML file, a mapping of keys or a ``Recipe``. Its ``data`` section
            is replaced by the frames. None: the recipe that `delrec-lite init` writes for the data set, for about an
            hour on two cores; it is then in ``RUNS/NAME.yaml``, NAME being the data set's.
        runs: Folder of all runs.
        quiet: Show no progress.

    Raises:
        ConfigError: No such recipe, or a key that cannot be.
    """

    def __init__(
        self,
        recipe: "str | os.PathLike[str] | Mapping[str, Any] | Recipe | None" = None,
        runs: str | os.PathLike[str] = DEFAULT_RUNS,
        quiet: bool = False,
    ) -> None:
        from delrec_lite.frames.recipes import read_recipe

        self.runs, self._console = Path(runs), PythonConsole(quiet)
        self.recipe = None if recipe is None else read_recipe(recipe)
        self.dataset: Dataset | None = None
        self._run: Run | None = None
        self._bundle: Path | None = None
        self._recommender: Recommender | None = None

    @classmethod
    def load(cls, bundle: str | os.PathLike[str], quiet: bool = False) -> "DelRec":
        """Open a bundle that ``export`` or a command wrote: it recommends, without torch, to histories.

        Raises:
            BundleError: It cannot be opened.
            MissingPackageError: The package that runs it is not installed.
        """
        loaded = cls(quiet=quiet)
        loaded._bundle = Path(bundle)
        loaded._recommender = Recommender.load(bundle)
        return loaded

    def fit(self, dataset: Dataset) -> "DelRec":
        """Train teacher, stage 1 and stage 2, and write the bundle; finished stages are reused.

        Args:
            dataset: From ``Dataset.from_frames``.

        Raises:
            UsageError: No such data set, or the run's folder holds something else or is in use.
            ConfigError: The recipe contradicts the data set.
            FetchError: The base model cannot be fetched.
            OutOfMemoryError: Training does not fit into memory.
            GateError: The bundle's scores differ too much from the trained model's.
        """
        if not isinstance(dataset, Dataset):
            raise UsageError(
                f"fit got a {type(dataset).__name__} and no data set",
                "make one: Dataset.from_frames(interactions, items)",
            )
        from delrec_lite.frames.recipes import check_name, for_frames, started
        from delrec_lite.pipeline.run import Run

        self.close()
        with python_words():
            name, settings = dataset.prepared.name, dataset.settings
            if self.recipe is None:
                check_name(name)
            else:
                name = self.recipe.name
            folder = dataset.save(self.runs / f"{name}-data")
            if self.recipe is None:
                recipe = started(name, folder, self.runs, self._console)
            else:
                recipe = for_frames(self.recipe, folder, settings.domain, settings.verb)
            run = Run(recipe, self.runs, self._console)
            check_folder(run.bundle, "bundle", bundle_files)  # before hours of training, not after
            self._console.say(f"  run: {run.folder}")
            run.export()
        self.dataset, self._run, self._bundle = dataset, run, run.bundle
        return self

    @property
    def run(self) -> "Run":
        """The run of ``fit``: its stages, folder and recipe.

        Raises:
            UsageError: Not fitted in this process.
        """
        if self._run is None:
            what = "has no data set and no run" if self._bundle else "is not fitted"
            raise UsageError(f"this DelRec {what}", "call fit(dataset) first")
        return self._run

    @property
    def recommender(self) -> Recommender:
        """Answers one request at a time, explains, keeps sessions; opened at the first use.

        Raises:
            UsageError: Not fitted.
        """
        if self._recommender is None:
            if self._bundle is None:
                raise UsageError("this DelRec is not fitted", "call fit(dataset) first, or DelRec.load(bundle)")
            self._recommender = Recommender.load(self._bundle)
        return self._recommender

    def recommend(
        self,
        users: Any,
        k: int = 10,
        *,
        candidates: Sequence[Any] | None = None,
        exclude: Sequence[Any] = (),
        where: str | None = None,
        exclude_history: bool | None = None,
        on_bad_row: str = "refuse",
        columns: ColumnNames | None = None,
        to: FrameKind | None = None,
    ) -> Any:
        """The items that come next for many users, as a frame.

        Args:
            users: Users of the data set, whose history are all of their interactions: a list, array or Series of ids,
                or a frame with ``user_id`` alone. Or histories: a frame with an interaction a row (``user_id``,
                ``item_id`` and maybe ``datetime``); a frame with ``user_id`` and ``history``, a list of ids; a mapping
                of users to lists of ids or titles, oldest first; or a list of such lists, whose users are 0, 1, 2, ...
            k: Most items for each user.
            candidates: Ids or titles of items; only these are ranked. Default: the whole catalogue.
            exclude: Ids or titles of items that are never recommended.
            where: A filter over item columns, such as ``genres has "Comedy" and year > 1990``.
            exclude_history: Leave out the items of the history. Default: out of the catalogue, unless repeats count in
                the data set; never out of the candidates.
            on_bad_row: ``refuse`` or ``drop`` users without an id, and those of whose history no item is known. For an
                empty history the most popular items come first.
            columns: Names of the columns of a frame of users; default: those of the data set's frames.
            to: ``pandas``, ``polars`` or ``arrow``; default: the kind of the frame that came in, else the data set's.

        Returns:
            A frame with up to ``k`` rows for each user, in the order of the users: ``user_id`` and ``item_id`` with the
            types that they came in with, ``score`` (float32; higher is better, comparable within a user) and ``rank``
            (int32, from 1).

        Raises:
            UsageError: Not fitted; a user without a history, or another argument that cannot be.
            DataError: A frame lacks a column or has bad rows; a history of which no item is known.
        """
        recommender = self.recommender
        if to is not None and to not in KINDS:
            raise UsageError(f"no kind of frame is called {to!r}", did_you_mean(str(to), KINDS))
        names = parse_names(columns) if columns is not None else self.dataset.names if self.dataset else {}
        with python_words():
            policy = parse_policy(on_bad_row)
            asked = read_request(users, names, self._known, self._named, policy)
            for malformed in asked.dropped:
                self._console.say(f"  dropped: {malformed}")
            self._say_unknown(asked)
            scorer = Scorer(
                recommender.bundle.folder,
                k,
                None if candidates is None else item_ids(candidates, "candidates", self._named),
                item_ids(exclude, "exclude", self._named),
                where,
                exclude_history,
                policy,
                opened=recommender,
            )
            table = scorer(asked.table)
            if scorer.dropped:
                self._console.say(f"  dropped: {scorer.dropped} users without an id, or with no known item")
        if self.dataset is not None:
            items = self.dataset.items.originals(table.column("item_id"))
            table = table.set_column(table.schema.get_field_index("item_id"), "item_id", items)
        usual = asked.kind or (self.dataset.kind if self.dataset else None)
        return frame_of(table.select(COLUMNS), usual if to is None else to)

    def evaluate(self, fused: bool = False, zero_shot: bool = False) -> Report:
        """Rank the test users with popularity, the teachers, the trained model and the bundle, as `delrec-lite eval`.

        Args:
            fused: Add rows of the trained model and its teachers together.
            zero_shot: Add a row of the untrained LLM, which takes longest.

        Raises:
            UsageError: Not fitted in this process.
        """
        from delrec_lite.pipeline.table import evaluate

        rows = evaluate(self.run, fused, zero_shot)
        return Report.read(rows, self.run.folder, self.dataset.kind if self.dataset else None)

    def export(self, path: str | os.PathLike[str]) -> Path:
        """Copy the bundle that ``fit`` wrote; ``load``, ``Recommender`` and all commands that serve read it.

        Args:
            path: Folder to write, such as ``shop.delrec``; a bundle in its place is replaced.

        Raises:
            UsageError: Not fitted.
            StorageError: It cannot be written, or something else is there.
        """
        folder = self.recommender.bundle.folder
        with writing(Path(path), "bundle", bundle_files) as (target, staging):
            if target != folder.resolve():
                shutil.copytree(folder, staging)
                put_in_place(staging, target, "bundle", bundle_files)
        return Path(path)

    def close(self) -> None:
        """Free the model; the next call that needs it opens it again."""
        if self._recommender is not None:
            self._recommender.close()
            self._recommender = None

    def __enter__(self) -> "DelRec":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _known(self, users: list[str]) -> list[list[str]]:
        if self.dataset is None:
            raise UsageError(
                "a loaded bundle knows no users", "give histories: a frame of interactions, or {user: [items]}"
            )
        return self.dataset.histories(users)

    def _named(self, value: str | int) -> str:
        """The id of the item that an id or a title names; the text itself where the catalogue lacks it."""
        look_up, text = self.recommender.look_up, str(value).removeprefix("id:")
        match = look_up(f"id:{text}")
        if match is None and isinstance(value, str):
            match = look_up(value)
        return text if match is None else self.recommender.bundle.items.ids[match.item]

    def _say_unknown(self, asked: Asked) -> None:
        """Say how many items of the histories are left out, because the catalogue lacks them."""
        pa = arrow()
        values, _ = lists_of(asked.table.column(HISTORY), HISTORY)
        known = pa.compute.is_in(values, value_set=pa.array(self.recommender.bundle.items.ids, pa.string()))
        unknown = values.filter(pa.compute.invert(known))
        if len(unknown):
            self._console.say(
                f"  not in the catalogue, left out of histories: {len(unknown)} of {len(values)} items, such as "
                f"{unknown[0].as_py()!r}"
            )
