"""`export`: write a bundle of a trained model, and verify it before it gets its final name."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delrec_lite.console import Console
from delrec_lite.data.types import subsample
from delrec_lite.export.bundle_files import write_card, write_catalogue_and_prompt
from delrec_lite.export.item_index import FITTED, MEASURED, build_index, needs_index
from delrec_lite.export.model_files import manifest_model, quantise_gguf, write_models
from delrec_lite.export.reference_scores import score_reference
from delrec_lite.export.request import Exported, ExportRequest
from delrec_lite.export.texts import Texts, texts_of
from delrec_lite.export.tokenizer_file import read_pairs
from delrec_lite.export.trial import Checked, check_models, open_trial
from delrec_lite.export.weights import ServedModel, merge_and_prune
from delrec_lite.files import writing
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.finish import finish_bundle
from delrec_lite.runtime.manifest import bundle_files


def export(request: ExportRequest, console: Console) -> Exported:
    """Merge, quantise, compare with the trained model, and write the bundle ``request.target``.

    Args:
        request: What to write; its model cannot be used afterwards.
        console: Shows progress.

    Raises:
        GateError: Scores differ too much from the trained model's; no bundle is written, an older one stays.
        DelrecError: The base model's tokenizer is not byte-pair encoding.
        MissingPackageError: ONNX is requested, and its packages are not installed.
        StorageError: ``request.target`` is neither absent nor a bundle; it is unchanged.
    """
    read_pairs(request.tokenizer_json)  # raises before anything is computed
    request = request.within_context()
    with _staged(request.target, console) as folders, console.progress("export", 6) as tick:
        reference = score_reference(request)
        tick(1, "merge")
        merged, served = merge_and_prune(request, reference, folders.staging)
        tick(1, "write")
        texts = texts_of(served, request.dataset.catalog)
        onnx = write_models(request, merged, served, texts, folders.staging)
        del merged  # frees its memory for the quantiser
        tick(1, "quantise")
        models = [*quantise_gguf(request, served, folders.staging, console), *onnx]
        tick(1, "catalogue")
        write_catalogue_and_prompt(request, served, texts, folders.staging)
        tick(1, "compare")
        open_trial(request, served, models, folders.staging, folders.trial)
        checked = check_models(request, reference, models, folders.trial)
        _finish(request, served, texts, checked, folders.trial, console)
        tick(1)
    return Exported.of(request.target, checked.models)


def _finish(
    request: ExportRequest, served: ServedModel, texts: Texts, checked: Checked, trial: Path, console: Console
) -> None:
    """Write the model card, and give the bundle its final name."""
    model = manifest_model(request, served, checked.models) | checked.shared | _index(request, trial, console)
    write_card(request, served, texts, model, trial, console)
    finish_bundle(
        trial,
        request.target,
        name=request.name,
        model=model,
        provenance={**request.provenance, "parity": model["parity"]},
        licences=dict(request.licences),
        gated=request.score_correlation is not None,
    )


def _index(request: ExportRequest, trial: Path, console: Console) -> dict[str, Any]:
    """Write the item index where the catalogue is large; what the manifest's ``model`` says of it."""
    bundle = Bundle.open(trial, verify=False)
    if not needs_index(bundle):
        return {}
    valid = request.dataset.valid()
    users = subsample(len(valid), FITTED + MEASURED)
    facts = build_index(bundle, [history[-request.max_history :] for history in valid.take(users).histories], trial)
    if not facts:
        console.say(f"  {request.target}: no item index finds enough of the best items, so every item is scored")
    return facts


@dataclass(frozen=True)
class _Folders:
    """In the target's folder: where files are written, and the bundle that the gate opens."""

    staging: Path
    trial: Path


@contextmanager
def _staged(target: Path, console: Console) -> Iterator[_Folders]:
    """Temporary folders, always removed at the end."""

    def busy() -> None:
        console.say(f"  {target}: another process is writing it; waiting")

    with writing(target, "bundle", bundle_files, busy) as (_, staging):
        folders = _Folders(staging, staging.with_name(staging.name + ".trial"))
        staging.mkdir()
        try:
            yield folders
        finally:
            shutil.rmtree(folders.trial, ignore_errors=True)
