"""The recipe of a run: frozen, typed, strict. Unknown keys are refused and errors name the key."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import (
    AfterValidator,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from delrec_lite.architectures.layers import Layers, check_setting, layer_count
from delrec_lite.data_section import DataSection as DataSection
from delrec_lite.data_section import Section
from delrec_lite.errors import ConfigError, did_you_mean, not_yaml
from delrec_lite.prompts.history import HISTORIES
from delrec_lite.prompts.verbalizer import VERBALIZERS
from delrec_lite.prompts.vocabulary import FIRST_DEEP
from delrec_lite.quantisations import GGUF, ONNX
from delrec_lite.recipe_keys import refused, set_key, value_of
from delrec_lite.softmax.choice import NEGATIVES, Softmax
from delrec_lite.teacher_kinds.registry import TEACHERS
from delrec_lite.training_sections import DistillSection as DistillSection
from delrec_lite.training_sections import FinetuneSection as FinetuneSection
from delrec_lite.training_sections import OptimSection as OptimSection
from delrec_lite.training_sections import UpdateSection as UpdateSection

# Of recipes: they are names of folders.
NAME = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$"


class ModelSection(Section):
    """The base language model and the form of its prompt."""

    runtime_only: ClassVar[frozenset[str]] = frozenset({"device"})
    default_compatible: ClassVar[frozenset[str]] = frozenset(
        {"weights", "soft_layers", "layers", "item_text", "item_vectors", "softmax", "negatives"}
    )
    base: str = Field(
        "smollm2-135m-instruct",
        description="name to pull, folder or .gguf file, or Hub id; of a family in docs/base-models.md",
    )
    weights: Literal["pretrained", "random"] = Field(
        "pretrained", description="random: the same network with untrained weights (ablation)"
    )
    layers: Layers | None = Field(
        None,
        description="of the base, only these are trained and served: 8, the first eight, or 6+2, the first six and the "
        "last two; null: all",
    )
    precision: Literal["auto", "bf16", "fp32", "nf4", "int8"] = Field(
        "auto",
        description="of the frozen weights in training; auto: bf16 where it is faster on this machine, else fp32",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a CUDA card where there is one")
    soft_tokens: int = Field(16, ge=1, le=256, description="k, the vectors that stage 1 learns")
    pattern_prompt: Literal["soft", "words", "none"] = Field(
        "soft", description="what describes the recommender to the LLM: the soft prompt, a written sentence, or nothing"
    )
    item_start: Literal["teacher", "titles", "random"] = Field(
        "teacher",
        description="initial item vectors: from titles and the teacher's item similarity, from titles alone, or random",
    )
    item_text: Literal["none", "rows", "states", "encoder", "file"] = Field(
        "none",
        description="features of title and side text that a learned map adds to an item's vectors: the base's token "
        "rows, its hidden states, a sentence encoder's vectors, or your own of item_vectors",
    )
    item_vectors: str | None = Field(
        None,
        description="for `item_text: file`: a .npy file [items, width], rows in the order of catalog.json, as "
        "`prepare --item-vectors` writes it",
    )
    max_history: int = Field(50, ge=2, description="items of a history that the prompt holds, the newest")
    history: Annotated[str, AfterValidator(HISTORIES.check), HISTORIES] = Field(
        "items", description="an item in the prompt: one vector, or its words"
    )
    title_tokens: int = Field(24, ge=1, description="largest number of tokens of a title")
    max_tokens: int | None = Field(
        None, ge=32, description="of a prompt, at most the base's context length; the oldest items are left out first"
    )
    verbalizer: Annotated[str, AfterValidator(VERBALIZERS.check), VERBALIZERS] = Field(
        "title-mean",
        description="what scores an item: its candidate's letter, its title's words, or its title's mean row",
    )
    candidates_in_prompt: bool = Field(False, description="the prompt lists the candidates")
    soft_layers: Literal["first", "all"] = Field(
        "first", description="where soft vectors enter: before the first layer, or before the third and all others too"
    )
    soft_start: Literal["rows", "words"] = Field(
        "rows", description="initial soft prompt: random tokens, or those of a written sentence"
    )
    softmax: Softmax = Field(
        "auto",
        description="over the catalogue in training: all items at once, the same in blocks with less memory, or items "
        "sampled for each step, which then trains only the vectors that it reads; auto: full, blocks where a step's "
        "scores exceed 268 MB, sampled beyond 100,000 items",
    )
    negatives: int = Field(NEGATIVES, ge=2, description="items that each step of a sampled softmax draws")

    @model_validator(mode="after")
    def _vectors_need_a_file(self) -> "ModelSection":
        if (self.item_text == "file") != (self.item_vectors is not None):
            raise ValueError("item_text: file and item_vectors must be set together")
        return self

    @model_validator(mode="after")
    def _letters_need_candidates(self) -> "ModelSection":
        if VERBALIZERS[self.verbalizer].listed and not self.candidates_in_prompt:
            raise ValueError(
                f"verbalizer {self.verbalizer} names the candidates in the prompt: set candidates_in_prompt: true"
            )
        return self

    @property
    def ranks_catalogue(self) -> bool:
        """Whether the model ranks the whole catalogue, or candidates alone."""
        return VERBALIZERS[self.verbalizer].item_rows and not self.candidates_in_prompt

    @model_validator(mode="after")
    def _softmax_is_over_the_catalogue(self) -> "ModelSection":
        if self.softmax in ("blocks", "sampled") and not self.ranks_catalogue:
            raise ValueError(f"softmax {self.softmax} is over the catalogue, and this prompt ranks candidates alone")
        return self

    @field_validator("layers")
    @classmethod
    def _layers_are_a_number_or_two(cls, layers: Layers | None) -> Layers | None:
        try:
            return layers if layers is None else check_setting(layers)
        except ConfigError as error:
            raise _as_value_error(error) from error

    @model_validator(mode="after")
    def _deep_prompt_has_layers(self) -> "ModelSection":
        if self.soft_layers == "all" and self.layers is not None and layer_count(self.layers) <= FIRST_DEEP:
            raise ValueError(f"soft_layers all needs more than {FIRST_DEEP} layers: raise layers")
        return self


class TeacherSection(Section):
    """The sequential recommender to distil, or several; ``settings`` are those of the teacher's configuration."""

    default_compatible: ClassVar[frozenset[str]] = frozenset({"text"})
    kind: str | list[str] = Field("sasrec", description="with several, their distributions are averaged", min_length=1)
    settings: dict[str, int | float | dict[str, int | float]] = Field(
        default_factory=dict, description="of one kind by name; of several by kind, then by name"
    )
    lists: str | None = Field(
        None, description="for external: another recommender's ranked lists, user_id, rank, item_id[, score]"
    )

    text: bool = Field(
        False,
        description="an item's vector is a learned offset and a linear map of its text features, those of "
        "`model.item_text` or else `rows`",
    )

    @field_validator("kind")
    @classmethod
    def _kinds_exist(cls, kind: str | list[str]) -> str | list[str]:
        for name in [kind] if isinstance(kind, str) else kind:
            try:
                TEACHERS[name]
            except ConfigError as error:
                raise _as_value_error(error) from error
        return kind

    @property
    def kinds(self) -> tuple[str, ...]:
        """The teachers, in order."""
        return (self.kind,) if isinstance(self.kind, str) else tuple(self.kind)

    def settings_of(self, kind: str) -> dict[str, int | float]:
        """The recipe's settings of one of its teachers."""
        if len(self.kinds) > 1:
            settings = self.settings.get(kind, {})
            return settings if isinstance(settings, dict) else {}
        return {name: value for name, value in self.settings.items() if not isinstance(value, dict)}

    @model_validator(mode="after")
    def _settings_fit_kinds(self) -> "TeacherSection":
        if len(set(self.kinds)) != len(self.kinds):
            raise ValueError("a kind is listed twice")
        several = len(self.kinds) > 1
        for name, value in self.settings.items():
            if several and (name not in self.kinds or not isinstance(value, dict)):
                raise ValueError(
                    f"with several kinds, settings has a mapping for each kind: {name!r} is not such a mapping"
                )
            if not several and isinstance(value, dict):
                raise ValueError(f"with one kind, settings maps names to numbers: {name!r} is not a number")
        records = [TEACHERS[kind] for kind in self.kinds]
        if any(record.reads_lists for record in records) != (self.lists is not None):
            raise ValueError("lists and a kind that reads them, such as external, must be set together")
        if len({record.label for record in records}) != len(records):
            raise ValueError("two kinds have the same label, but it must name their rows in tables")
        for record in records:
            try:
                record.configure(**self.settings_of(record.name))
            except ConfigError as error:
                raise _as_value_error(error) from error
        return self


class ExportSection(Section):
    """The content of the bundle."""

    # Against training precision on 50 validation users: iq4_nl kept 77% of the first ten (correlation 0.987).
    quant: Annotated[str, AfterValidator(GGUF.check), GGUF] = Field("q8_0", description="quantisation of the GGUF file")
    format: Literal["gguf", "onnx", "both"] = Field("gguf", description="GGUF for llama.cpp, ONNX for ONNX Runtime")
    # int8: see export/onnx_weights.py for what each costs.
    onnx_quant: Annotated[str, AfterValidator(ONNX.check), ONNX] = Field(
        "int8", description="quantisation of the ONNX file"
    )
    retriever: bool = Field(True, description="add the teacher as retriever.onnx: its scores beside the model's")
    merge_base: Literal["dequant", "original"] = Field(
        "dequant",
        description="weights that an adapter of nf4 or int8 is merged into: as used in training, or as pulled",
    )
    prune_vocab: bool = Field(True, description="leave out text tokens that catalogue and prompts do not need")
    score_correlation: float = Field(0.98, gt=0, le=1, description="gate: against training precision")


class Recipe(Section):
    """A whole run, from interactions to a bundle."""

    name: str = Field(min_length=1, pattern=NAME)
    data: DataSection = DataSection()
    model: ModelSection = ModelSection()
    teacher: TeacherSection = TeacherSection()
    distill: DistillSection = DistillSection()
    finetune: FinetuneSection = FinetuneSection()
    export: ExportSection = ExportSection()
    update: UpdateSection = UpdateSection()
    _changes: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def changes(self) -> dict[str, Any]:
        """The keys that were set on the command line, such as ``finetune.lr``, with their typed values."""
        return {key: self.value(key) for key in self._changes}

    def value(self, key: str) -> Any:
        """The value of a key such as ``finetune.lr`` or ``teacher.settings.hidden``; None for a setting not given."""
        return value_of(self, key)

    @model_validator(mode="after")
    def _full_training_fits(self) -> "Recipe":
        full = self.finetune.adapter == "full"
        if self.model.weights == "random" and not full:
            raise ValueError("model.weights random needs training of all weights: set finetune.adapter: full")
        if full and self.model.precision in {"nf4", "int8"}:
            raise ValueError("finetune.adapter full cannot train quantised weights: set model.precision: auto")
        if full and self.distill.train_llm:
            raise ValueError("distill.train_llm needs an adapter, and finetune.adapter full has none")
        return self

    @property
    def text_features(self) -> str | None:
        """The source of the items' text features that the teacher or the model reads; None: neither does."""
        if self.model.item_text != "none":
            return self.model.item_text
        return "rows" if self.teacher.text else None

    @model_validator(mode="after")
    def _second_teacher_is_heard(self) -> "Recipe":
        if self.finetune.teacher_recipe is not None and not self.finetune.teacher_weight:
            raise ValueError("finetune.teacher_recipe is a part of the target: set finetune.teacher_weight above 0")
        if self.finetune.teacher_recipe is not None and self.finetune.teacher_inside:
            raise ValueError("finetune.teacher_inside serves the conventional teachers: leave teacher_recipe out")
        return self

    @model_validator(mode="after")
    def _teacher_is_served(self) -> "Recipe":
        if self.finetune.teacher_inside and not self.export.retriever:
            raise ValueError("finetune.teacher_inside needs the teacher in the bundle: set export.retriever: true")
        if self.finetune.teacher_inside and not self.model.ranks_catalogue:
            raise ValueError(
                "finetune.teacher_inside adds scores of the whole catalogue, and this model ranks candidates alone: "
                "take verbalizer title-mean without candidates_in_prompt, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _text_has_vectors(self) -> "Recipe":
        form = self.model
        vectors = HISTORIES[form.history].item_rows or VERBALIZERS[form.verbalizer].item_rows
        if form.item_text != "none" and not vectors and not self.teacher.text:
            raise ValueError(
                f"model.item_text is a part of items' vectors, and with history {form.history} and verbalizer "
                f"{form.verbalizer} there are none: leave it out, or set teacher.text"
            )
        return self

    @model_validator(mode="after")
    def _offsets_have_text(self) -> "Recipe":
        if self.finetune.offset_dropout and self.model.item_text == "none":
            raise ValueError("finetune.offset_dropout leaves the text alone: set model.item_text, or leave it out")
        return self

    def dump(self) -> dict[str, Any]:
        """Every key with its resolved value; ``parse`` reads it back."""
        return self.model_dump(mode="json")


def shipped_recipes() -> tuple[str, ...]:
    """Names of the recipes in the package."""
    folder = resources.files("delrec_lite.recipes")
    return tuple(sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")))


def load_recipe(name_or_path: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """A shipped recipe by name, or a YAML file by path.

    Args:
        name_or_path: The recipe.
        changes: Values that replace those of the recipe, by key: ``{"finetune.lr": 5e-4}``.

    Raises:
        ConfigError: No such recipe, not YAML, an unknown key or a value out of range; the message has file and key.
    """
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        if not path.is_file():
            raise ConfigError(f"no recipe file at {path}", "check the path")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read as text: {error}", "give a recipe's .yaml file") from error
    elif name_or_path in shipped_recipes():
        text = resources.files("delrec_lite.recipes").joinpath(f"{name_or_path}.yaml").read_text(encoding="utf-8")
    else:
        raise ConfigError(
            f"no recipe named {name_or_path!r}",
            did_you_mean(name_or_path, shipped_recipes(), ", or the path of a .yaml file"),
        )
    return parse(text, name_or_path, changes)


def _as_value_error(error: ConfigError) -> ValueError:
    """For pydantic, which adds the key to errors of this type alone."""
    return ValueError(": ".join(part for part in (error.message, error.hint) if part))


def parse(text: str, where: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Read YAML text into a recipe; ``where`` is its name in errors, ``changes`` are those of ``load_recipe``."""
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: such as a day that no month has
        raise not_yaml(where, error) from error
    if not isinstance(data, dict):
        raise ConfigError(f"{where} holds no recipe", "a recipe is a mapping with at least `name:`")
    changes = changes or {}
    for key, value in changes.items():
        set_key(data, key, value, Recipe)
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise refused(error, where, changes, Recipe) from error
    recipe._changes = dict(changes)
    return recipe
