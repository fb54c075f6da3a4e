"""`Run`: the stages of a recipe, each made at most once, and what they made, loaded only when asked for."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from delrec_lite.architectures import context_length
from delrec_lite.config import Recipe
from delrec_lite.console import Console
from delrec_lite.data.store import load_candidates, load_dataset
from delrec_lite.data.types import CandidateSets, Dataset, Split
from delrec_lite.errors import ConfigError, DataError, MissingPackageError, install_line
from delrec_lite.evaluation.expected import ExpectedSampledMetrics
from delrec_lite.evaluation.setting import Setting
from delrec_lite.files import cache_folder, sha256_of
from delrec_lite.hub.base import find_base, gguf_file, model_folder
from delrec_lite.hub.cache import Pulled
from delrec_lite.hub.pull import pull
from delrec_lite.llm.precision_choice import faster_precision, possible_precisions, resolve_precision
from delrec_lite.pipeline.base import check_folder, check_gguf_base
from delrec_lite.pipeline.folder import RunFolder, holds_folder
from delrec_lite.pipeline.model_files import files_for
from delrec_lite.pipeline.reference import STAGES, made_from, reference_for
from delrec_lite.pipeline.stage import DONE, Done, begun, key_of, run_stage
from delrec_lite.pipeline.summary import TITLES, summarise
from delrec_lite.processes import current
from delrec_lite.prompts.domain import DOMAINS
from delrec_lite.prompts.format import PromptFormat
from delrec_lite.provenance import commit, machine, versions
from delrec_lite.teacher_kinds.registry import TEACHERS
from delrec_lite.version import __version__

# Goes into every stage's key: raise it when a stage computes something else from the same recipe.
CODE = 3
# The same for export alone, so that a bundle is made again and nothing is trained again. 2: the teacher's weight. 3:
# int8 that cannot saturate, and scaled rotary positions.
BUNDLE = 3
SHARED_STAGES = ("distill", "finetune")  # stages whose steps several processes share


class Run(RunFolder):
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
        super().__init__(runs / recipe.name, recipe)
        self.reference = reference_for(recipe.name) if shipped else None
        self.console = console
        with self.locked(fresh):
            pass  # what is wrong with the folder shows now, not after an hour

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

    @cached_property
    def base_folder(self) -> Path:
        """The base model as a Hugging Face folder, known to be one that can be trained and exported.

        Raises:
            ConfigError: It is not; nothing was computed yet.
        """
        pulled = self.pulled["model"]
        folder = model_folder(pulled.name, pulled.folder, cache_folder())
        if folder is None:
            check_gguf_base(gguf_file(pulled.folder))
            _need_torch()
            from delrec_lite.llm.load import unpack

            folder = current().from_first(lambda: unpack(pulled.name, pulled.folder, cache_folder(), self.console))
        check_folder(folder, onnx=self.recipe.export.format != "gguf")
        return folder

    @holds_folder
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

    @holds_folder
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

        section = self.recipe.teacher
        read = [] if section.lists is None else [_digest(Path(section.lists))]
        # The defaults of a kind from elsewhere may change with its package; those of built-in ones with CODE.
        foreign = (TEACHERS[kind] for kind in section.kinds if kind not in TEACHERS.built_in)
        read += [kind.configure(**section.settings_of(kind.name)).model_dump_json() for kind in foreign]
        return self._stage("teacher", key_of(CODE, upstream.key, section.model_dump(), *read), make)

    def _fit(self, kind: str, folder: Path) -> Any:
        _need_torch()
        from delrec_lite.llm.precision import device_for
        from delrec_lite.teachers.fit import fit

        record, lists = TEACHERS[kind], self.recipe.teacher.lists
        config = record.configure(**self.recipe.teacher.settings_of(kind))
        device = device_for(self.recipe.model.device)
        if not record.reads_lists or lists is None:
            return fit(config, self.dataset, self.console, out=folder, device=device)
        from delrec_lite.data.lists import read_lists
        from delrec_lite.teachers.external import fit_external

        held = read_lists(Path(lists), self.dataset)
        if held.unknown:
            self.console.say(f"  {lists}: {held.unknown} rows name no user or item of this data set and are left out")
        return fit_external(config, self.dataset, held, self.console, folder, device)

    @holds_folder
    def distill(self) -> Done:
        """Stage 1."""
        _ = self.base_folder  # refused before any stage is computed
        upstream = self.teacher()

        def make(folder: Path, precision: str) -> dict[str, Any]:
            from delrec_lite.training.adapters import add_adapter
            from delrec_lite.training.distill import distill

            model, prompts, base = self.untrained(precision)
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

        files = self.pulled["model"].files

        def key_in(precision: str) -> str:
            return key_of(
                CODE,
                upstream.key,
                self.recipe.data.domain,
                {**self.recipe.model.cache_key_fields(), "precision": precision},
                files,
                self.recipe.distill.cache_key_fields(),
                *([self.recipe.finetune.cache_key_fields()] if self.recipe.distill.train_llm else []),  # its adapter
            )

        return self._training_stage("distill", key_in, make)

    @holds_folder
    def finetune(self) -> Done:
        """Stage 2."""
        upstream = self.distill()

        def make(folder: Path, precision: str) -> dict[str, Any]:
            from delrec_lite.training.distill import load_llm, load_soft
            from delrec_lite.training.finetune import finetune

            model, prompts, _ = self.untrained(precision)
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

        def key_in(precision: str) -> str:
            # Stage 1's key names its own precision.
            own = [] if precision == upstream.result["precision"] else [precision]
            return key_of(CODE, upstream.key, self.recipe.finetune.cache_key_fields(), *own)

        return self._training_stage("finetune", key_in, make)

    @holds_folder
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
                "precision": self.precision,
            }

        key = key_of(CODE, BUNDLE, upstream.key, self.recipe.export.model_dump())
        if not (self.bundle / "manifest.json").is_file():
            (self.folder / "export" / "done.json").unlink(missing_ok=True)
        return self._stage("export", key, make)

    def _must_export(self, formats: str) -> None:
        """Refuse what no file of these formats can hold."""
        check_folder(self.base_folder, onnx=formats != "gguf")
        if formats != "gguf" and not self._form().only_item_rows:
            raise ConfigError(
                "an ONNX file reads item tokens and ranks the whole catalogue; this recipe's form of prompt does not",
                "GGUF is the format for titles, letters and candidates: set export.format: gguf (--format gguf)",
            )

    @property
    def ranks_catalogue(self) -> bool:
        """Whether the trained model ranks the whole catalogue, or candidates alone."""
        return self._form().ranks_catalogue

    @holds_folder
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
        from delrec_lite.export.request import ExportRequest
        from delrec_lite.export.write import export

        model, prompts, base = self.trained()
        settings = self.recipe.export
        request = ExportRequest(
            model=model,
            base=base,
            prompts=prompts,
            dataset=self.dataset,
            candidates=self.candidates,
            target=target,
            name=self.recipe.name,
            quants=quants,
            max_history=self.recipe.model.max_history,
            score_correlation=settings.score_correlation if gated else None,
            prune_vocab=settings.prune_vocab,
            licences={p.name: p.licence for p in self.pulled.values()},
            provenance=self._provenance(),
            onnx_quants=onnx_quants,
            merge_base=merge_base or settings.merge_base,
            teacher=self.fitted_teacher() if settings.retriever else None,
            measured_quants=measured_quants,
        )
        return export(request, self.console)

    def _provenance(self) -> dict[str, Any]:
        """What a bundle says of its making."""
        return {
            "delrec_lite": __version__,
            "commit": commit(),
            "machine": machine(),
            "versions": versions(),
            "recipe": self.recipe.dump(),
            "precision": self.precisions(),
            "sources": {p.name: {"mirror": p.mirror, "sha256": p.files} for p in self.pulled.values()},
            "stages": {name: done.result for name, done in self.stages.items()},
        }

    @cached_property
    def dataset(self) -> Dataset:
        """As prepared."""
        return load_dataset(self._dataset_folder)

    @cached_property
    def candidates(self) -> dict[str, CandidateSets]:
        """Candidate sets by split, the same for every row of every table."""
        return load_candidates(self._dataset_folder)

    @cached_property
    def setting(self) -> Setting:
        """What the figures of every table are over."""
        return Setting.of(self.dataset, self.candidates["test"])

    def expected(self, split: Split) -> ExpectedSampledMetrics:
        """How the candidate sets of a split of its data set were drawn."""
        return ExpectedSampledMetrics.of(split, len(self.dataset.catalog), self.candidates[split.name].items.shape[1])

    @holds_folder
    def teachers(self) -> dict[str, Any]:
        """The teachers by kind, loaded."""
        from delrec_lite.teachers.store import load_teacher

        return {kind: load_teacher(self.teacher().folder / kind) for kind in self.recipe.teacher.kinds}

    def fitted_teacher(self) -> Any:
        """What is distilled: the teacher, or all of them as one."""
        from delrec_lite.teachers.ensemble import Ensemble

        members = list(self.teachers().values())
        return members[0] if len(members) == 1 else Ensemble(members)

    @cached_property
    def precision(self) -> str:
        """Precision of trained weights and of stages that are not begun, a value of ``resolve_precision``."""
        wanted = self.recipe.model
        if len(possible_precisions(wanted.precision)) == 1:
            return wanted.precision
        _need_torch()
        from delrec_lite.llm.precision import device_for

        return resolve_precision(wanted.precision, faster_precision(device_for(wanted.device), cache_folder()))

    def precisions(self) -> dict[str, str]:
        """What the recipe asks for, what each training stage was made in, and what trained weights score in here."""
        trained = {name: self.stages[name].result["precision"] for name in SHARED_STAGES if name in self.stages}
        return {"recipe": self.recipe.model.precision, **trained, "scores": self.precision}

    def base(self, precision: str | None = None) -> Any:
        """The base model as pulled, unpacked and loaded, in this machine's precision or the one given."""
        _need_torch()
        from delrec_lite.llm.load import load_base
        from delrec_lite.llm.precision import device_for

        wanted, name = self.recipe.model, self.pulled["model"].name
        return load_base(name, self.base_folder, precision or self.precision, device_for(wanted.device), self.draw)

    @property
    def draw(self) -> int | None:
        """The seed of the base model's weights where they are random."""
        return self.recipe.distill.seed if self.recipe.model.weights == "random" else None

    def untrained(self, precision: str | None = None) -> tuple[Any, Any, Any]:
        """The model before stage 1, the compiled prompts and the base model; ``precision`` as for ``base``."""
        base = self.base(precision)
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
        prompt_format = self._form(context_length(base.model.config))
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

    @holds_folder
    def trained(self) -> tuple[Any, Any, Any]:
        """The model after stage 2 in this machine's precision, the compiled prompts and the base model."""
        from delrec_lite.training.adapters import load_finetuned
        from delrec_lite.training.distill import load_soft

        finetuned, distilled = self.finetune(), self.distill()
        model, prompts, base = self.untrained()
        load_soft(model, distilled.folder)
        load_finetuned(model, finetuned.folder)
        return model, prompts, base

    def _training_stage(self, name: str, key_in: Callable[[str], str], make: Callable[[Path, str], Any]) -> Done:
        """A stage in the precision that it was begun in or shipped in; otherwise in this machine's.

        Args:
            name: Of the stage.
            key_in: Its key by precision.
            make: Makes it in a folder and a precision.
        """
        if name not in self.stages:
            precision = current().from_first(lambda: self._precision_of(name, key_in))
            done = self._stage(
                name, key_in(precision), lambda folder: {**make(folder, precision), "precision": precision}
            )
            # Finished before stages named their precision: then it stands in the key alone.
            self.stages[name] = replace(done, result={**done.result, "precision": precision})
        return self.stages[name]

    def _precision_of(self, name: str, key_in: Callable[[str], str]) -> str:
        possible = possible_precisions(self.recipe.model.precision)
        for precision in possible:
            if begun(self.folder / name, key_in(precision)):
                self._say_if_slower(name, precision)
                return precision
        if self._is_shipped(name):
            return self.reference.precision(name)  # type: ignore[union-attr]
        return self.precision

    def _say_if_slower(self, name: str, precision: str) -> None:
        if not (self.folder / name / DONE).is_file() and precision != (here := self.precision):
            self.console.say(
                f"  {TITLES[name]}: goes on in {precision}, as it was begun; {here} is faster on this machine: "
                f"remove {self.folder / name} to begin anew"
            )

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


def _need_torch() -> None:
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            f"training needs {error.name}, which is not installed", install_line(error.name)
        ) from error


def _digest(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", "check teacher.lists in the recipe") from error
