"""The recipe of a run: frozen, typed, strict. Unknown keys are refused and errors name the key."""

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from delrec_lite.errors import ConfigError
from delrec_lite.hub.registry import DATASETS
from delrec_lite.prompts.history import HISTORIES
from delrec_lite.prompts.verbalizer import VERBALIZERS
from delrec_lite.quantisations import GGUF, ONNX
from delrec_lite.teacher_kinds.registry import TEACHERS


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    # Keys that say how a result is computed and leave it the same.
    runtime_only: ClassVar[frozenset[str]] = frozenset()
    # Keys that came later: at their default, a finished stage stays valid.
    default_compatible: ClassVar[frozenset[str]] = frozenset()

    def cache_key_fields(self) -> dict[str, Any]:
        """The keys that decide what is made: what a stage's key is taken from."""
        same = {key for key in self.default_compatible if getattr(self, key) == type(self).model_fields[key].default}
        return self.model_dump(mode="json", exclude={*self.runtime_only, *same})


class DataSection(_Section):
    """Which interactions, and how they become sequences and candidate sets."""

    name: str = Field("ml-100k", description=f"a data set to pull: {', '.join(DATASETS.built_in)}")
    folder: str | None = Field(
        None,
        description="your own data, as `delrec-lite prepare` wrote it; the keys below and `name` are then the data "
        "set's, and a recipe that sets one to something else is refused",
    )
    domain: Literal["movie", "game", "item", "artist"] = "movie"
    k_core: int = Field(5, ge=1)
    candidates: int = Field(15, ge=2, description="m: one positive and m - 1 unseen negatives")
    seed: int = 2024
    split: Literal["leave-one-out", "chronological"] = Field(
        "leave-one-out", description="each user's last item is the test; or 8:1:1 by time, the same moments for all"
    )

    @model_validator(mode="after")
    def _can_be_pulled(self) -> "DataSection":
        if self.folder is None and self.name not in DATASETS:
            known = ", ".join(DATASETS.names())
            raise ValueError(f"name {self.name!r} is no data set to pull: one of {known}; or set folder to your own")
        return self


class ModelSection(_Section):
    """The base language model and the form of its prompt."""

    runtime_only: ClassVar[frozenset[str]] = frozenset({"device"})
    default_compatible: ClassVar[frozenset[str]] = frozenset({"weights", "soft_layers"})
    base: str = Field(
        "smollm2-135m-instruct",
        description="name to pull, folder or .gguf file, or Hub id; of a family in docs/base-models.md",
    )
    weights: Literal["pretrained", "random"] = Field(
        "pretrained", description="random: the same network as if nobody had trained it (ablation)"
    )
    precision: Literal["auto", "bf16", "fp32", "nf4", "int8"] = Field(
        "auto",
        description="of the frozen weights in training; auto: bf16 where it is faster on this machine, else fp32",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a CUDA card where there is one")
    soft_tokens: int = Field(16, ge=1, le=256, description="k, the vectors that stage 1 learns")
    pattern_prompt: Literal["soft", "words", "none"] = Field(
        "soft", description="what tells the LLM of the recommender: the soft prompt, a written sentence, nothing"
    )
    item_start: Literal["teacher", "titles", "random"] = Field(
        "teacher",
        description="first item vectors: titles and the teacher's item similarity, titles alone, neither",
    )
    max_history: int = Field(50, ge=2, description="items of a history that the prompt holds, the newest")
    history: Annotated[str, AfterValidator(HISTORIES.check), HISTORIES] = Field(
        "items", description="an item in the prompt: one vector, or its words"
    )
    title_tokens: int = Field(24, ge=1, description="where a title's words end, in tokens")
    max_tokens: int | None = Field(
        None, ge=32, description="of a whole prompt, at most what the base reads; the oldest items go first"
    )
    verbalizer: Annotated[str, AfterValidator(VERBALIZERS.check), VERBALIZERS] = Field(
        "title-mean", description="what scores an item: its candidate's letter, its title's words, its title's mean row"
    )
    candidates_in_prompt: bool = Field(False, description="the prompt lists the candidates")
    soft_layers: Literal["first", "all"] = Field(
        "first", description="where soft vectors enter: before the first layer, or before the third and all others too"
    )
    soft_start: Literal["rows", "words"] = Field(
        "rows", description="first soft prompt: tokens drawn at random, or those of a written sentence"
    )

    @model_validator(mode="after")
    def _candidates_are_listed(self) -> "ModelSection":
        if VERBALIZERS[self.verbalizer].listed and not self.candidates_in_prompt:
            raise ValueError(
                f"verbalizer {self.verbalizer} names the candidates in the prompt: set candidates_in_prompt: true"
            )
        return self


class TeacherSection(_Section):
    """The sequential recommender to distil, or several; the settings are those of the teacher's own configuration."""

    kind: str | list[str] = Field("sasrec", description="of several, the distributions are mixed", min_length=1)
    settings: dict[str, int | float | dict[str, int | float]] = Field(
        default_factory=dict, description="of one kind by name; of several by kind, then by name"
    )
    lists: str | None = Field(
        None, description="for external: another recommender's ranked lists, user_id, rank, item_id[, score]"
    )

    @field_validator("kind")
    @classmethod
    def _kinds_are_known(cls, kind: str | list[str]) -> str | list[str]:
        for name in [kind] if isinstance(kind, str) else kind:
            try:
                TEACHERS[name]
            except ConfigError as error:
                raise _refused(error) from error
        return kind

    @property
    def kinds(self) -> tuple[str, ...]:
        """Which teachers, in order."""
        return (self.kind,) if isinstance(self.kind, str) else tuple(self.kind)

    def settings_of(self, kind: str) -> dict[str, int | float]:
        """What the recipe sets of one of its teachers."""
        if len(self.kinds) > 1:
            held = self.settings.get(kind, {})
            return held if isinstance(held, dict) else {}
        return {name: value for name, value in self.settings.items() if not isinstance(value, dict)}

    @model_validator(mode="after")
    def _settings_are_of_one(self) -> "TeacherSection":
        if len(set(self.kinds)) != len(self.kinds):
            raise ValueError("a kind stands twice")
        several = len(self.kinds) > 1
        for name, value in self.settings.items():
            if several and (name not in self.kinds or not isinstance(value, dict)):
                raise ValueError(f"settings of several kinds stand under each kind's name: {name!r} is none of them")
            if not several and isinstance(value, dict):
                raise ValueError(f"settings of one kind have names and numbers: {name!r} has more of them")
        records = [TEACHERS[kind] for kind in self.kinds]
        if any(record.reads_lists for record in records) != (self.lists is not None):
            raise ValueError("the file lists and a kind that reads it, such as external, go together")
        if len({record.label for record in records}) != len(records):
            raise ValueError("two kinds have the same label, which names their rows in tables")
        for record in records:
            try:
                record.configure(**self.settings_of(record.name))
            except ConfigError as error:
                raise _refused(error) from error
        return self


class OptimSection(_Section):
    """How long and how fast a stage learns."""

    runtime_only: ClassVar[frozenset[str]] = frozenset({"checkpointing", "gradient_accumulation_steps"})
    epochs: float = Field(1.0, gt=0, description="passes over all training interactions")
    tokens_per_step: int = Field(800, ge=16, description="item tokens whose gradients make one step")
    lr: float = Field(1e-3, gt=0)
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps in which lr rises from 0")
    checkpointing: bool = Field(False, description="compute activations again in the backward pass: less memory")
    seed: int = 1


class DistillSection(OptimSection):
    """Stage 1: the LLM is frozen, only the soft prompt learns (DELRec, sections 4.2 and 4.3)."""

    epochs: float = Field(1.0, ge=0, description="0 leaves the soft prompt as drawn")
    lr: float = Field(3e-2, gt=0)
    temporal_share: float = Field(0.25, ge=0, le=1, description="share of a step's tokens in temporal analysis")
    temperature: float = Field(1.0, gt=0, description="softens the teacher's distribution")
    weighting: Literal["uncertainty", "gradient-norm", "fixed"] = "uncertainty"
    pattern_loss: Literal["kl", "top1"] = Field("kl", description="the teacher's distribution, or its first item alone")
    train_llm: bool = Field(False, description="an adapter as in stage 2 learns too, and stage 2 goes on (ablation)")


class FinetuneSection(OptimSection):
    """Stage 2: the soft prompt is frozen, the adapter and the item vectors learn."""

    epochs: float = Field(3.0, ge=0, description="0 leaves the LLM as it comes")
    lr: float = Field(6e-4, gt=0, description="of the adapter")
    item_lr: float = Field(1e-3, gt=0, description="of the item vectors, scale and bias")
    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    adapter: Literal["lora", "dora", "adalora", "full"] = Field(
        "lora", description="full: none, all weights of the network learn"
    )
    modules: Literal["attention", "all", "qv"] = Field("attention", description="linear layers that get an adapter")
    optimiser: Literal["adamw", "paged_adamw_8bit"] = Field("adamw", description="the second one on CUDA alone")
    gradient_accumulation_steps: int = Field(
        1, ge=1, description="parts in which a step's gradients are computed, one after another"
    )
    teacher_weight: float = Field(0.0, ge=0, le=1, description="share of the teacher's distribution in the target")
    train_soft: bool = Field(False, description="the soft prompt learns too (ablation)")
    teacher_until: float = Field(
        1.0, gt=0, le=1, description="share of the steps after which teacher_weight falls, reaching 0 at the end"
    )
    valid_every: float = Field(0.0, ge=0, description="epochs between validations, which choose the weights; 0: none")
    patience: int = Field(3, ge=1, description="validations without a better one before training stops")
    average: float = Field(
        0.0, ge=0, lt=1, description="decay, a step, of the running mean of the weights that is kept; 0: the last ones"
    )


class ExportSection(_Section):
    """What the bundle holds."""

    # Against training precision on 50 validation users: iq4_nl kept 77% of the first ten (correlation 0.987).
    quant: Annotated[str, AfterValidator(GGUF.check), GGUF] = Field("q8_0", description="quantisation of the GGUF file")
    format: Literal["gguf", "onnx", "both"] = Field("gguf", description="GGUF for llama.cpp, ONNX for ONNX Runtime")
    # int8: see export/onnx_weights.py for what each costs.
    onnx_quant: Annotated[str, AfterValidator(ONNX.check), ONNX] = Field(
        "int8", description="quantisation of the ONNX file"
    )
    retriever: bool = Field(True, description="the teacher too, as retriever.onnx: its opinion beside the model's")
    merge_base: Literal["dequant", "original"] = Field(
        "dequant", description="an adapter of nf4 or int8 goes onto these weights: as training saw them, or as pulled"
    )
    prune_vocab: bool = Field(True, description="leave out text tokens that catalogue and prompts do not need")
    score_correlation: float = Field(0.98, gt=0, le=1, description="gate: against training precision")


class Recipe(_Section):
    """A whole run, from interactions to a bundle."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    data: DataSection = DataSection()
    model: ModelSection = ModelSection()
    teacher: TeacherSection = TeacherSection()
    distill: DistillSection = DistillSection()
    finetune: FinetuneSection = FinetuneSection()
    export: ExportSection = ExportSection()

    @model_validator(mode="after")
    def _whole_networks(self) -> "Recipe":
        full = self.finetune.adapter == "full"
        if self.model.weights == "random" and not full:
            raise ValueError("model.weights random must be trained whole: set finetune.adapter: full")
        if full and self.model.precision in {"nf4", "int8"}:
            raise ValueError("finetune.adapter full cannot train quantised weights: set model.precision: auto")
        if full and self.distill.train_llm:
            raise ValueError("distill.train_llm needs an adapter, and finetune.adapter full has none")
        return self

    def dump(self) -> dict[str, Any]:
        """Every key with its resolved value; ``parse`` reads it back."""
        return self.model_dump(mode="json")


def shipped_recipes() -> tuple[str, ...]:
    """Names of the recipes in the package."""
    folder = resources.files("delrec_lite.recipes")
    return tuple(sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")))


def load_recipe(name_or_path: str) -> Recipe:
    """A shipped recipe by name, or a YAML file by path.

    Raises:
        ConfigError: No such recipe, not YAML, an unknown key or a value out of range; names file and key.
    """
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        if not path.is_file():
            raise ConfigError(f"no recipe file at {path}", "check the path")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} does not read as text: {error}", "give a recipe's .yaml file") from error
    elif name_or_path in shipped_recipes():
        text = resources.files("delrec_lite.recipes").joinpath(f"{name_or_path}.yaml").read_text(encoding="utf-8")
    else:
        raise ConfigError(
            f"no recipe named {name_or_path!r}",
            f"one of {', '.join(shipped_recipes())}, or the path of a .yaml file",
        )
    return parse(text, where=name_or_path)


def _refused(error: ConfigError) -> ValueError:
    """For pydantic, which adds the key to errors of this type alone."""
    return ValueError(": ".join(part for part in (error.message, error.hint) if part))


def parse(text: str, where: str) -> Recipe:
    """Read YAML text into a recipe; ``where`` names it in errors."""
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {str(error).splitlines()[0]}", "mend the line named") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{where} holds no recipe", "a recipe is a mapping with at least `name:`")
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"{where}: unknown key {key!r}", "remove it, or look for a typing mistake") from error
        raise ConfigError(f"{where}: {key}: {first['msg']}", f"got {first.get('input')!r}") from error
