"""Which model files an export writes: by the quantisations and the format that were asked for, else the recipe's."""

from collections.abc import Sequence

from delrec_lite.config import ExportSection
from delrec_lite.errors import UsageError
from delrec_lite.quantisations import AUTO, FORMATS, ONNX, formats_of, quantisation_names

BOTH = "both"


def files_for(
    recipe: ExportSection, quants: Sequence[str] = (), formats: str | None = None, onnx_quants: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Quantisations of the GGUF and of the ONNX files.

    Args:
        recipe: Gives what was not asked for.
        quants: Of either format, or ``auto``. One that both have is of the format asked for, of GGUF if none is.
        formats: ``gguf``, ``onnx`` or ``both``; None: those of the names, and both where the recipe says so.
        onnx_quants: Of ONNX alone, or ``auto``; they add to what else is written.

    Raises:
        UsageError: An unknown quantisation or format, or one that does not go with the other.
    """
    if formats is not None and formats not in {*FORMATS, BOTH}:
        raise UsageError(f"no format {formats!r}", f"one of {', '.join([*FORMATS, BOTH])}")
    for given, known, what in ((quants, quantisation_names(), ""), (onnx_quants, ONNX.names(), " for ONNX")):
        for name in given:
            if name not in {*known, AUTO}:
                raise UsageError(f"no quantisation{what} {name!r}", f"one of {', '.join([*known, AUTO])}")
    files: dict[str, list[str]] = {"gguf": [], "onnx": list(onnx_quants)}
    for name in quants:
        kinds = tuple(FORMATS) if name == AUTO else formats_of(name)
        if len(kinds) == 2 and formats != BOTH:
            kinds = (formats or kinds[0],)
        for kind in kinds:
            files[kind].append(name)
    if formats is None:
        wanted = {*FORMATS} if recipe.format == BOTH else set() if quants else {recipe.format}
        wanted |= {kind for kind, names in files.items() if names}
    else:
        wanted = {*FORMATS} if formats == BOTH else {formats}
    for kind, names in files.items():
        if names and kind not in wanted:
            raise UsageError(
                f"{', '.join(names)}: not a quantisation of {formats} files",
                "ask for --format both, or leave --format out",
            )
    for kind, default in (("gguf", recipe.quant), ("onnx", recipe.onnx_quant)):
        if kind in wanted and not files[kind]:
            files[kind] = [default]
    return list(dict.fromkeys(files["gguf"])), list(dict.fromkeys(files["onnx"]))
