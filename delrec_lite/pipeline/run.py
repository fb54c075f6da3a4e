"""`Run`: the stages of a recipe, each computed at most once, and their data."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from delrec_lite.cache_folder import cache_folder
from delrec_lite.config import ExportSection, Recipe
from delrec_lite.console import Console
from delrec_lite.data.kept import identity_of
from delrec_lite.data.store import load_candidates, load_dataset
from delrec_lite.data.types import CandidateSets, Dataset, Split
from delrec_lite.evaluation.expected import ExpectedSampledMetrics
from delrec_lite.evaluation.setting import Setting
from delrec_lite.hub.base import find_base
from delrec_lite.hub.cache import Pulled
from delrec_lite.hub.pull import pull
from delrec_lite.hub.registry import ENCODER
from delrec_lite.pipeline import generations
from delrec_lite.pipeline.bundle import check_format, write_bundle
from delrec_lite.pipeline.folder import with_lock
from delrec_lite.pipeline.machine_check import check_machine, on_disk
from delrec_lite.pipeline.model_builder import BuiltModel, ModelBuilder
from delrec_lite.pipeline.model_files import files_for, without_llama_cpp
from delrec_lite.pipeline.prepared import dataset_facts, with_dataset_settings
from delrec_lite.pipeline.reference import reference_for, training_inputs
from delrec_lite.pipeline.second_teacher import second_teacher, teaching_recipe
from delrec_lite.pipeline.shared_folder import check_equal, check_shared
from delrec_lite.pipeline.stage import DONE, FinishedStage, key_of
from delrec_lite.pipeline.stage_cache import StageCache
from delrec_lite.pipeline.teacher_stage import external_inputs, file_digest, fit_teacher
from delrec_lite.processes import current

if TYPE_CHECKING:  # what needs torch is imported where it is used
    from delrec_lite.teachers.contract import Teacher
    from delrec_lite.training.context import TrainingContext

# Part of every stage's key: raise it when a change of the code changes the result for the same recipe.
CODE = 3
# The same for the stage `prepare` alone. 2: its result has the fingerprints of the candidate sets.
PREPARED = 2
# The same for export alone, so that a bundle is written again without new training. 2: the teacher's weight. 3: int8
# that cannot saturate, and scaled rotary positions. 4: the words that a request may have.
BUNDLE = 4


class Run(StageCache):
    """One recipe in one folder, ``<runs>/<recipe name>``.

    A stage is computed again when its inputs change. The teacher depends on the training sequences; stages 1 and 2
    also on the candidate sets of the validation users, for their report and choice; the bundle, which holds some, and
    the table also on those of the test users.

    Args:
        recipe: Of the run; with your own data set, the keys that prepare a data set are read from that data set.
        runs: Folder of all runs.
        console: Shows each stage.
        fresh: Delete earlier results.
        shipped: Use trained weights of the package if training from the same inputs gave them.
        shared: Folders of other runs, whose finished stages are copied where they have the same key.

    Raises:
        UsageError: The folder holds something else, or another process is working on it.
        ConfigError: The recipe contradicts its data set or its ``finetune.teacher_recipe``.
        DataError: ``data.folder`` holds no prepared data set.
    """

    code = CODE

    def __init__(
        self,
        recipe: Recipe,
        runs: Path,
        console: Console,
        fresh: bool = False,
        shipped: bool = True,
        shared: Sequence[Path] = (),
    ) -> None:
        reference = reference_for(recipe.name) if shipped else None
        super().__init__(runs / recipe.name, with_dataset_settings(recipe), console, reference, shared)
        self.models = ModelBuilder(self)
        _ = self.teaching  # an error of its recipe comes before anything is computed
        with self.locked(fresh):
            check_shared(self.folder)  # errors of the folder appear now, not after an hour
            current().from_first(lambda: generations.settle(self.folder, self.bundle))

    @property
    def bundle(self) -> Path:
        """The folder that export writes."""
        return self.folder / f"{self.recipe.name}.delrec"

    @cached_property
    def pulled(self) -> dict[str, Pulled]:
        """Base model and data set, fetched or from the cache: keys ``model`` and, unless it is your own, ``data``."""
        return current().from_first(self._pull)

    def _pull(self) -> dict[str, Pulled]:
        first = self.reference.mirrors if self.reference else {}
        data = {}
        if self.recipe.data.folder is None:
            data["data"] = pull(self.recipe.data.name, self.console, cache_folder(), first=first.get("data"))
        return {"model": find_base(self.recipe.model.base, self.console, cache_folder(), first.get("model")), **data}

    @cached_property
    def dataset(self) -> Dataset:
        """The prepared data set."""
        return load_dataset(self.dataset_folder)

    @cached_property
    def candidates(self) -> dict[str, CandidateSets]:
        """Candidate sets by split, the same for every row of every table."""
        return load_candidates(self.dataset_folder)

    @property
    def first_dataset(self) -> str:
        """Tells the data set that was prepared, before any update, from others."""
        folder = self.recipe.data.folder
        return identity_of(self._prepare_pulled().folder / "dataset" if folder is None else Path(folder))

    @cached_property
    def _update(self) -> Path | None:
        """The folder of the newest update of this data set; None without updates."""
        newest = generations.newest(self.folder)
        if newest is None:
            return None
        if newest.base == self.first_dataset:
            return newest.folder
        self.console.say(f"  {newest.folder.parent} extends another data set than this one: its updates do not count")
        return None

    def _stage_folder(self, name: str) -> Path:
        update = None if name == "prepare" else self._update
        return (self.folder if update is None else update) / name

    @property
    def dataset_folder(self) -> Path:
        """The folder of the prepared data set."""
        if self._update is not None:
            return self._update / "dataset"
        folder = self.recipe.data.folder
        return self.prepare().folder / "dataset" if folder is None else Path(folder)

    @cached_property
    def setting(self) -> Setting:
        """The split and candidate sets of the figures of every table."""
        return Setting.of(self.dataset, self.candidates["test"])

    def expected(self, split: Split) -> ExpectedSampledMetrics:
        """How the candidate sets of a split of its data set were drawn."""
        return ExpectedSampledMetrics.of(split, len(self.dataset.catalog), self.candidates[split.name].items.shape[1])

    @with_lock
    def prepare(self) -> FinishedStage:
        """Interactions to sequences, splits and candidate sets; your own data set is used as it is.

        Where updates have extended the data set, it is the extended one. The result has ``fingerprint``, of the
        sequences, and ``candidates``, the sets' fingerprints by split.
        """
        if self._update is not None:
            self.stages["prepare"] = generations.prepared(self._update)
            return self.stages["prepare"]
        if self.recipe.data.folder is not None:
            facts = dataset_facts(self.dataset, self.candidates)
            done = self._stage("prepare", key_of(CODE, PREPARED, facts), lambda _: facts)
            check_equal(facts, done.result, f"the data set in {self.recipe.data.folder}")
            return done
        return self._prepare_pulled()

    @with_lock
    def _prepare_pulled(self) -> FinishedStage:
        data = self.recipe.data

        def make(folder: Path) -> dict[str, Any]:
            from delrec_lite.data.prepare import prepare

            source, target, m = self.pulled["data"].folder, folder / "dataset", data.candidates
            dataset = prepare(
                data.name,
                source,
                target,
                data.k_core,
                m,
                data.seed,
                self.console,
                data.split,
                data.text_columns,
                data.duplicates,
                data.repeats,
                item_columns=data.item_columns,
            )
            return dataset_facts(dataset, load_candidates(target))

        settings = {k: v for k, v in data.cache_key_fields().items() if k not in {"domain", "verb", "folder"}}
        return self._stage("prepare", key_of(CODE, PREPARED, settings, self.pulled["data"].files), make)

    def _candidates_fingerprint(self, split: str) -> str:
        """Fingerprint of the candidate sets of a split."""
        fingerprint: str = self.prepare().result["candidates"][split]
        return fingerprint

    @with_lock
    def text(self) -> FinishedStage:
        """Text features of the items, for ``model.item_text`` and ``teacher.text``."""
        kind, recipe = self.recipe.text_features, self.recipe
        inputs = [self.prepare().result["fingerprint"], kind, recipe.model.weights, self.pulled["model"].files]
        return self._stage("text", key_of(CODE, *inputs, *self.text_sources()), self._make_text)

    def _make_text(self, folder: Path) -> dict[str, Any]:
        from delrec_lite.pipeline.text_stage import text_features

        features = text_features(self, self.models)
        features.save(folder)
        size = {"items": len(features.features), "width": features.features.shape[1]}
        return {"source": self.recipe.text_features, **size}

    def text_sources(self) -> list[Any]:
        """The inputs of text features outside the base model and the data set."""
        if self.recipe.text_features == "encoder":
            return [self.encoder.files]
        path = self.recipe.model.item_vectors
        return [] if path is None else [file_digest(Path(path), "model.item_vectors")]

    @cached_property
    def encoder(self) -> Pulled:
        """The sentence encoder of ``model.item_text``, fetched or from the cache."""
        return current().from_first(lambda: pull(ENCODER, self.console, cache_folder()))

    @with_lock
    def teacher(self) -> FinishedStage:
        """Fit the conventional recommenders; of several processes, each fits some of them."""
        sequences, section = self.prepare().result["fingerprint"], self.recipe.teacher
        text = [self.text().key] if section.text else []
        inputs = [section.cache_key_fields(), *external_inputs(section), *text]
        return self._stage("teacher", key_of(CODE, sequences, *inputs), self._make_teachers)

    def _make_teachers(self, folder: Path) -> dict[str, Any]:
        from delrec_lite.teachers.files import CONFIG
        from delrec_lite.teachers.store import load_teacher, save_teacher

        for kind in current().share(self.recipe.teacher.kinds):
            if not (folder / kind / CONFIG).is_file():  # else fitted before an interruption of this stage
                save_teacher(self._make_teacher(kind, folder / kind), folder / kind)
        current().wait()
        return {kind: load_teacher(folder / kind).metrics for kind in self.recipe.teacher.kinds}

    def _make_teacher(self, kind: str, folder: Path) -> "Teacher":
        return fit_teacher(self, kind, folder)

    @with_lock
    def distill(self) -> FinishedStage:
        """Stage 1."""
        trains = self.reference is None and not (self._stage_folder("teacher") / DONE).is_file()
        if trains and not on_disk(self.recipe.model.base):
            _ = self._machine_fits  # before the base is pulled
        _ = self.models.base_folder  # an error here comes before any stage is computed
        if trains:
            _ = self._machine_fits  # before the teachers are fitted
        upstream, recipe = self.teacher(), self.recipe
        adapter = recipe.finetune if recipe.distill.train_llm else None
        text = [self.text().key] if recipe.model.item_text != "none" else []

        def key_for(precision: str) -> str:
            return key_of(
                CODE,
                upstream.key,
                self._candidates_fingerprint("valid"),
                recipe.data.words_key,
                {**recipe.model.cache_key_fields(), "precision": precision},
                self.pulled["model"].files,
                recipe.distill.cache_key_fields(),
                *([] if adapter is None else [adapter.cache_key_fields()]),
                *text,
            )

        return self._training_stage("distill", key_for, self._make_distilled)

    def _make_distilled(self, folder: Path, precision: str) -> dict[str, Any]:
        from delrec_lite.training.distill import distill

        _, recipe = self._machine_fits, self.recipe
        built = self.models.untrained(precision)
        written = self.models.prompts(built.model, built.base, "words")
        adapter = recipe.finetune if recipe.distill.train_llm else None
        return asdict(distill(self.context(built, folder), recipe.distill, written, adapter))

    @cached_property
    def teaching(self) -> "Run | None":
        """The run of ``finetune.teacher_recipe``, in the same folder of runs."""
        other = teaching_recipe(self.recipe)
        return None if other is None else Run(other, self.folder.parent, self.console)

    @with_lock
    def finetune(self) -> FinishedStage:
        """Stage 2."""
        upstream = self.distill()

        def key_for(precision: str) -> str:
            # The key of stage 1 includes the precision of stage 1.
            precision_key = [] if precision == upstream.result["precision"] else [precision]
            second = [] if self.teaching is None else [self.teaching.training_inputs()]
            return key_of(CODE, upstream.key, self.recipe.finetune.cache_key_fields(), *precision_key, *second)

        return self._training_stage("finetune", key_for, self._make_finetuned)

    def _make_finetuned(self, folder: Path, precision: str) -> dict[str, Any]:
        from delrec_lite.training.finetune import finetune

        _ = self._machine_fits
        context, other = self.context(self.models.distilled(precision), folder), self.teaching
        if other is not None:
            context = replace(context, teacher=second_teacher(self, self.models, other, other.models))
        return asdict(finetune(context, self.recipe.finetune))

    @cached_property
    def _machine_fits(self) -> bool:
        """Checked once, by every process: an error comes before anything is loaded."""
        check_machine(self, self.models, self.prepare().result["items"])
        return True

    def context(self, built: BuiltModel, folder: Path) -> "TrainingContext":
        """The inputs of a training stage that trains ``built`` and writes to ``folder``."""
        from delrec_lite.training.context import TrainingContext

        return TrainingContext(
            model=built.model,
            prompts=built.prompts,
            teacher=self.models.teacher(),
            dataset=self.dataset,
            candidates=self.candidates["valid"],
            max_history=self.recipe.model.max_history,
            out=folder,
            console=self.console,
            softmax=self.recipe.model.softmax,
            negatives=self.recipe.model.negatives,
        )

    @cached_property
    def export_settings(self) -> ExportSection:
        """The recipe's; without llama-cpp-python, ONNX instead of GGUF if ONNX can hold the recipe's form of prompt."""
        settings = self.recipe.export
        return without_llama_cpp(settings, self.console) if self.models.format().only_item_rows else settings

    @with_lock
    def export(self) -> FinishedStage:
        """Merge, bake, quantise, compare and write the bundle.

        Raises:
            ConfigError: An ONNX file cannot hold the recipe's form of prompt.
            MissingPackageError: llama-cpp-python is not installed, and the recipe's form of prompt needs it.
            StorageError: Something else has the bundle's name.
        """
        check_format(self, self.export_settings.format)
        upstream = self.finetune()

        def make(_: Path) -> dict[str, Any]:
            exported = write_bundle(self, self.bundle, *files_for(self.export_settings))
            return {
                "bytes": exported.bytes,
                "quant": exported.quant,
                "tensor_types": exported.tensor_types,
                "parity": exported.parity.dump(),
                "models": exported.models,
                "precision": self.models.precision,
            }

        settings = self.export_settings.model_dump()
        columns = [facts] if (facts := self.prepare().result.get("columns")) else []
        key = key_of(CODE, BUNDLE, upstream.key, self._candidates_fingerprint("test"), settings, *columns)
        if not (self.bundle / "manifest.json").is_file():
            (self._stage_folder("export") / DONE).unlink(missing_ok=True)
        return self._stage("export", key, make)

    def _machine_precision(self) -> str:
        return self.models.precision

    def training_inputs(self) -> dict[str, Any]:
        """Everything that the result of training depends on, see ``reference.training_inputs``."""
        prepared, files = self.prepare().result, self.pulled["model"].files
        second = None if self.teaching is None else self.teaching.training_inputs()
        return training_inputs(self.recipe, prepared, files, CODE, self.text_sources(), second)
