"""Prepare the weights of a bundle: merge the adapter, soft prompt and items, and prune the vocabulary."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.nn import functional

from delrec_lite.data.types import Floats
from delrec_lite.export.imatrix import measure_importance
from delrec_lite.export.merge import Merged, merge
from delrec_lite.export.new_items import fit_new_items
from delrec_lite.export.prune import prune
from delrec_lite.export.reference_scores import ReferenceScores
from delrec_lite.export.request import ExportRequest
from delrec_lite.export.states import answer_states, training_states
from delrec_lite.export.text_items import new_item_boost, text_item_maps
from delrec_lite.export.words import word_table
from delrec_lite.llm.items import title_vectors
from delrec_lite.llm.load import load_base
from delrec_lite.llm.model import ItemLM
from delrec_lite.llm.verbalizer import verbalizer_of
from delrec_lite.prompts.tasks import TITLE_PREFIX, Prompts
from delrec_lite.prompts.tokenizer import open_tokenizer
from delrec_lite.runtime.manifest import ITEM_TEXT, NEW_ITEMS

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class ServedModel:
    """The served model without its weights.

    Attributes:
        prompts: The parts of the prompts that serving reads, in the vocabulary of the bundle.
        tokenizer: The ``tokenizers`` file of the bundle.
        begin_token: Id of the token that begins every prompt, or None.
        architecture: Its name in ``transformers``.
        hidden: Width of a hidden state.
        input_norm: Length of an item's input vector.
        scale: Of the verbalizer.
        importance: Mean square of each input column by GGUF tensor name.
        soft_words: The nearest tokens of each vector of the soft prompt.
        new_item_boost: Added to a new item's score at the mean state; None without item text.
        deep: A deep prompt's vectors, float32 ``[layers - 2, k, hidden]``.
    """

    prompts: Prompts
    tokenizer: Path
    begin_token: int | None
    architecture: str
    hidden: int
    input_norm: float
    scale: float
    importance: Mapping[str, Floats]
    soft_words: list[list[str]]
    new_item_boost: float | None
    deep: Floats | None


def merge_and_prune(request: ExportRequest, reference: ReferenceScores, staging: Path) -> tuple[Merged, ServedModel]:
    """Compute the weights; writes ``tokenizer.json``, ``words.npz``, and the maps for new items.

    The maps are written if the whole catalogue is ranked.

    The model's LLM is changed: afterwards it is on the CPU in float32, without adapter.
    """
    model, prompts = request.model, request.prompts
    # Before the merge, while all parts are on the same device.
    soft_words = nearest_words(model, request.tokenizer_json)
    with measure_importance(model.lm) as importance:
        if reference.candidates is None:
            states = training_states(model, prompts, request.dataset)
        else:
            states = answer_states(model, prompts, reference.histories, reference.candidates, request.max_history)
    boost = _write_new_items(request, states, staging) if reference.candidates is None else None
    word_table(request).save(staging)
    original = request.merge_base == "original"
    base = request.base
    plain = load_base(base.name, base.folder, "fp32", layers=base.layers).model if original else None
    merged, served = _pruned(request, merge(model, states, prompts, plain), staging / TOKENIZER)
    deep = model.soft_prompt().get("deep")
    return merged, ServedModel(
        prompts=served,
        tokenizer=staging / TOKENIZER,
        begin_token=None if request.base.bos is None else merged.config.bos_token_id,
        architecture=merged.config.model_type,
        hidden=merged.config.hidden_size,
        input_norm=model.input_norm,
        scale=model.log_scale.exp().item(),
        importance=importance,
        soft_words=soft_words,
        new_item_boost=boost,
        deep=None if deep is None else deep.detach().float().cpu().numpy(),
    )


def _pruned(request: ExportRequest, merged: Merged, tokenizer: Path) -> tuple[Merged, Prompts]:
    """Weights and prompts in the vocabulary of the bundle; writes its tokenizer."""
    served = request.prompts.served()
    if not request.prune_vocab or request.prompts.format.verbalizer_kind.all_text:
        shutil.copyfile(request.tokenizer_json, tokenizer)
        return merged, served
    catalog = request.dataset.catalog
    descriptions = catalog.descriptions if request.model.text is not None else ()
    titles = [before + title for title in (*catalog.titles, *descriptions) for before in ("", TITLE_PREFIX)]
    text_ids = [i for i in served.used() if i < served.vocabulary.text]
    texts = [*titles, *request.prompts.text.values()]
    pruned = prune(request.tokenizer_json, texts, text_ids, served.vocabulary.text)
    tokenizer.write_text(json.dumps(pruned.tokenizer, ensure_ascii=False), encoding="utf-8")
    return pruned.apply(merged), pruned.prompts(served)


def _write_new_items(request: ExportRequest, states: Any, staging: Path) -> float | None:
    """Write how new items get their vectors; returns the boost of their scores, of a model with item text."""
    model = request.model
    rows = model.body.embed_tokens.weight[: model.vocabulary.text]
    titles = title_vectors(rows, request.dataset.catalog.titles, request.base.encode)
    if model.text is not None:
        boost, vector = new_item_boost(model, request.prompts, request.dataset, request.max_history)
        maps = text_item_maps(model, titles, vector).cpu().numpy()
        np.save(staging / ITEM_TEXT, maps.astype(np.float16), allow_pickle=False)
        return float(boost)
    fitted = fit_new_items(titles.cpu(), verbalizer_of(request.prompts).item_rows(model).cpu(), states.cpu())
    np.save(staging / NEW_ITEMS, fitted.numpy().astype(np.float16), allow_pickle=False)
    return None


def nearest_words(model: ItemLM, tokenizer_json: Path, k: int = 3) -> list[list[str]]:
    """For each vector of the soft prompt, the ``k`` text tokens whose rows have the highest cosine with it."""
    rows = model.body.embed_tokens.weight[: model.vocabulary.text].detach().float().cpu()
    cosine = functional.normalize(model.soft.detach().float().cpu()) @ functional.normalize(rows).T
    tokenizer = open_tokenizer(tokenizer_json)
    return [[tokenizer.decode([token]) for token in nearest] for nearest in cosine.topk(k).indices.tolist()]
