"""Writes the bundle of a trained run, in any quantisation, to any folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from delrec_lite.data.prepare import side_text
from delrec_lite.errors import ConfigError, MissingPackageError
from delrec_lite.hub.registry import find_dataset
from delrec_lite.pipeline.base import check_folder
from delrec_lite.pipeline.model_builder import ModelBuilder
from delrec_lite.pipeline.stage import Stages
from delrec_lite.provenance import commit, machine, versions
from delrec_lite.runtime.engines.factory import LLAMA_CPP
from delrec_lite.version import __version__

if TYPE_CHECKING:  # what needs torch is imported where it is used
    from delrec_lite.export.pareto import QuantRow
    from delrec_lite.export.request import Exported


class ModelStages(Stages, Protocol):
    """Stages, and the models that are built from them."""

    models: ModelBuilder


def write_bundle(
    run: ModelStages,
    target: Path,
    quants: Sequence[str],
    onnx_quants: Sequence[str] = (),
    gated: bool = True,
    measured_quants: "Sequence[QuantRow]" = (),
    merge_base: str = "",
) -> "Exported":
    """Write a bundle of the trained model, in any quantisation; returns and raises the same as ``export``.

    Args:
        run: Missing stages are computed first.
        target: The bundle's folder.
        quants: Of GGUF files; the first is the bundle's default.
        onnx_quants: Of ONNX files.
        gated: Raise if the scores differ too much from the trained model's.
        measured_quants: The quantisations that were compared for the choice.
        merge_base: The weights that a quantised base's adapter is merged into; default: the recipe's.

    Raises:
        ConfigError: An ONNX file cannot hold the recipe's form of prompt.
        MissingPackageError: A GGUF file is requested, and llama-cpp-python is not installed.
    """
    check_format(run, "both" if onnx_quants and quants else "onnx" if onnx_quants else "gguf")
    from delrec_lite.export.request import ExportRequest
    from delrec_lite.export.write import export

    with run.locked():
        recipe, built = run.recipe, run.models.trained()
        settings = recipe.export
        request = ExportRequest(
            model=built.model,
            base=built.base,
            prompts=built.prompts,
            dataset=run.dataset,
            candidates=run.candidates,
            target=target,
            name=recipe.name,
            quants=quants,
            max_history=recipe.model.max_history,
            score_correlation=settings.score_correlation if gated else None,
            prune_vocab=settings.prune_vocab,
            licences={p.name: p.licence for p in run.pulled.values()},
            provenance=_provenance(run),
            onnx_quants=onnx_quants,
            merge_base=merge_base or settings.merge_base,
            teacher=run.models.teacher() if settings.retriever else None,
            teacher_inside=recipe.finetune.teacher_inside,
            measured_quants=measured_quants,
            texts=_side_texts(run),
        )
        return export(request, run.console)


def _side_texts(run: ModelStages) -> Sequence[str]:
    """Side text of each item, where a pulled data set was prepared without it; else nothing."""
    if "data" not in run.pulled or run.dataset.catalog.texts:
        return ()
    asset = find_dataset(run.recipe.data.name)
    texts = side_text(asset, run.pulled["data"].folder, asset.text_columns) if asset.text_columns else {}
    return [texts.get(item, "") for item in run.dataset.catalog.ids] if texts else ()


def _provenance(run: ModelStages) -> dict[str, Any]:
    """Origin of a bundle: versions, machine, recipe, sources and stages."""
    return {
        "delrec_lite": __version__,
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "recipe": run.recipe.dump(),
        **({"set": run.recipe.changes} if run.recipe.changes else {}),
        "precision": run.models.precisions(),
        "sources": {p.name: {"mirror": p.mirror, "sha256": p.files} for p in run.pulled.values()},
        "stages": {name: stage.result for name, stage in run.stages.items()},
    }


def check_format(run: ModelStages, formats: str) -> None:
    """Check that files of these formats can be written here, and that base and form of prompt fit into them.

    Raises:
        ConfigError: They do not fit.
        MissingPackageError: GGUF without llama-cpp-python.
    """
    if formats != "onnx" and not LLAMA_CPP.installed:
        raise MissingPackageError(f"writing GGUF needs {LLAMA_CPP.package}, which is not installed", LLAMA_CPP.install)
    check_folder(run.models.base_folder, onnx=formats != "gguf")
    if formats != "gguf" and not run.models.format().only_item_rows:
        raise ConfigError(
            "an ONNX file reads item tokens and ranks the whole catalogue; this recipe's form of prompt does not",
            "GGUF is the format for titles, letters and candidates: set export.format: gguf (--format gguf)",
        )
