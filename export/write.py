"""`export`: one bundle from a trained model, verified before it gets its name."""

import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from delrec_lite.architectures import context_length
from delrec_lite.console import Console
from delrec_lite.data.types import CandidateSets, Dataset, Floats, Ints, Split, subsample
from delrec_lite.errors import MissingPackageError, install_line
from delrec_lite.evaluation.fusion import best_weight
from delrec_lite.export.card import bundle_readme, licences_text
from delrec_lite.export.gguf_file import write_gguf
from delrec_lite.export.imatrix import measured
from delrec_lite.export.merge import Merged, merge
from delrec_lite.export.new_items import fit_new_items
from delrec_lite.export.pareto import QuantRow, write_quants
from delrec_lite.export.parity import Parity, compare, gate
from delrec_lite.export.prompt_file import write_prompt
from delrec_lite.export.prune import prune
from delrec_lite.export.quantise import quantise, types_of
from delrec_lite.export.stock import chat_template, stock_text
from delrec_lite.export.tokenizer_file import read_pairs, speller, token_names, token_text
from delrec_lite.llm.forward import read_states, score_all, window_segment
from delrec_lite.llm.items import title_vectors
from delrec_lite.llm.load import Base, load_base
from delrec_lite.llm.model import ItemLM
from delrec_lite.llm.questions import answers as answer_states
from delrec_lite.llm.questions import next_question, score_candidates
from delrec_lite.llm.verbalizer import verbalizer_of
from delrec_lite.machine import cores_allowed
from delrec_lite.prompts.tasks import TITLE_PREFIX, Prompts
from delrec_lite.prompts.tokenizer import open_tokenizer
from delrec_lite.prompts.vocabulary import Vocabulary
from delrec_lite.runtime.bundle import DEEP, NEW_ITEMS, OF_ONE_MODEL, Bundle, finish_bundle
from delrec_lite.runtime.engines.factory import open_engine
from delrec_lite.runtime.engines.hybrid import WEIGHT
from delrec_lite.runtime.golden import Golden, answers, write_golden
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.runtime.retriever import FILE as RETRIEVER
from delrec_lite.teachers.contract import Teacher
from delrec_lite.teachers.ensemble import Ensemble

PARITY_USERS = 50
GOLDEN_USERS = 64
WEIGHT_USERS = 314
# Whose states, and how many of each, decide what text tokens' rows look like: short histories count too.
STATES_USERS, STATES_LENGTH = 64, 20


@dataclass(frozen=True)
class Exported:
    """What export made.

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


def export(
    model: ItemLM,
    base: Base,
    prompts: Prompts,
    dataset: Dataset,
    candidates: Mapping[str, CandidateSets],
    target: Path,
    *,
    name: str,
    quants: Sequence[str],
    onnx_quants: Sequence[str] = (),
    max_history: int,
    score_correlation: float | None,
    prune_vocab: bool,
    merge_base: str = "dequant",
    licences: Mapping[str, str],
    provenance: Mapping[str, Any],
    console: Console,
    teacher: Teacher | Ensemble | None = None,
    measured_quants: Sequence[QuantRow] = (),
) -> Exported:
    """Merge, bake, quantise, compare with the trained model, and write the bundle ``target``.

    Args:
        model: As trained; used up.
        base: Its base model.
        prompts: The compiled tasks.
        dataset: For titles and popularity, and validation users for the comparison.
        candidates: Candidate sets by split; a few of the test users' become the bundle's stored requests. A form that
            ranks candidates alone is compared on those of the validation users.
        target: The bundle folder, replaced if it exists.
        name: Of the run.
        quants: Names of quantisations for GGUF, a file each; the first is the bundle's default.
        onnx_quants: Names of quantisations for ONNX, a file each.
        max_history: Items that the prompt holds.
        score_correlation: The gate; None lets everything pass, and the manifest says so.
        prune_vocab: Leave out text tokens that nothing here needs.
        merge_base: Where the base is quantised: ``dequant`` merges onto the weights that training saw, ``original``
            onto those that were pulled.
        licences: Of model and data, by name.
        provenance: Goes into the manifest.
        console: Shows progress.
        teacher: Written beside the model as ``retriever.onnx``.
        measured_quants: What the quantisation was chosen among; a table and a picture of them go into the README.

    Raises:
        GateError: Not equal enough to what was trained; no bundle is left.
        DelrecError: The base model's tokenizer is not byte-pair encoding.
    """
    read_pairs(base.folder / "tokenizer.json")  # refused before anything is computed
    staging = target.with_name(f".{target.name}.{os.getpid()}.part")
    for left in target.parent.glob(f".{target.name}.*.part*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    staging.mkdir(parents=True)
    prompts = _bounded(prompts, base)
    chooses = not prompts.format.ranks_catalogue
    try:
        with console.progress("export", 6) as tick:
            valid = dataset.valid()
            users = subsample(len(valid), PARITY_USERS)
            asked = valid.take(users).histories
            sets = candidates["valid"].take(users).items if chooses else None
            if sets is None:
                trained = score_all(model, prompts, asked, max_history)
            else:
                trained = score_candidates(model, prompts, asked, sets, max_history)
            tick(1, "merge")
            scale = model.log_scale.exp().item()
            plain = load_base(base.name, base.folder, "fp32").model if merge_base == "original" else None
            with measured(model.lm) as importance:
                if sets is None:
                    states = some_states(model, prompts, dataset)
                    _write_new_items(model, prompts, base, dataset, states, staging)
                else:
                    states = some_answers(model, prompts, asked, sets, max_history)
            merged = merge(model, states, prompts, plain)
            soft_words = nearest_words(model, base.folder / "tokenizer.json")
            tick(1, "write")
            f16, tokenizer = staging / "model-f16.gguf", staging / "tokenizer.json"
            served = prompts.served()
            if prune_vocab and not prompts.format.verbalizer_kind.all_text:
                titles = [before + title for title in dataset.catalog.titles for before in ("", TITLE_PREFIX)]
                text_ids = [i for i in served.used() if i < served.vocabulary.text]
                known = [*titles, *prompts.text.values()]
                pruned = prune(base.folder / "tokenizer.json", known, text_ids, served.vocabulary.text)
                merged, served = pruned.apply(merged), pruned.prompts(served)
                _write_json(tokenizer, pruned.tokenizer)
            else:
                shutil.copyfile(base.folder / "tokenizer.json", tokenizer)
            vocabulary, prefix = served.vocabulary, list(served.next_prefix)
            held = vocabulary if served.format.item_tokens else replace(vocabulary, items=0)
            bos = token_text(tokenizer, merged.config.bos_token_id) if base.bos is not None else ""
            words = stock_text(served, tokenizer, bos)
            # In a history of titles a title is its words, so no token may be matched with the whole of it.
            whole = not served.format.history_format.titles
            apart = (words["stock"], None) if whole else ("", speller(tokenizer))
            texts = token_texts(dataset.catalog.titles, dataset.catalog.ids, token_names(tokenizer), *apart)
            if quants:
                write_gguf(
                    merged,
                    held,
                    texts[: held.items],
                    tokenizer,
                    base.name,
                    name,
                    licences.get(base.name, ""),
                    chat_template(words),
                    f16,
                    whole,
                )
            deep = model.soft_prompt().get("deep")
            vectors = None if deep is None else deep.detach().float().cpu().numpy()
            onnx = _write_onnx(merged, vocabulary, prefix, max_history, staging, onnx_quants, teacher, vectors)
            architecture, hidden = merged.config.model_type, merged.config.hidden_size
            del merged
            tick(1, "quantise")
            models = [*_quantised(f16, quants, importance, console), *onnx]
            first, quant = models[0], models[0]["quant"]
            tick(1, "catalogue")
            _write_json(
                staging / "catalog.json",
                {
                    "ids": dataset.catalog.ids,
                    "titles": dataset.catalog.titles,
                    "popularity": dataset.popularity().tolist(),
                },
            )
            if vectors is not None:
                np.save(staging / DEEP, vectors.astype(np.float16), allow_pickle=False)
            write_prompt(staging, served, words, max_history, model.input_norm, scale)
            tick(1, "compare")
            described = {
                "base": base.name,
                "architecture": architecture,
                "hidden": hidden,
                "text_tokens": {"kept": vocabulary.text, "of": prompts.vocabulary.text},
                "soft_words": soft_words,
                **({} if vectors is None else {"soft_layers": "all"}),
            }
            (staging / "LICENCES.md").write_text(licences_text(licences), encoding="utf-8")
            trial = staging.with_name(staging.name + ".trial")
            finish_bundle(
                staging,
                trial,
                name=name,
                model=described | _listed(models),
                provenance={},
                licences=dict(licences),
                gated=False,
            )
            staging = trial
            stored = golden(dataset, candidates["test"], max_history)
            told = []
            written = Bundle.open(trial, whole=True)
            for one in models:  # opened one after another
                chosen = written.choose(one["quant"], one["format"])
                with Recommender(chosen, open_engine(chosen)) as recommender:
                    if one is first and teacher is not None and sets is None:
                        described[WEIGHT] = _teacher_weight(recommender, teacher, valid)
                    exported = recommender.scores(asked) if sets is None else recommender.score_candidates(asked, sets)
                    parity = compare(trained, exported)
                    gate(parity, score_correlation, one["quant"])
                    told.append(answers(recommender, stored))
                one["parity"] = parity.dump()
            write_golden(trial, stored, told[0], {one["file"]: t for one, t in zip(models[1:], told[1:], strict=True)})
            described |= _listed(models)
            popular = [texts[i] for i in np.argsort(-dataset.popularity())[:2]]
            card = bundle_readme(name, described, licences, popular, provenance, first["parity"], words, served.format)
            if measured_quants:
                card += write_quants(trial, measured_quants, quant, console)
            (trial / "README.md").write_text(card, encoding="utf-8")
            finish_bundle(
                trial,
                target,
                name=name,
                model=described,
                provenance={**provenance, "parity": first["parity"]},
                licences=dict(licences),
                gated=score_correlation is not None,
            )
            tick(1)
        for one in models:
            parts = [target / part for part in (one["file"], f"{one['file']}.data")]
            one["bytes"] = sum(part.stat().st_size for part in parts if part.is_file())
        types = first.get("tensor_types", first.get("layer_types", {}))
        return Exported(target, first["bytes"], quant, types, Parity(**first["parity"]), models)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _bounded(prompts: Prompts, base: Base) -> Prompts:
    """The prompts, no longer than the base model reads."""
    bounds = [bound for bound in (prompts.format.context, context_length(base.model.config)) if bound is not None]
    return replace(prompts, format=replace(prompts.format, context=min(bounds, default=None)))


def _teacher_weight(recommender: Recommender, teacher: Teacher | Ensemble, valid: Split) -> float:
    """What the teacher's opinion is worth beside the exported model's, on some validation users."""
    some = valid.take(subsample(len(valid), WEIGHT_USERS))
    return best_weight(recommender.scores(some.histories), teacher.scores(some.histories), some.targets)


def _write_new_items(model: ItemLM, prompts: Prompts, base: Base, dataset: Dataset, states: Any, staging: Path) -> None:
    rows = model.body.embed_tokens.weight[: model.vocabulary.text]
    titles = title_vectors(rows, dataset.catalog.titles, base.encode)
    fitted = fit_new_items(titles.cpu(), verbalizer_of(prompts).item_rows(model).cpu(), states.cpu())
    np.save(staging / NEW_ITEMS, fitted.numpy().astype(np.float16), allow_pickle=False)


def _quantised(f16: Path, quants: Sequence[str], importance: Any, console: Console) -> list[dict[str, Any]]:
    """A GGUF file for each quantisation beside ``f16``, which goes unless it is asked for; the manifest's entries."""
    entries = []
    for quant in dict.fromkeys(quants):
        path = f16.with_name(f"model-{quant}.gguf")
        types = types_of(f16) if path == f16 else quantise(f16, path, quant, cores_allowed(), importance)
        if line := types.told(quant):
            console.say(f"  {line}")
        entry = {"format": "gguf", "quant": quant, "file": path.name, "tensor_types": types.counts}
        entries.append({**entry, "tensors": types.tensors, **({"unfit": types.unfit} if types.unfit else {})})
    if "f16" not in quants:
        f16.unlink(missing_ok=True)
    return entries


def _listed(models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The models as the manifest's ``model`` has them, so that who knows of one alone opens the first."""
    first, *others = models
    onnx = next((one for one in models if one["format"] == "onnx"), None)
    return {
        **{key: value for key, value in first.items() if key in OF_ONE_MODEL},
        "tensor_types": first.get("tensor_types", first.get("layer_types")),
        **({"onnx": onnx} if onnx else {}),
        **({"others": rest} if (rest := [one for one in others if one is not onnx]) else {}),
    }


def _write_onnx(
    merged: Merged,
    vocabulary: Vocabulary,
    prefix: Sequence[int],
    max_history: int,
    staging: Path,
    quants: Sequence[str],
    teacher: Teacher | Ensemble | None,
    deep: Floats | None,
) -> list[dict[str, Any]]:
    """The ONNX files that were asked for; the manifest's entries of the models."""
    if not quants and teacher is None:
        return []
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            f"writing ONNX needs {error.name}, which is not installed", install_line(error.name)
        ) from error
    if teacher is not None:
        from delrec_lite.export.retriever import write_retriever

        write_retriever(teacher, staging / RETRIEVER)
    if not quants:
        return []
    from delrec_lite.export.onnx_file import write_onnx

    shared = (merged, vocabulary, prefix, max_history)
    return [
        {"format": "onnx", **write_onnx(*shared, staging, quant, cores_allowed(), deep)}
        for quant in dict.fromkeys(quants)
    ]


def some_states(model: ItemLM, prompts: Prompts, dataset: Dataset) -> Any:
    """Hidden states after every item of some training histories: float32 ``[n, hidden]``."""
    sequences = dataset.train()
    some = [sequences[n][:STATES_LENGTH] for n in subsample(len(sequences), STATES_USERS) if len(sequences[n])]
    parts = [some[at : at + 16] for at in range(0, len(some), 16)]
    with torch.no_grad():
        return torch.cat(
            [read_states(model, prompts.next_prefix, [window_segment(prompts, s) for s in part]) for part in parts]
        )


def some_answers(model: ItemLM, prompts: Prompts, histories: Sequence[Ints], candidates: Ints, max_history: int) -> Any:
    """Hidden states where some questions about candidates are answered: float32 ``[histories, hidden]``."""
    asked = [next_question(prompts, h, c, max_history) for h, c in zip(histories, candidates, strict=True)]
    with torch.no_grad():
        return torch.cat(
            [answer_states(model, prompts.next_prefix, asked[at : at + 16]) for at in range(0, len(asked), 16)]
        )


def nearest_words(model: ItemLM, tokenizer_json: Path, k: int = 3) -> list[list[str]]:
    """For each vector of the soft prompt the ``k`` text tokens whose rows have the greatest cosine with it."""
    rows = model.body.embed_tokens.weight[: model.vocabulary.text].float()
    cosine = functional.normalize(model.soft.detach().float()) @ functional.normalize(rows).T
    tokenizer = open_tokenizer(tokenizer_json)
    return [[tokenizer.decode([token]) for token in one] for one in cosine.topk(k).indices.tolist()]


def token_texts(
    titles: Sequence[str],
    ids: Sequence[str],
    taken: Collection[str] = (),
    prompt: str = "",
    spelt: Callable[[str], str] | None = None,
) -> list[str]:
    """A distinct token text for every item; none can be taken for a control token.

    Two equal texts in a vocabulary end the process that loads it, so a title that is a word of the base model
    (MovieLens-100K lists a film called ``unknown``) carries its id; so does one that stands in the prompt's own
    words, which it would cut in two.

    Args:
        titles: The catalogue's.
        ids: Its items' ids.
        taken: The vocabulary's other tokens.
        prompt: Words that no title may cut.
        spelt: How the vocabulary writes a text; None: as it is.
    """
    seen = set(taken)
    texts = []
    for title, item_id in zip(titles, ids, strict=True):
        text = title.replace("<|", "< |") or item_id
        if (spelt(text) if spelt else text) in seen or text in prompt:
            text = f"{text} [{item_id}]"
        seen.add(spelt(text) if spelt else text)
        texts.append(text)
    return texts


def golden(dataset: Dataset, candidates: CandidateSets, max_history: int) -> Golden:
    """Requests of test users: what `verify` asks, and `bench` where no data set is at hand."""
    test = dataset.test()
    users = subsample(len(test), GOLDEN_USERS)
    some = test.take(users)
    histories = tuple(history[-max_history:] for history in some.histories)
    return Golden(histories, some.targets, candidates.take(users).items)


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
