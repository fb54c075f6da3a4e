"""The model files that an export writes: by the given quantisations and format, or by the recipe."""

from collections.abc import Sequence

from delrec_lite.config import ExportSection
from delrec_lite.console import Console
from delrec_lite.errors import UsageError, did_you_mean
from delrec_lite.quantisations import AUTO, FORMATS, ONNX, formats_of, quantisation_names
from delrec_lite.runtime.engines.factory import LLAMA_CPP

BOTH = "both"


def without_llama_cpp(recipe: ExportSection, console: Console) -> ExportSection:
    """A recipe's settings; ONNX instead of GGUF if llama-cpp-python, which has to be compiled, is not installed."""
    if recipe.format == "onnx" or LLAMA_CPP.installed:
        return recipe
    console.say(
        f"  export: {LLAMA_CPP.package} is not installed, so the bundle is ONNX {recipe.onnx_quant} instead of GGUF "
        f"{recipe.quant}; for GGUF: {LLAMA_CPP.install}"
    )
    return recipe.model_copy(update={"format": "onnx"})


def files_for(
    recipe: ExportSection, quants: Sequence[str] = (), formats: str | None = None, onnx_quants: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Quantisations of the GGUF and of the ONNX files.

    Args:
        recipe: Its values are the defaults.
        quants: Of either format, or ``auto``. A name of both formats is for ``formats``; without it, for GGUF.
        formats: ``gguf``, ``onnx`` or ``both``; None: the formats of the names, and both if the recipe says so.
        onnx_quants: Of ONNX alone, or ``auto``; in addition to ``quants``.

    Raises:
        UsageError: An unknown quantisation or format, or a quantisation of another format.
    """
    if formats is not None and formats not in {*FORMATS, BOTH}:
        raise UsageError(f"no format {formats!r}", did_you_mean(formats, [*FORMATS, BOTH]))
    for names, known_names, what in ((quants, quantisation_names(), ""), (onnx_quants, ONNX.names(), " for ONNX")):
        for name in names:
            if name not in {*known_names, AUTO}:
                raise UsageError(f"no quantisation{what} {name!r}", did_you_mean(name, [*known_names, AUTO]))
    files: dict[str, list[str]] = {"gguf": [], "onnx": list(onnx_quants)}
    for name in quants:
        kinds = tuple(FORMATS) if name == AUTO else formats_of(name)
        if len(kinds) == 2 and formats != BOTH:
            kinds = (formats or kinds[0],)
        for kind in kinds:
            files[kind].append(name)
    if formats is None:
        chosen_formats = {*FORMATS} if recipe.format == BOTH else set() if quants else {recipe.format}
        chosen_formats |= {kind for kind, names in files.items() if names}
    else:
        chosen_formats = {*FORMATS} if formats == BOTH else {formats}
    for kind, names in files.items():
        if names and kind not in chosen_formats:
            raise UsageError(
                f"{', '.join(names)}: not a quantisation of {formats} files",
                "ask for --format both, or leave --format out",
            )
    for kind, default in (("gguf", recipe.quant), ("onnx", recipe.onnx_quant)):
        if kind in chosen_formats and not files[kind]:
            files[kind] = [default]
    return list(dict.fromkeys(files["gguf"])), list(dict.fromkeys(files["onnx"]))
