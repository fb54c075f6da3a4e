"""`ModelBuilder`: the models of a run, put together from its recipe and its finished stages."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from delrec_lite.errors import DataError, MissingPackageError
from delrec_lite.files import cache_folder, sha256_of
from delrec_lite.pipeline.stage import Stages
from delrec_lite.processes import current
from delrec_lite.prompts.domain import DOMAINS
from delrec_lite.prompts.format import PromptFormat

if TYPE_CHECKING:  # what needs torch is imported where it is used
    from delrec_lite.llm.load import Base
    from delrec_lite.llm.model import ItemLM
    from delrec_lite.prompts.tasks import Prompts
    from delrec_lite.teachers.contract import Teacher
    from delrec_lite.teachers.ensemble import Ensemble


@dataclass(frozen=True)
class BuiltModel:
    """A model and what belongs to it.

    Attributes:
        model: The recommender.
        prompts: The compiled tasks.
        base: Its base model.
    """

    model: "ItemLM"
    prompts: "Prompts"
    base: "Base"


class ModelBuilder:
    """Builds what a recipe describes; stages that are needed for it are made first.

    Args:
        run: Whose recipe and stages are read, each time anew.
    """

    def __init__(self, run: Stages) -> None:
        self._run = run

    def base(self) -> "Base":
        """The base model as pulled, unpacked and loaded.

        Raises:
            MissingPackageError: No torch or no transformers.
        """
        _need_torch()
        from delrec_lite.llm.load import load_base, unpack
        from delrec_lite.llm.precision import device_for

        pulled, wanted = self._run.pulled["model"], self._run.recipe.model
        folder = current().from_first(lambda: unpack(pulled.name, pulled.folder, cache_folder(), self._run.console))
        return load_base(pulled.name, folder, wanted.precision, device_for(wanted.device), self.weights_seed)

    @property
    def weights_seed(self) -> int | None:
        """The seed of the base model's weights where they are random."""
        recipe = self._run.recipe
        return recipe.distill.seed if recipe.model.weights == "random" else None

    def untrained(self) -> BuiltModel:
        """The model before stage 1."""
        base = self.base()
        import torch

        from delrec_lite.llm.model import ItemLM
        from delrec_lite.prompts.tasks import start_words

        recipe, dataset = self._run.recipe, self._run.dataset
        settings, seed = recipe.model, recipe.distill.seed
        words = start_words(DOMAINS[recipe.data.domain], base.encode) if settings.soft_start == "words" else None
        deep = settings.soft_layers == "all"
        model = ItemLM(base, dataset.catalog.titles, settings.soft_tokens, seed, words, deep)
        if settings.item_start == "teacher":
            seen = dataset.popularity() > 0
            model.start_from(torch.from_numpy(self.teacher().item_vectors()), torch.from_numpy(seen))
        elif settings.item_start == "random":
            model.start_random(seed)
        return BuiltModel(model, self.prompts(model, base, settings.pattern_prompt), base)

    def distilled(self) -> BuiltModel:
        """The model between stage 1 and stage 2."""
        from delrec_lite.training.distill import load_llm, load_soft

        done, built = self._run.distill(), self.untrained()
        load_soft(built.model, done.folder)
        if self._run.recipe.distill.train_llm:
            load_llm(built.model, done.folder)
        return built

    def trained(self) -> BuiltModel:
        """The model after stage 2, in training precision."""
        from delrec_lite.training.adapters import load_finetuned
        from delrec_lite.training.distill import load_soft

        finetuned, distilled = self._run.finetune(), self._run.distill()
        built = self.untrained()
        load_soft(built.model, distilled.folder)
        load_finetuned(built.model, finetuned.folder)
        return built

    def prompts(self, model: "ItemLM", base: "Base", pattern: str) -> "Prompts":
        """The tasks compiled for a model.

        Args:
            model: Whose vocabulary they are written in.
            base: Its base model.
            pattern: What tells the LLM of the teacher, see ``model.pattern_prompt`` of a recipe.
        """
        from delrec_lite.prompts.tasks import compile_prompts

        domain, titles = DOMAINS[self._run.recipe.data.domain], self._run.dataset.catalog.titles
        prompt_format = self.format(getattr(base.model.config, "max_position_embeddings", None))
        return compile_prompts(domain, model.vocabulary, base.encode, base.bos, pattern, prompt_format, titles)

    def format(self, context: int | None = None) -> PromptFormat:
        """The format of the recipe's prompts, for a base model that reads so many tokens."""
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

        done = self._run.teacher()
        return {kind: load_teacher(done.folder / kind) for kind in self._run.recipe.teacher.kinds}

    def teacher(self) -> "Teacher | Ensemble":
        """What is distilled: the fitted teacher, or all of them as one."""
        from delrec_lite.teachers.ensemble import Ensemble

        members = list(self.teachers().values())
        return members[0] if len(members) == 1 else Ensemble(members)

    def fit_teacher(self, kind: str, folder: Path) -> "Teacher":
        """Fit one of the recipe's teachers; its log goes to ``folder``."""
        from delrec_lite.teachers.contract import TeacherConfig
        from delrec_lite.teachers.fit import fit

        run = self._run
        settings, lists = run.recipe.teacher.settings_of(kind), run.recipe.teacher.lists
        if kind != "external" or lists is None:
            return fit(TeacherConfig.for_kind(kind, **settings), run.dataset, run.console, out=folder)
        from delrec_lite.data.lists import read_lists
        from delrec_lite.teachers.external import KIND, fit_external

        ranked = read_lists(Path(lists), run.dataset)
        if ranked.unknown:
            run.console.say(f"  {lists}: {ranked.unknown} rows name no user or item of this data set and are left out")
        return fit_external(TeacherConfig.for_kind(KIND, **settings), run.dataset, ranked, run.console, folder)

    def lists_digest(self) -> list[str]:
        """sha256 of the ranked lists that a teacher learns from, if one does.

        Raises:
            DataError: The file cannot be read.
        """
        lists = self._run.recipe.teacher.lists
        try:
            return [] if lists is None else [sha256_of(Path(lists))]
        except OSError as error:
            raise DataError(f"{lists} cannot be read: {error.strerror}", "check teacher.lists in the recipe") from error


def _need_torch() -> None:
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            f"training needs {error.name}, which is not installed", 'pip install "delrec-lite[train,gguf]"'
        ) from error
