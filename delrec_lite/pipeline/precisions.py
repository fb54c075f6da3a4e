"""Which model files an export writes: from the precisions and the format that were asked for, else the recipe's."""

from collections.abc import Sequence

from delrec_lite.config import ExportSection
from delrec_lite.errors import UsageError
from delrec_lite.export.quantise import ONNX_QUANTS, QUANTS

FORMATS = ("gguf", "onnx", "both")
AUTO = "auto"


def files_for(
    recipe: ExportSection, quants: Sequence[str] = (), formats: str | None = None, onnx_quants: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Precisions of the GGUF and of the ONNX files.

    Args:
        recipe: Gives what was not asked for.
        quants: Of either format, or ``auto``. One that both have is of the format asked for, of GGUF if none is.
        formats: One of ``FORMATS``; None: what the precisions name, and both where the recipe says so.
        onnx_quants: Of ONNX alone, or ``auto``; they add to what else is written.

    Raises:
        UsageError: An unknown precision or format, or one that does not go with the other.
    """
    if formats is not None and formats not in FORMATS:
        raise UsageError(f"no format {formats!r}", f"one of {', '.join(FORMATS)}")
    known = tuple(dict.fromkeys([*QUANTS, *ONNX_QUANTS, AUTO]))
    for asked, names, what in ((quants, known, ""), (onnx_quants, (*ONNX_QUANTS, AUTO), " for ONNX")):
        for name in asked:
            if name not in names:
                raise UsageError(f"no quantisation{what} {name!r}", f"one of {', '.join(names)}")
    gguf: list[str] = []
    onnx: list[str] = []
    for name in quants:
        of = [made for made, names in ((gguf, QUANTS), (onnx, ONNX_QUANTS)) if name in names or name == AUTO]
        if len(of) == 2 and formats != "both":
            of = [onnx if formats == "onnx" else gguf]
        for made in of:
            made.append(name)
    onnx += onnx_quants
    if formats is None:
        wanted = {"gguf", "onnx"} if recipe.format == "both" else set() if quants else {recipe.format}
        wanted |= ({"gguf"} if gguf else set()) | ({"onnx"} if onnx else set())
    else:
        wanted = {"gguf", "onnx"} if formats == "both" else {formats}
    for name, made in (("gguf", gguf), ("onnx", onnx)):
        if made and name not in wanted:
            raise UsageError(
                f"{', '.join(made)}: not a precision of {formats} files", "ask for --format both, or leave --format out"
            )
    if "gguf" in wanted and not gguf:
        gguf = [recipe.quant]
    if "onnx" in wanted and not onnx:
        onnx = [recipe.onnx_quant]
    return list(dict.fromkeys(gguf)), list(dict.fromkeys(onnx))
