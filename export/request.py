"""What an export is asked for, and what it wrote."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from delrec_lite.architectures import context_length
from delrec_lite.data.types import CandidateSets, Dataset
from delrec_lite.export.pareto import QuantRow
from delrec_lite.export.parity import Parity
from delrec_lite.llm.load import Base
from delrec_lite.llm.model import ItemLM
from delrec_lite.prompts.tasks import Prompts
from delrec_lite.teachers.contract import Teacher
from delrec_lite.teachers.ensemble import Ensemble


@dataclass(frozen=True)
class ExportRequest:
    """A bundle to write.

    Attributes:
        model: As trained; used up.
        base: Its base model.
        prompts: The compiled tasks.
        dataset: For titles and popularity, and validation users for the comparison.
        candidates: Candidate sets by split; a few of the test users' become the bundle's stored requests. A prompt
            format that ranks candidates alone is compared on those of the validation users.
        target: The bundle folder, replaced if it exists.
        name: Of the run.
        quants: Names of quantisations for GGUF, a file each; the first is the bundle's default.
        max_history: Items that the prompt holds.
        score_correlation: The gate; None lets everything pass, and the manifest says so.
        prune_vocab: Leave out text tokens that nothing here needs.
        licences: Of model and data, by name.
        provenance: Goes into the manifest.
        onnx_quants: Names of quantisations for ONNX, a file each.
        merge_base: Where the base is quantised: ``dequant`` merges onto the weights that training saw, ``original``
            onto those that were pulled.
        teacher: Written beside the model as ``retriever.onnx``.
        measured_quants: What the quantisation was chosen among; a table and a picture of them go into the README.
    """

    model: ItemLM
    base: Base
    prompts: Prompts
    dataset: Dataset
    candidates: Mapping[str, CandidateSets]
    target: Path
    name: str
    quants: Sequence[str]
    max_history: int
    score_correlation: float | None
    prune_vocab: bool
    licences: Mapping[str, str]
    provenance: Mapping[str, Any]
    onnx_quants: Sequence[str] = ()
    merge_base: str = "dequant"
    teacher: Teacher | Ensemble | None = None
    measured_quants: Sequence[QuantRow] = ()

    @property
    def tokenizer_json(self) -> Path:
        """The base model's ``tokenizers`` file."""
        return self.base.folder / "tokenizer.json"

    def within_context(self) -> "ExportRequest":
        """The same with prompts no longer than the base model reads."""
        limits = (self.prompts.format.context, context_length(self.base.model.config))
        bounds = [limit for limit in limits if limit is not None]
        prompt_format = replace(self.prompts.format, context=min(bounds, default=None))
        return replace(self, prompts=replace(self.prompts, format=prompt_format))


@dataclass(frozen=True)
class ModelFile:
    """A model file of a bundle.

    Attributes:
        format: ``gguf`` or ``onnx``.
        quant: Its quantisation.
        file: Its name.
        facts: What else the manifest says of it.
    """

    format: Literal["gguf", "onnx"]
    quant: str
    file: str
    facts: Mapping[str, Any]

    @property
    def entry(self) -> dict[str, Any]:
        """As the manifest has it."""
        return {"format": self.format, "quant": self.quant, "file": self.file, **self.facts}

    @property
    def tensor_types(self) -> dict[str, int]:
        """How many tensors have each type; of an ONNX graph, linear layers."""
        types: dict[str, int] = self.facts.get("tensor_types", self.facts.get("layer_types", {}))
        return types

    def bytes_in(self, folder: Path) -> int:
        """Its size, an ONNX graph with its weights."""
        parts = (folder / self.file, folder / f"{self.file}.data")
        return sum(part.stat().st_size for part in parts if part.is_file())

    def with_facts(self, **facts: Any) -> "ModelFile":
        """The same with more facts."""
        return replace(self, facts={**self.facts, **facts})


@dataclass(frozen=True)
class Exported:
    """What export wrote.

    Attributes:
        path: The bundle.
        bytes: Size of its default model file.
        quant: Quantisation of that.
        tensor_types: How many of its tensors have each type.
        parity: Of its scores, against the model in training precision.
        models: Every model file as the manifest has it, the default first, with its ``format`` and ``bytes``.
    """

    path: Path
    bytes: int
    quant: str
    tensor_types: dict[str, int]
    parity: Parity
    models: list[dict[str, Any]]

    @classmethod
    def of(cls, path: Path, models: Sequence[ModelFile]) -> "Exported":
        """The bundle at ``path`` with these models, each with its ``parity``."""
        first = models[0]
        sizes = [model.bytes_in(path) for model in models]
        entries = [{**model.entry, "bytes": size} for model, size in zip(models, sizes, strict=True)]
        return cls(path, sizes[0], first.quant, first.tensor_types, Parity(**first.facts["parity"]), entries)
