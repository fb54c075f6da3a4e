"""Prune the vocabulary to what this catalogue, the prompts and any new title need."""

import copy
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from delrec_lite.errors import DelrecError
from delrec_lite.export.merge import Merged
from delrec_lite.prompts.tasks import Prompts
from delrec_lite.prompts.tokenizer import open_tokenizer
from delrec_lite.prompts.vocabulary import Vocabulary

# The tokenizer's first merges are its commonest words: kept so that a title it has never met is not spelt by letters.
COMMON = 2048


@dataclass(frozen=True)
class Pruned:
    """A smaller vocabulary.

    Attributes:
        kept: Text ids of the base model that stay, ascending; their new ids are their places here.
        tokenizer: The ``tokenizers`` file with the kept tokens alone.
        before: Text ids that the base model has.
    """

    kept: tuple[int, ...]
    tokenizer: dict[str, Any]
    before: int

    def vocabulary(self, old: Vocabulary) -> Vocabulary:
        """The extended id space with fewer text ids."""
        return replace(old, text=len(self.kept))

    def ids(self, old: Iterable[int]) -> list[int]:
        """Extended ids as they are after pruning; text ids must be kept ones."""
        place = {token: n for n, token in enumerate(self.kept)}
        return [place[i] if i < self.before else i - self.before + len(self.kept) for i in old]

    def prompts(self, old: Prompts) -> Prompts:
        """What serving reads of a compiled prompt, in the smaller vocabulary."""
        return replace(old.served(self.ids), vocabulary=self.vocabulary(old.vocabulary))

    def apply(self, merged: Merged) -> Merged:
        """The weights without the rows that went, the configuration with the new ids of its special tokens."""
        tensors = dict(merged.tensors)
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            rows = tensors[name]
            rest = range(self.before, len(rows))
            tensors[name] = rows[torch.tensor([*self.kept, *rest])]
        config = copy.deepcopy(merged.config)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if isinstance(value := getattr(config, name, None), int):
                setattr(config, name, self.ids([value])[0])
        return Merged(config, tensors)


def prune(tokenizer_json: Path, texts: Sequence[str], ids: Iterable[int], rows: int) -> Pruned:
    """Choose the tokens that stay: special ones, single bytes, the commonest, and what ``texts`` and ``ids`` use.

    A kept token keeps the merges that make it. In byte-pair encoding each token has one merge, so a text whose
    tokens are all kept is encoded as before: at every step the merge that came first still comes first.

    Args:
        tokenizer_json: The base model's ``tokenizers`` file.
        texts: Whatever must encode as before: titles, prompts.
        ids: Text ids that must stay, beside those.
        rows: Text ids that the base model has.

    Raises:
        DelrecError: Not a byte-pair encoding over bytes with one merge a token.
    """
    held = json.loads(tokenizer_json.read_text(encoding="utf-8"))
    model = held["model"]
    if model["type"] != "BPE":
        raise DelrecError(f"cannot prune a {model['type']} tokenizer", "set export.prune_vocab: false")
    vocab: dict[str, int] = model["vocab"]
    merges = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    parts = {a + b: (a, b) for a, b in merges}
    if len(parts) != len(merges):
        raise DelrecError("this tokenizer makes one token in two ways", "set export.prune_vocab: false")
    names = {i: token for token, i in vocab.items()}
    special = {token["content"] for token in held.get("added_tokens", [])}
    tokenizer = open_tokenizer(tokenizer_json)
    used = set(ids)
    for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False):
        used.update(encoding.ids)
    wanted = {names[i] for i in used if i in names} | {a + b for a, b in merges[:COMMON]}
    wanted |= {token for token in vocab if len(token) == 1 or token in special}
    stack = list(wanted)
    while stack:
        for part in parts.get(stack.pop(), ()):
            if part not in wanted:
                wanted.add(part)
                stack.append(part)
    added = {token["id"] for token in held.get("added_tokens", [])}
    kept = tuple(sorted({vocab[token] for token in wanted if token in vocab} | added))
    place = {old: new for new, old in enumerate(kept)}
    model["vocab"] = {token: place[i] for token, i in vocab.items() if i in place}
    model["merges"] = [[a, b] for a, b in merges if {a, b, a + b} <= wanted]
    for token in held.get("added_tokens", []):
        token["id"] = place[token["id"]]
    _renumber(held.get("post_processor"), place)
    return Pruned(kept, held, rows)


def _renumber(processor: Any, place: dict[int, int]) -> None:
    """The template that adds special tokens names their ids."""
    for token in ((processor or {}).get("special_tokens") or {}).values():
        token["ids"] = [place[i] for i in token["ids"]]
