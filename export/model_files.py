"""The model files of a bundle: GGUF in F16 and in every quantisation, ONNX, and the teacher."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from delrec_lite.console import Console
from delrec_lite.errors import MissingPackageError, install_line
from delrec_lite.export.gguf_file import write_gguf
from delrec_lite.export.merge import Merged
from delrec_lite.export.quantise import quantise, types_of
from delrec_lite.export.request import ExportRequest, ModelFile
from delrec_lite.export.stock import chat_template
from delrec_lite.export.texts import Texts
from delrec_lite.export.weights import ServedModel
from delrec_lite.machine import cores_allowed
from delrec_lite.runtime.manifest import INSIDE, OF_ONE_MODEL, REPEATS
from delrec_lite.runtime.retriever import FILE as RETRIEVER

F16 = "model-f16.gguf"


def write_models(
    request: ExportRequest, merged: Merged, served: ServedModel, texts: Texts, staging: Path
) -> list[ModelFile]:
    """Write the F16 GGUF file if the request has GGUF quantisations, all ONNX files and the teacher.

    Returns:
        The ONNX files; ``quantise_gguf`` returns the GGUF files.

    Raises:
        MissingPackageError: ONNX is requested, and its packages are not installed.
    """
    vocabulary = served.prompts.vocabulary
    if request.quants:
        written = vocabulary if served.prompts.format.item_tokens else replace(vocabulary, items=0)
        write_gguf(
            merged,
            written,
            texts.items[: written.items],
            served.tokenizer,
            request.base.name,
            request.name,
            request.licences.get(request.base.name, ""),
            chat_template(texts.prompt),
            staging / F16,
            texts.whole_titles,
        )
    if request.onnx_quants or request.teacher is not None:
        _require_onnx()
    if request.teacher is not None:
        from delrec_lite.export.retriever import write_retriever

        write_retriever(request.teacher, staging / RETRIEVER)
    return _write_onnx(request, merged, served, staging) if request.onnx_quants else []


def _write_onnx(request: ExportRequest, merged: Merged, served: ServedModel, staging: Path) -> list[ModelFile]:
    from delrec_lite.export.onnx_file import write_onnx

    prefix, threads = list(served.prompts.next_prefix), cores_allowed()
    files = []
    for quant in dict.fromkeys(request.onnx_quants):
        facts = write_onnx(
            merged, served.prompts.vocabulary, prefix, request.max_history, staging, quant, threads, served.deep
        )
        files.append(ModelFile("onnx", facts.pop("quant"), facts.pop("file"), facts))
    return files


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            f"writing ONNX needs {error.name}, which is not installed", install_line(error.name)
        ) from error


def quantise_gguf(request: ExportRequest, served: ServedModel, staging: Path, console: Console) -> list[ModelFile]:
    """Write a GGUF file for each quantisation, and delete the F16 file unless it is requested."""
    source = staging / F16
    files = []
    for quant in dict.fromkeys(request.quants):
        path = staging / f"model-{quant}.gguf"
        unchanged = path == source
        types = types_of(source) if unchanged else quantise(source, path, quant, cores_allowed(), served.importance)
        if line := types.unfit_line(quant):
            console.say(f"  {line}")
        facts = {"tensor_types": types.counts, "tensors": types.tensors}
        files.append(ModelFile("gguf", quant, path.name, {**facts, **({"unfit": types.unfit} if types.unfit else {})}))
    if "f16" not in request.quants:
        source.unlink(missing_ok=True)
    return files


def manifest_model(request: ExportRequest, served: ServedModel, models: Sequence[ModelFile]) -> dict[str, Any]:
    """The manifest's ``model``: the default file's facts, the first ONNX file as ``onnx``, the rest as ``others``."""
    first, *more = [model.entry for model in models]
    onnx = next((entry for entry in (first, *more) if entry["format"] == "onnx"), None)
    rest = [entry for entry in more if entry is not onnx]
    facts: Mapping[str, Any] = {key: value for key, value in first.items() if key in OF_ONE_MODEL}
    return {
        "base": request.base.name,
        "architecture": served.architecture,
        "hidden": served.hidden,
        "text_tokens": {"kept": served.prompts.vocabulary.text, "of": request.prompts.vocabulary.text},
        "soft_words": served.soft_words,
        REPEATS: request.dataset.repeats,
        **({} if served.new_item_boost is None else {"new_item_boost": round(served.new_item_boost, 3)}),
        **({} if served.deep is None else {"soft_layers": "all"}),
        **({INSIDE: True} if request.teacher_inside else {}),
        **facts,
        "tensor_types": models[0].tensor_types,
        **({"onnx": onnx} if onnx else {}),
        **({"others": rest} if rest else {}),
    }
