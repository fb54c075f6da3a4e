"""The request for an export, and its result."""

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
        model: As trained; cannot be used afterwards.
        base: Its base model.
        prompts: The compiled tasks.
        dataset: For titles and popularity, and validation users for the comparison.
        candidates: Candidate sets by split; some of the test users' sets become the bundle's stored requests. A prompt
            format that ranks candidates only is compared on the sets of the validation users.
        target: The bundle folder, replaced if it exists.
        name: Of the run.
        quants: Names of quantisations for GGUF, a file for each; the first is the bundle's default.
        max_history: Largest number of items in the prompt.
        score_correlation: Limit of the gate; None: no gate, which the manifest records.
        prune_vocab: Remove text tokens that the bundle does not need.
        licences: Of model and data, by name.
        provenance: For the manifest.
        onnx_quants: Names of quantisations for ONNX, a file for each.
        merge_base: For a quantised base: ``dequant`` merges onto the dequantised weights of training, ``original`` onto
            the weights as pulled.
        teacher: Written as ``retriever.onnx``.
        teacher_inside: Whether the model was trained with the teacher's log-probabilities added to its scores.
        measured_quants: The quantisations to choose from, measured; the README has a table and a picture of them.
        texts: Side text of each item, of a data set that keeps none, for words beside a history.
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
    teacher_inside: bool = False
    measured_quants: Sequence[QuantRow] = ()
    texts: Sequence[str] = ()

    @property
    def tokenizer_json(self) -> Path:
        """The base model's ``tokenizers`` file."""
        return self.base.folder / "tokenizer.json"

    def within_context(self) -> "ExportRequest":
        """The same request with prompts limited to the base model's context."""
        limits = (self.prompts.format.context, context_length(self.base.model.config))
        bounds = [limit for limit in limits if limit is not None]
        prompt_format = replace(self.prompts.format, context=min(bounds, default=None))
        return replace(self, prompts=replace(self.prompts, format=prompt_format))


@dataclass(frozen=True)
class ModelFile:
    """A model file of a bundle.

    Attributes:
        format: ``gguf`` or ``onnx``.
        quant: Name of its quantisation.
        file: File name.
        facts: Other fields of its manifest entry.
    """

    format: Literal["gguf", "onnx"]
    quant: str
    file: str
    facts: Mapping[str, Any]

    @property
    def entry(self) -> dict[str, Any]:
        """Its entry in the manifest."""
        return {"format": self.format, "quant": self.quant, "file": self.file, **self.facts}

    @property
    def tensor_types(self) -> dict[str, int]:
        """Number of tensors by type; for an ONNX graph, of linear layers."""
        types: dict[str, int] = self.facts.get("tensor_types", self.facts.get("layer_types", {}))
        return types

    def bytes_in(self, folder: Path) -> int:
        """Size in bytes; of an ONNX graph with its weights."""
        parts = (folder / self.file, folder / f"{self.file}.data")
        return sum(part.stat().st_size for part in parts if part.is_file())

    def with_facts(self, **facts: Any) -> "ModelFile":
        """The same file with more facts."""
        return replace(self, facts={**self.facts, **facts})


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Attributes:
        path: The bundle.
        bytes: Size of its default model file.
        quant: Quantisation of the default model file.
        tensor_types: Number of its tensors by type.
        parity: Of its scores, compared with the model in training precision.
        models: The manifest entry of every model file, the default first, with its ``format`` and ``bytes``.
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
