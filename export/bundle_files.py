"""The files of a bundle other than models: catalogue, prompt, licences, stored requests, model card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.console import Console
from delrec_lite.data.columns import dump_columns
from delrec_lite.data.types import CandidateSets, Dataset, evenly
from delrec_lite.evaluation.setting import Setting
from delrec_lite.export.card import bundle_readme, licences_text
from delrec_lite.export.modelfile import FILE as MODELFILE
from delrec_lite.export.modelfile import modelfile
from delrec_lite.export.pareto import write_quants
from delrec_lite.export.prompt_file import write_prompt
from delrec_lite.export.request import ExportRequest
from delrec_lite.export.texts import Texts
from delrec_lite.export.weights import ServedModel
from delrec_lite.runtime.golden import Golden
from delrec_lite.runtime.manifest import DEEP, ITEM_COLUMNS

GOLDEN_USERS = 64


def write_catalogue_and_prompt(request: ExportRequest, served: ServedModel, texts: Texts, staging: Path) -> None:
    """Write ``catalog.json``, its item columns, ``prompt.json`` with its arrays, and ``LICENCES.md``."""
    catalog = {
        "ids": request.dataset.catalog.ids,
        "titles": request.dataset.catalog.titles,
        "popularity": request.dataset.popularity().tolist(),
    }
    (staging / "catalog.json").write_text(json.dumps(catalog, ensure_ascii=False), encoding="utf-8")
    if columns := request.dataset.catalog.columns:
        (staging / ITEM_COLUMNS).write_text(json.dumps(dump_columns(columns), ensure_ascii=False), encoding="utf-8")
    if served.deep is not None:
        np.save(staging / DEEP, served.deep.astype(np.float16), allow_pickle=False)
    write_prompt(staging, served.prompts, texts.prompt, request.max_history, served.input_norm, served.scale)
    (staging / "LICENCES.md").write_text(licences_text(request.licences), encoding="utf-8")


def golden(dataset: Dataset, candidates: CandidateSets, max_history: int) -> Golden:
    """At most ``GOLDEN_USERS`` questions of the test split, for `verify` and `bench`."""
    test = dataset.test()
    users = evenly(len(test), GOLDEN_USERS)
    sample = test.take(users)
    histories = tuple(history[-max_history:] for history in sample.histories)
    return Golden(histories, sample.targets, candidates.take(users).items)


def write_card(
    request: ExportRequest,
    served: ServedModel,
    texts: Texts,
    model: Mapping[str, Any],
    folder: Path,
    console: Console,
) -> None:
    """Write ``README.md``, the picture of the measured quantisations, and ``Modelfile`` where Ollama can rank."""
    context = _longest_prompt(request, served)
    ollama = modelfile(model, texts.prompt, served.prompts.format, context)
    if ollama is not None:
        (folder / MODELFILE).write_text(ollama, encoding="utf-8")
    popular = [texts.items[i] for i in np.argsort(-request.dataset.popularity())[:2]]
    card = bundle_readme(
        request.name,
        model,
        request.licences,
        popular,
        request.provenance,
        model["parity"],
        texts.prompt,
        served.prompts.format,
        context,
    )
    if request.measured_quants:
        setting = Setting.of(request.dataset, request.candidates["test"])
        card += write_quants(folder, request.measured_quants, model["quant"], setting, console)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _longest_prompt(request: ExportRequest, served: ServedModel) -> int:
    """Most tokens of a prompt without listed candidates, and of the answer; at least 256."""
    prompts = served.prompts
    longest = max(len(prompts.items([item])) for item in range(len(request.dataset.catalog)))
    tokens = len(prompts.next_prefix) + request.max_history * longest + 1
    return max(256, min(tokens, prompts.format.context or tokens))
