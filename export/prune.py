"""Prune the vocabulary to what this catalogue, the prompts and any new title need."""

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from delrec_lite.export.merge import Merged
from delrec_lite.export.tokenizer_file import in_pieces, is_byte, merges_of, read_pairs
from delrec_lite.prompts.tasks import Prompts
from delrec_lite.prompts.tokenizer import open_tokenizer
from delrec_lite.prompts.vocabulary import Vocabulary

# The tokenizer's first merges are its commonest words: kept so that a title it has never met is not spelt by letters.
COMMON = 2048
# Gemma has 19,000 tokens of one character and 6,242 for nothing: characters from here on can be spelt as bytes.
LATIN = "\u0250"
_SPARE = re.compile(r"<unused\d+>")


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

    A kept token brings along the tokens that it is joined from, step by step, and all merges among kept tokens stay.
    So a text whose tokens are all kept is encoded as before: at every step the pair that was joined can still be
    joined, and of those that come before it none is new.

    Args:
        tokenizer_json: The base model's ``tokenizers`` file.
        texts: Whatever must encode as before: titles, prompts.
        ids: Text ids that must stay, beside those.
        rows: Text ids that the base model has.

    Raises:
        DelrecError: Not byte-pair encoding.
    """
    held = read_pairs(tokenizer_json)
    model = held["model"]
    vocab: dict[str, int] = model["vocab"]
    merges = merges_of(held)
    rank = {pair: n for n, pair in enumerate(merges)}
    names = {i: token for token, i in vocab.items()}
    held["added_tokens"] = [t for t in held.get("added_tokens", []) if not _SPARE.fullmatch(t["content"])]
    special = {token["content"] for token in held["added_tokens"]}
    tokenizer = open_tokenizer(tokenizer_json)
    used = set(ids)
    for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False):
        used.update(encoding.ids)
    common = list(dict.fromkeys(a + b for a, b in merges))[:COMMON]
    wanted = special | _letters(held)
    for token in {*(names[i] for i in used if i in names), *common} - wanted:
        wanted |= _joined(token, rank)
    added = {token["id"] for token in held["added_tokens"]}
    kept = tuple(sorted({vocab[token] for token in wanted if token in vocab} | added))
    place = {old: new for new, old in enumerate(kept)}
    model["vocab"] = {token: place[i] for token, i in vocab.items() if i in place}
    model["merges"] = [[a, b] for a, b in merges if {a, b, a + b} <= wanted]
    for token in held["added_tokens"]:
        token["id"] = place[token["id"]]
    _renumber(held.get("post_processor"), place)
    return Pruned(kept, held, rows)


def _letters(held: Any) -> set[str]:
    """What any text is spelt with in the last resort: bytes; where those have names (``<0x0A>``), Latin letters too."""
    if in_pieces(held):
        return {token for token in held["model"]["vocab"] if is_byte(token) or (len(token) == 1 and token < LATIN)}
    return {token for token in held["model"]["vocab"] if len(token) == 1}


def _joined(token: str, rank: Mapping[tuple[str, str], int]) -> set[str]:
    """The token, and all that stand for parts of it while byte-pair encoding joins its characters, in their order."""
    parts, met = list(token), {token, *token}
    while len(parts) > 1:
        pairs = [(rank.get(pair, len(rank)), at) for at, pair in enumerate(zip(parts, parts[1:], strict=False))]
        first, at = min(pairs)
        if first == len(rank):
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        met.add(parts[at])
    return met


def _renumber(processor: Any, place: dict[int, int]) -> None:
    """The template that adds special tokens names their ids."""
    for token in ((processor or {}).get("special_tokens") or {}).values():
        token["ids"] = [place[i] for i in token["ids"]]
