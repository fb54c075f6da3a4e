"""`ModelBuilder`: the models of a run, built from its recipe and its finished stages."""

import gc
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from delrec_lite.architectures import context_length
from delrec_lite.cache_folder import cache_folder, writable_cache
from delrec_lite.hub.base import gguf_file, model_folder
from delrec_lite.llm.precision_choice import faster_precision, possible_precisions, resolve_precision
from delrec_lite.pipeline.base import check_folder, check_gguf_base, need_torch
from delrec_lite.pipeline.shared_folder import check_seen
from delrec_lite.pipeline.stage import TRAINED_STAGES, Stages
from delrec_lite.processes import current
from delrec_lite.prompts.format import PromptFormat
from delrec_lite.softmax.choice import in_half_precision

if TYPE_CHECKING:  # what needs torch is imported where it is used
    from delrec_lite.llm.item_text import ItemText
    from delrec_lite.llm.load import Base
    from delrec_lite.llm.model import ItemLM
    from delrec_lite.prompts.tasks import Prompts
    from delrec_lite.teachers.contract import Teacher
    from delrec_lite.teachers.ensemble import Ensemble


@dataclass(frozen=True)
class BuiltModel:
    """A model with its prompts and its base.

    Attributes:
        model: The recommender.
        prompts: The compiled tasks.
        base: Its base model.
    """

    model: "ItemLM"
    prompts: "Prompts"
    base: "Base"


class ModelBuilder:
    """Builds the models of a recipe; missing stages are computed first.

    Weights are in this machine's precision, or in a given one.

    Args:
        run: Its recipe and stages are read at every call.
    """

    def __init__(self, run: Stages) -> None:
        self._run = run

    @cached_property
    def base_folder(self) -> Path:
        """The base model as a Hugging Face folder, checked to be one that can be trained and exported.

        Raises:
            ConfigError: It cannot be; raised before anything is computed.
            StorageError: Another process of the run pulled it to a folder that this one does not have.
        """
        run, pulled = self._run, self._run.pulled["model"]
        check_seen(pulled.folder, "DELREC_CACHE names it")
        folder = model_folder(pulled.name, pulled.folder, cache_folder())
        if folder is None:
            check_gguf_base(gguf_file(pulled.folder))
            need_torch()
            from delrec_lite.llm.load import unpack

            folder = current().from_first(lambda: unpack(pulled.name, pulled.folder, cache_folder(), run.console))
        check_folder(folder, onnx=run.recipe.export.format != "gguf", layers=run.recipe.model.layers)
        return folder

    @cached_property
    def precision(self) -> str:
        """The precision of trained weights and of new stages on this machine, as ``meaning`` names it."""
        settings = self._run.recipe.model
        if len(possible_precisions(settings.precision)) == 1:
            return settings.precision
        need_torch()
        from delrec_lite.llm.precision import device_for

        return resolve_precision(
            settings.precision, faster_precision(device_for(settings.device), writable_cache(cache_folder()))
        )

    def precisions(self) -> dict[str, str]:
        """The precisions of the recipe, of each training stage, and of trained weights on this machine."""
        stages = self._run.stages
        trained = {name: stages[name].result["precision"] for name in TRAINED_STAGES if name in stages}
        return {"recipe": self._run.recipe.model.precision, **trained, "scores": self.precision}

    def base(self, precision: str | None = None, whole: bool = False) -> "Base":
        """The base model as pulled, unpacked and loaded.

        Args:
            precision: Of its weights; None: this machine's.
            whole: All layers, also where the recipe uses fewer.

        Raises:
            ConfigError: It cannot be trained and exported.
            MissingPackageError: No torch or no transformers.
        """
        need_torch()
        from delrec_lite.llm.load import load_base
        from delrec_lite.llm.precision import device_for

        name, device = self._run.pulled["model"].name, device_for(self._run.recipe.model.device)
        layers = None if whole else self._run.recipe.model.layers
        return load_base(name, self.base_folder, precision or self.precision, device, self.weights_seed, layers)

    @property
    def weights_seed(self) -> int | None:
        """The seed of the base model's weights where they are random."""
        recipe = self._run.recipe
        return recipe.distill.seed if recipe.model.weights == "random" else None

    def untrained(self, precision: str | None = None) -> BuiltModel:
        """The model before stage 1."""
        gc.collect()  # an earlier stage's model, which may have gigabytes of item vectors
        base = self.base(precision)
        import torch

        from delrec_lite.llm.model import ItemLM
        from delrec_lite.prompts.tasks import start_words

        recipe, dataset = self._run.recipe, self._run.dataset
        settings, seed = recipe.model, recipe.distill.seed
        words = start_words(recipe.data.words, base.encode) if settings.soft_start == "words" else None
        deep = settings.soft_layers == "all"
        text = self.item_text() if settings.item_text != "none" else None
        half = self.ranks_catalogue and in_half_precision(settings.softmax, len(dataset.catalog))
        model = ItemLM(base, dataset.catalog.titles, settings.soft_tokens, seed, words, deep, text, half)
        if settings.item_start == "teacher":
            seen = dataset.popularity() > 0
            model.start_from(torch.from_numpy(self.teacher().item_vectors()), torch.from_numpy(seen))
        elif settings.item_start == "random":
            model.start_random(seed)
        return BuiltModel(model, self.prompts(model, base, settings.pattern_prompt), base)

    def item_text(self) -> "ItemText":
        """The text features of the items."""
        from delrec_lite.llm.item_text import ItemText

        with self._run.locked():
            return ItemText.load(self._run.text().folder)

    def distilled(self, precision: str | None = None) -> BuiltModel:
        """The model between stage 1 and stage 2."""
        from delrec_lite.training.distill import load_llm, load_soft

        with self._run.locked():
            stage, built = self._run.distill(), self.untrained(precision)
            load_soft(built.model, stage.folder)
            if self._run.recipe.distill.train_llm:
                load_llm(built.model, stage.folder)
        return built

    def trained(self) -> BuiltModel:
        """The model after stage 2."""
        from delrec_lite.training.adapters import load_finetuned
        from delrec_lite.training.distill import load_soft

        with self._run.locked():
            finetuned, distilled = self._run.finetune(), self._run.distill()
            built = self.untrained()
            load_soft(built.model, distilled.folder)
            load_finetuned(built.model, finetuned.folder)
        return built

    def prompts(self, model: "ItemLM", base: "Base", pattern: str) -> "Prompts":
        """The tasks compiled for a model.

        Args:
            model: Its vocabulary is used.
            base: Its base model.
            pattern: Prompt for the teacher's pattern, see ``model.pattern_prompt`` of a recipe.
        """
        from delrec_lite.prompts.tasks import compile_prompts

        domain, titles = self._run.recipe.data.words, self._run.dataset.catalog.titles
        prompt_format = self.format(context_length(base.model.config))
        return compile_prompts(domain, model.vocabulary, base.encode, base.bos, pattern, prompt_format, titles)

    def format(self, context: int | None = None) -> PromptFormat:
        """The format of the recipe's prompts, for a base model with this context length, in tokens."""
        settings = self._run.recipe.model
        bounds = [bound for bound in (settings.max_tokens, context) if bound is not None]
        return PromptFormat(
            history=settings.history,
            title_tokens=settings.title_tokens,
            verbalizer=settings.verbalizer,
            candidates=settings.candidates_in_prompt,
            context=min(bounds, default=None),
        )

    @property
    def ranks_catalogue(self) -> bool:
        """Whether the trained model ranks the whole catalogue, or candidates alone."""
        return self.format().ranks_catalogue

    def teachers(self) -> "dict[str, Teacher]":
        """The fitted teachers by kind."""
        from delrec_lite.teachers.store import load_teacher

        with self._run.locked():
            stage = self._run.teacher()
            return {kind: load_teacher(stage.folder / kind) for kind in self._run.recipe.teacher.kinds}

    def teacher(self) -> "Teacher | Ensemble":
        """The teacher to distil: the fitted one, or the ensemble of several."""
        from delrec_lite.teachers.ensemble import Ensemble

        members = list(self.teachers().values())
        return members[0] if len(members) == 1 else Ensemble(members)
