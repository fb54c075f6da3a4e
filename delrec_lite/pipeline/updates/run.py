"""`UpdateRun`: a run whose stages go on from those of the run before; `AnewRun`: one that begins again, to compare."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from delrec_lite.data.extend import Extended
from delrec_lite.data.store import Settings, save_dataset
from delrec_lite.errors import UsageError
from delrec_lite.hub.cache import Pulled
from delrec_lite.pipeline import generations
from delrec_lite.pipeline.prepared import dataset_facts
from delrec_lite.pipeline.reference import STAGES
from delrec_lite.pipeline.run import CODE, Run
from delrec_lite.pipeline.stage import DONE, KEY, FinishedStage, is_done, key_of, run_stage, was_started
from delrec_lite.pipeline.stage_cache import Make
from delrec_lite.pipeline.updates.mixture import Mixture, NewPart, mix, new_parts
from delrec_lite.teacher_kinds.registry import TEACHERS

if TYPE_CHECKING:  # what needs torch is imported where it is used
    from delrec_lite.teachers.contract import Teacher


class TrainedRun(Run):
    """A run whose stages are read, not computed.

    Raises:
        UsageError: A stage is not finished for this recipe.
    """

    def _stage(self, name: str, key: str, make: Make) -> FinishedStage:
        folder = self._stage_folder(name)
        finished = is_done(folder, key) or (
            name in STAGES and is_done(folder, key_of("shipped", key)) and self._is_shipped(name)
        )
        if name not in self.stages and name != "prepare" and not finished:
            raise UsageError(
                f"{self.folder} has no finished training of this recipe: {name} is missing",
                "train first: `delrec-lite quickstart RECIPE`; an update goes on from there",
            )
        return super()._stage(name, key, make)

    def trained(self) -> "TrainedRun":
        """The same run, checked to be finished.

        Raises:
            UsageError: It is not, or its bundle is missing.
        """
        if not (self.bundle / "manifest.json").is_file():
            raise UsageError(f"{self.bundle} is missing", "train first: `delrec-lite quickstart RECIPE`")
        self.export()
        return self

    @property
    def number(self) -> int:
        """Of the newest update; 0: none."""
        newest = generations.newest(self.folder)
        return newest.number if newest is not None and self._update is not None else 0


class _Within(Run):
    """A run inside another one's folder, on an extended data set.

    Args:
        before: The run to extend, which must be locked.
        folder: Of the new stages.
        update: Of the data set.
    """

    def __init__(self, before: TrainedRun, folder: Path, update: Path) -> None:
        self.before, self.inner, self.update_folder = before, folder, update
        super().__init__(before.recipe, before.folder.parent, before.console, shipped=False)

    @contextmanager
    def locked(self, fresh: bool = False) -> Iterator[None]:
        """The lock of the outer run."""
        with self.before.locked():
            yield

    @cached_property
    def pulled(self) -> dict[str, Pulled]:
        """See ``Run.pulled``."""
        return self.before.pulled

    @property
    def bundle(self) -> Path:
        """The bundle to compare."""
        return self.inner / super().bundle.name

    @cached_property
    def _update(self) -> Path | None:
        return self.update_folder

    def _stage_folder(self, name: str) -> Path:
        return self.inner / name


class AnewRun(_Within):
    """The recipe trained from the beginning on the extended data set."""

    def __init__(self, before: TrainedRun, update: Path) -> None:
        super().__init__(before, update / generations.ANEW, update)


class UpdateRun(_Within):
    """The next update of a run: the data set is extended, teachers and stage 2 go on, stage 1 is carried over.

    Args:
        before: Finished and locked.
        extended: The data set.
        settings: It was prepared with.
        source: How its first log was read, see ``kept.source_of``.
    """

    def __init__(self, before: TrainedRun, extended: Extended, settings: Settings, source: dict[str, Any]) -> None:
        self.extended, self.settings, self.source = extended, settings, source
        folder = generations.folder_of(before.folder, before.number + 1)
        super().__init__(before, folder, folder)

    def prepare(self) -> FinishedStage:
        """The extended data set; what an earlier try with other data or settings left is removed."""
        if "prepare" in self.stages:
            return self.stages["prepare"]
        before, extended = self.before, self.extended
        keys = [before.finetune().key, before.teacher().key, before.distill().key]
        key = key_of("update", CODE, keys, extended.dataset.fingerprint, self.recipe.update.model_dump())
        if not was_started(self.inner, key):
            generations.clear_generation(self.inner)

        def make(folder: Path) -> dict[str, Any]:
            sets, times = extended.candidates, extended.times
            save_dataset(extended.dataset, sets, self.settings, folder / "dataset", times=times, source=self.source)
            return dataset_facts(extended.dataset, sets)

        self.stages["prepare"] = replace(run_stage(self.inner, key, make), name="prepare")
        return self.stages["prepare"]

    @cached_property
    def parts(self) -> list[NewPart]:
        """What each user's training part gains."""
        return new_parts(self.before.dataset, self.extended.dataset)

    def mixture(self, passes: float, length: int, seed: int) -> Mixture:
        """The new interactions and replayed old ones, for so many passes."""
        parts = mix(self.parts, passes, self.recipe.update.replay, length, seed)
        return Mixture.of(self.extended.dataset, parts)

    @property
    def _new_texts(self) -> list[str]:
        return list(self.extended.dataset.catalog.descriptions[len(self.before.dataset.catalog) :])

    def _make_text(self, folder: Path) -> dict[str, Any]:
        from delrec_lite.llm.item_text import ItemText
        from delrec_lite.pipeline.updates.warm import longer_text

        before = self.before.text()
        features = longer_text(ItemText.load(before.folder), self.models.base("fp32"), self._new_texts)
        features.save(folder)
        return {**before.result, "items": len(features.features)}

    def _make_teacher(self, kind: str, folder: Path) -> "Teacher":
        import torch

        from delrec_lite.llm.precision import device_for
        from delrec_lite.pipeline.updates.warm import longer_network
        from delrec_lite.teachers.contract import Teacher
        from delrec_lite.teachers.fit import fit

        teacher, record, settings = self.before.models.teachers()[kind], TEACHERS[kind], self.recipe.update
        trained = torch.from_numpy(self.before.dataset.popularity() > 0)
        network = longer_network(teacher, self._text_vectors(), trained)
        config = record.configure(**self.recipe.teacher.settings_of(kind))
        data = self.mixture(1.0, config.max_length, config.seed)
        if record.reads_lists or not settings.teacher_epochs or not data.parts:
            return Teacher(network, len(data.catalog), teacher.metrics)
        config = config.model_copy(update={"epochs": settings.teacher_epochs, "lr": settings.lr * config.lr})
        device = device_for(self.recipe.model.device)
        return fit(config, data, self.console, out=folder, device=device, trained=network)

    def _text_vectors(self) -> Any:
        """Vectors of the items' text: those that the recipe reads, or the mean token rows of the titles."""
        if self.recipe.text_features is not None:
            return self.models.item_text().features
        if not self._new_texts:
            import torch

            return torch.zeros(len(self.extended.dataset.catalog), 1)
        from delrec_lite.llm.items import title_vectors

        base = self.models.base("fp32")
        rows = base.model.get_input_embeddings().weight
        return title_vectors(rows, self.extended.dataset.catalog.descriptions, base.encode).cpu().detach()

    def _precision_of(self, name: str, key_for: Any) -> str:
        precision: str = getattr(self.before, name)().result["precision"]
        return precision

    def _make_distilled(self, folder: Path, precision: str) -> dict[str, Any]:
        before = self.before.distill()
        shutil.copytree(before.folder, folder, ignore=shutil.ignore_patterns(DONE, KEY), dirs_exist_ok=True)
        return {**{name: value for name, value in before.result.items() if name != "shipped"}, "carried": True}

    def _make_finetuned(self, folder: Path, precision: str) -> dict[str, Any]:
        from delrec_lite.pipeline.updates.warm import Trained, go_on
        from delrec_lite.training.distill import load_soft
        from delrec_lite.training.finetune import finetune

        _ = self._machine_fits
        data = self.finetune_mixture
        built = self.models.untrained(precision)
        load_soft(built.model, self.distill().folder)
        go_on(built, Trained(self.before.finetune().folder, len(self.before.dataset.catalog)), self.dataset)
        context = replace(self.context(built, folder), dataset=data)
        return {**asdict(finetune(context, self.finetune_section)), "update": self.inner.name}

    @cached_property
    def finetune_mixture(self) -> Mixture:
        """What stage 2 trains on."""
        return self.mixture(self.recipe.update.epochs, self.recipe.model.max_history, self.recipe.finetune.seed)

    @property
    def finetune_section(self) -> Any:
        """Stage 2 of the recipe for the mixture: one pass, without validation, because the gate decides."""
        section, lr = self.recipe.finetune, self.recipe.update.lr
        rates = {name: lr * getattr(section, name) for name in ("lr", "item_lr", "text_lr")}
        # AdaLoRA's directions are chosen; what remains of them is trained like LoRA.
        adapter = "lora" if section.adapter == "adalora" else section.adapter
        passes = 1.0 if self.finetune_mixture.steps else 0.0
        return section.model_copy(update={**rates, "adapter": adapter, "epochs": passes, "valid_every": 0.0})
