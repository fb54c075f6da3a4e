"""`Run`: the stages of a recipe, each made at most once, and what they made, loaded only when asked for."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import yaml

from delrec_lite.config import Recipe
from delrec_lite.console import Console
from delrec_lite.data.store import load_candidates, load_dataset
from delrec_lite.data.types import CandidateSets, Dataset, Split
from delrec_lite.errors import ConfigError, DataError, MissingPackageError, UsageError
from delrec_lite.evaluation.expected import ExpectedSampledMetrics
from delrec_lite.files import cache_folder, lock, sha256_of
from delrec_lite.hub.base import find_base
from delrec_lite.hub.cache import Pulled
from delrec_lite.hub.pull import pull
from delrec_lite.pipeline.model_files import files_for
from delrec_lite.pipeline.reference import STAGES, made_from, reference_for
from delrec_lite.pipeline.stage import Done, begun, key_of, run_stage
from delrec_lite.pipeline.summary import TITLES, summarise
from delrec_lite.processes import current
from delrec_lite.prompts.domain import DOMAINS
from delrec_lite.prompts.format import PromptFormat
from delrec_lite.provenance import commit, machine, versions
from delrec_lite.version import __version__

# Goes into every stage's key: raise it when a stage computes something else from the same recipe.
CODE = 3
# The same for export alone, so that a bundle is made again and nothing is trained again. 2: the teacher's weight.
BUNDLE = 2
RECIPE = "recipe.yaml"
SHARED_STAGES = ("distill", "finetune")  # stages whose steps several processes share


class Run:
    """One recipe in one folder, ``<runs>/<recipe name>``.

    Args:
        recipe: What to make.
        runs: Folder of all runs.
        console: Shows each stage.
        fresh: Forget what an earlier call made.
        shipped: Take trained weights that the package carries where they are what training would make.

    Raises:
        UsageError: The folder holds something else, or another process is working on it.
    """

    code = CODE

    def __init__(self, recipe: Recipe, runs: Path, console: Console, fresh: bool = False, shipped: bool = True) -> None:
        self.recipe = recipe
        self.reference = reference_for(recipe.name) if shipped else None
        self.folder = runs / recipe.name
        self.console = console
        self.stages: dict[str, Done] = {}
        current().from_first(lambda: self._open(fresh))

    def _open(self, fresh: bool) -> None:
        folder, name = self.folder, self.recipe.name
        if folder.is_dir() and any(folder.iterdir()) and not (folder / RECIPE).is_file():
            raise UsageError(f"{folder} is not empty and not a run", "choose another --runs folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _only_one(folder.parent / f".{name}.lock")
        if fresh and folder.is_dir():
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RECIPE).write_text(yaml.safe_dump(self.recipe.dump(), sort_keys=False), encoding="utf-8")

    @property
    def bundle(self) -> Path:
        """Where export writes."""
        return self.folder / f"{self.recipe.name}.delrec"

    @cached_property
    def pulled(self) -> dict[str, Pulled]:
        """Base model and data set, fetched or from the cache: keys ``model`` and, unless it is your own, ``data``."""
        return current().from_first(self._pull)

    def _pull(self) -> dict[str, Pulled]:
        first = self.reference.mirrors if self.reference else {}
        found = {}
        if self.recipe.data.folder is None:
            found["data"] = pull(self.recipe.data.name, self.console, cache_folder(), first=first.get("data"))
        return {"model": find_base(self.recipe.model.base, self.console, cache_folder(), first.get("model")), **found}

    def prepare(self) -> Done:
        """Interactions to sequences, splits and candidate sets; your own data set is taken as it is."""
        data = self.recipe.data

        def make(folder: Path) -> dict[str, Any]:
            from delrec_lite.data.prepare import prepare

            if data.folder is not None:
                made = load_dataset(Path(data.folder))
            else:
                made = prepare(
                    data.name,
                    self.pulled["data"].folder,
                    folder / "dataset",
                    k_core=data.k_core,
                    m=data.candidates,
                    seed=data.seed,
                    console=self.console,
                    split=data.split,
                )
            return {
                "users": len(made.user_ids),
                "items": len(made.catalog),
                "interactions": sum(len(s) for s in made.sequences),
                "fingerprint": made.fingerprint,
            }

        if data.folder is not None:
            return self._stage("prepare", key_of(CODE, load_dataset(Path(data.folder)).fingerprint), make)
        settings = data.model_dump(exclude={"domain", "folder"})
        return self._stage("prepare", key_of(CODE, settings, self.pulled["data"].files), make)

    @property
    def _dataset_folder(self) -> Path:
        done = self.prepare()
        return done.folder / "dataset" if self.recipe.data.folder is None else Path(self.recipe.data.folder)

    def teacher(self) -> Done:
        """Fit the conventional recommender."""
        upstream = self.prepare()

        def make(folder: Path) -> dict[str, Any]:
            from delrec_lite.teachers.store import CONFIG, load_teacher, save_teacher

            result = {}
            for kind in self.recipe.teacher.kinds:
                if not (folder / kind / CONFIG).is_file():  # else fitted before this stage was cut short
                    save_teacher(self._fit(kind, folder / kind), folder / kind)
                result[kind] = load_teacher(folder / kind).metrics
            return result

        lists = self.recipe.teacher.lists
        read = [] if lists is None else [_digest(Path(lists))]
        return self._stage("teacher", key_of(CODE, upstream.key, self.recipe.teacher.model_dump(), *read), make)

    def _fit(self, kind: str, folder: Path) -> Any:
        from delrec_lite.teachers.contract import TeacherConfig
        from delrec_lite.teachers.fit import fit

        settings, lists = self.recipe.teacher.settings_of(kind), self.recipe.teacher.lists
        if kind != "external" or lists is None:
            return fit(TeacherConfig.for_kind(kind, **settings), self.dataset, self.console, out=folder)
        from delrec_lite.data.lists import read_lists
        from delrec_lite.teachers.external import KIND, fit_external

        held = read_lists(Path(lists), self.dataset)
        if held.unknown:
            self.console.say(f"  {lists}: {held.unknown} rows name no user or item of this data set and are left out")
        return fit_external(TeacherConfig.for_kind(KIND, **settings), self.dataset, held, self.console, folder)

    def distill(self) -> Done:
        """Stage 1."""
        upstream = self.teacher()

        def make(folder: Path) -> dict[str, Any]:
            from delrec_lite.training.adapters import add_adapter
            from delrec_lite.training.distill import distill

            model, prompts, base = self.untrained()
            if self.recipe.distill.train_llm:
                add_adapter(model, self.recipe.finetune)
            report = distill(
                model,
                prompts,
                self._prompts(model, base, "words"),
                self.fitted_teacher(),
                self.dataset,
                self.candidates["valid"],
                self.recipe.distill,
                self.recipe.model.max_history,
                folder,
                self.console,
                self.recipe.finetune.lr if self.recipe.distill.train_llm else None,
            )
            return asdict(report)

        key = key_of(
            CODE,
            upstream.key,
            self.recipe.data.domain,
            self.recipe.model.cache_key_fields(),
            self.pulled["model"].files,
            self.recipe.distill.cache_key_fields(),
            *([self.recipe.finetune.cache_key_fields()] if self.recipe.distill.train_llm else []),  # its adapter
        )
        return self._stage("distill", key, make)

    def finetune(self) -> Done:
        """Stage 2."""
        upstream = self.distill()

        def make(folder: Path) -> dict[str, Any]:
            from delrec_lite.training.distill import load_llm, load_soft
            from delrec_lite.training.finetune import finetune

            model, prompts, _ = self.untrained()
            load_soft(model, upstream.folder)
            if self.recipe.distill.train_llm:
                load_llm(model, upstream.folder)
            report = finetune(
                model,
                prompts,
                self.fitted_teacher(),
                self.dataset,
                self.candidates["valid"],
                self.recipe.finetune,
                self.recipe.model.max_history,
                folder,
                self.console,
            )
            return asdict(report)

        return self._stage("finetune", key_of(CODE, upstream.key, self.recipe.finetune.cache_key_fields()), make)

    def export(self) -> Done:
        """Merge, bake, quantise, compare, bundle.

        Raises:
            ConfigError: An ONNX file cannot hold the recipe's form of prompt.
        """
        self._must_export(self.recipe.export.format)
        upstream = self.finetune()

        def make(_: Path) -> dict[str, Any]:
            made = self.write_bundle(self.bundle, *files_for(self.recipe.export))
            return {
                "bytes": made.bytes,
                "quant": made.quant,
                "tensor_types": made.tensor_types,
                "parity": made.parity.dump(),
                "models": made.models,
            }

        key = key_of(CODE, BUNDLE, upstream.key, self.recipe.export.model_dump())
        if not (self.bundle / "manifest.json").is_file():
            (self.folder / "export" / "done.json").unlink(missing_ok=True)
        return self._stage("export", key, make)

    def _must_export(self, formats: str) -> None:
        """Refuse what no file of these formats can hold."""
        if formats != "gguf" and (self.recipe.model.history == "titles" or not self.ranks_catalogue):
            raise ConfigError(
                "an ONNX file reads item tokens and ranks the whole catalogue; this recipe's form of prompt does not",
                "GGUF is the format for titles, letters and candidates: set export.format: gguf (--format gguf)",
            )

    @property
    def ranks_catalogue(self) -> bool:
        """Whether the trained model ranks the whole catalogue, or candidates alone."""
        return self._form().ranks_catalogue

    def write_bundle(
        self,
        target: Path,
        quants: Sequence[str],
        onnx_quants: Sequence[str] = (),
        gated: bool = True,
        measured_quants: Any = (),
        merge_base: str = "",
    ) -> Any:
        """A bundle of the trained model, in any quantisation, anywhere; what export returns, and raises what it raises.

        Args:
            target: The bundle's folder.
            quants: Of GGUF files; the first is the bundle's default.
            onnx_quants: Of ONNX files.
            gated: Refuse what does not score as trained.
            measured_quants: What the quantisation was chosen among.
            merge_base: What a quantised base's adapter goes onto; default: the recipe's.
        """
        self._must_export("onnx" if onnx_quants else "gguf")
        from delrec_lite.export.write import export

        model, prompts, base = self.trained()
        return export(
            model,
            base,
            prompts,
            self.dataset,
            self.candidates,
            target,
            name=self.recipe.name,
            quants=quants,
            onnx_quants=onnx_quants,
            max_history=self.recipe.model.max_history,
            score_correlation=self.recipe.export.score_correlation if gated else None,
            prune_vocab=self.recipe.export.prune_vocab,
            teacher=self.fitted_teacher() if self.recipe.export.retriever else None,
            measured_quants=measured_quants,
            merge_base=merge_base or self.recipe.export.merge_base,
            licences={p.name: p.licence for p in self.pulled.values()},
            provenance={
                "delrec_lite": __version__,
                "commit": commit(),
                "machine": machine(),
                "versions": versions(),
                "recipe": self.recipe.dump(),
                "sources": {p.name: {"mirror": p.mirror, "sha256": p.files} for p in self.pulled.values()},
                "stages": {name: done.result for name, done in self.stages.items()},
            },
            console=self.console,
        )

    @cached_property
    def dataset(self) -> Dataset:
        """As prepared."""
        return load_dataset(self._dataset_folder)

    @cached_property
    def candidates(self) -> dict[str, CandidateSets]:
        """Candidate sets by split, the same for every row of every table."""
        return load_candidates(self._dataset_folder)

    def expected(self, split: Split) -> ExpectedSampledMetrics:
        """How the candidate sets of a split of its data set were drawn."""
        return ExpectedSampledMetrics.of(split, len(self.dataset.catalog), self.candidates[split.name].items.shape[1])

    def teachers(self) -> dict[str, Any]:
        """The teachers by kind, loaded."""
        from delrec_lite.teachers.store import load_teacher

        return {kind: load_teacher(self.teacher().folder / kind) for kind in self.recipe.teacher.kinds}

    def fitted_teacher(self) -> Any:
        """What is distilled: the teacher, or all of them as one."""
        from delrec_lite.teachers.ensemble import Ensemble

        members = list(self.teachers().values())
        return members[0] if len(members) == 1 else Ensemble(members)

    def base(self) -> Any:
        """The base model as pulled, unpacked and loaded."""
        _need_torch()
        from delrec_lite.llm.load import load_base, unpack
        from delrec_lite.llm.precision import device_for

        pulled, wanted = self.pulled["model"], self.recipe.model
        folder = current().from_first(lambda: unpack(pulled.name, pulled.folder, cache_folder(), self.console))
        return load_base(pulled.name, folder, wanted.precision, device_for(wanted.device), self.draw)

    @property
    def draw(self) -> int | None:
        """The seed of the base model's weights where they are random."""
        return self.recipe.distill.seed if self.recipe.model.weights == "random" else None

    def untrained(self) -> tuple[Any, Any, Any]:
        """The model before stage 1, the compiled prompts and the base model."""
        base = self.base()
        import torch

        from delrec_lite.llm.model import ItemLM
        from delrec_lite.prompts.tasks import start_words

        settings, titles = self.recipe.model, self.dataset.catalog.titles
        words = start_words(DOMAINS[self.recipe.data.domain], base.encode) if settings.soft_start == "words" else None
        deep = settings.soft_layers == "all"
        model = ItemLM(base, titles, settings.soft_tokens, self.recipe.distill.seed, words, deep)
        if self.recipe.model.item_start == "teacher":
            seen = self.dataset.popularity() > 0
            model.start_from(torch.from_numpy(self.fitted_teacher().item_vectors()), torch.from_numpy(seen))
        elif self.recipe.model.item_start == "random":
            model.start_random(self.recipe.distill.seed)
        return model, self._prompts(model, base, self.recipe.model.pattern_prompt), base

    def _prompts(self, model: Any, base: Any, pattern: str) -> Any:
        from delrec_lite.prompts.tasks import compile_prompts

        domain, titles = DOMAINS[self.recipe.data.domain], self.dataset.catalog.titles
        prompt_format = self._form(getattr(base.model.config, "max_position_embeddings", None))
        return compile_prompts(domain, model.vocabulary, base.encode, base.bos, pattern, prompt_format, titles)

    def _form(self, reads: int | None = None) -> PromptFormat:
        """The form of the recipe's prompts, for a base model that reads so many tokens."""
        settings = self.recipe.model
        bounds = [bound for bound in (settings.max_tokens, reads) if bound is not None]
        return PromptFormat(
            history=settings.history,
            title_tokens=settings.title_tokens,
            verbalizer=settings.verbalizer,
            candidates=settings.candidates_in_prompt,
            context=min(bounds, default=None),
        )

    def trained(self) -> tuple[Any, Any, Any]:
        """The model after stage 2 in training precision, the compiled prompts and the base model."""
        from delrec_lite.training.adapters import load_finetuned
        from delrec_lite.training.distill import load_soft

        finetuned, distilled = self.finetune(), self.distill()
        model, prompts, base = self.untrained()
        load_soft(model, distilled.folder)
        load_finetuned(model, finetuned.folder)
        return model, prompts, base

    def _stage(self, name: str, key: str, make: Any) -> Done:
        if name not in self.stages:
            make = self._announced(name, make)
            # What was trained here, or is being trained, is never replaced by what was shipped.
            if name in STAGES and not begun(self.folder / name, key) and self._is_shipped(name):
                key, make = key_of("shipped", key), partial(self.reference.copy, name)  # type: ignore[union-attr]
            self.stages[name] = run_stage(self.folder / name, key, make, together=name in SHARED_STAGES)
            self._tell(self.stages[name])
        return self.stages[name]

    def _is_shipped(self, name: str) -> bool:
        if self.reference is None:
            return False
        # A stage behind one that was trained here is trained here too.
        if any("shipped" not in self.stages[before].result for before in STAGES[: STAGES.index(name)]):
            return False
        fingerprint = self.prepare().result["fingerprint"]
        return self.reference.fits(name, made_from(self.recipe, fingerprint, self.pulled["model"].files, CODE))

    def _announced(self, name: str, make: Any) -> Any:
        def made(folder: Path) -> Any:
            self.console.heading(f"{TITLES.get(name, name)} ...")
            return make(folder)

        return made

    def _tell(self, done: Done) -> None:
        how = f"{done.seconds:.0f} s" if done.again else "as made before"
        if "shipped" in done.result:
            how = f"shipped with the package; training took {done.result['shipped']:.0f} s"
        self.console.say(f"  {TITLES.get(done.name, done.name)}: {summarise(done)} ({how})")


def _only_one(path: Path) -> Any:
    """Hold the run for this process; the lock is the kernel's, so a killed process leaves none behind.

    Raises:
        UsageError: Another process has it: two would write into each other's stages.
    """

    def busy() -> None:
        raise UsageError(
            f"another process is working on {path.parent / path.name[1:-5]}",
            "wait for it, or choose another --runs folder",
        )

    file = path.open("ab")
    lock(file, busy)
    return file


def _need_torch() -> None:
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            f"training needs {error.name}, which is not installed", 'pip install "delrec-lite[train,gguf]"'
        ) from error


def _digest(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", "check teacher.lists in the recipe") from error
