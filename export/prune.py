"""Prune the vocabulary to the tokens that the catalogue, the prompts and new titles need."""

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

# The first merges make the most common words: kept so that new titles are not split into single characters.
COMMON = 2048
# Gemma has 19,000 tokens of one character and 6,242 unused ones. Characters from here on are written as bytes.
LATIN = "\u0250"
_SPARE = re.compile(r"<unused\d+>")


@dataclass(frozen=True)
class Pruned:
    """A smaller vocabulary.

    Attributes:
        kept: Text ids of the base model that stay, ascending; their new ids are their positions here.
        tokenizer: Content of the ``tokenizers`` file with only the kept tokens.
        before: Number of text ids of the base model.
    """

    kept: tuple[int, ...]
    tokenizer: dict[str, Any]
    before: int

    def vocabulary(self, old: Vocabulary) -> Vocabulary:
        """The extended id space with fewer text ids."""
        return replace(old, text=len(self.kept))

    def ids(self, old: Iterable[int]) -> list[int]:
        """Map extended ids to ids after pruning; every text id must be in ``kept``."""
        new_ids = {token: n for n, token in enumerate(self.kept)}
        return [new_ids[i] if i < self.before else i - self.before + len(self.kept) for i in old]

    def prompts(self, old: Prompts) -> Prompts:
        """What serving reads of a compiled prompt, in the smaller vocabulary."""
        return replace(old.served(self.ids), vocabulary=self.vocabulary(old.vocabulary))

    def apply(self, merged: Merged) -> Merged:
        """The weights without the removed rows, and the configuration with the new ids of its special tokens."""
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
    """Choose the tokens that stay: special ones, single bytes, the most common, and those of ``texts`` and ``ids``.

    With a token, all tokens that it is merged from stay too, and so do all merges among kept tokens. So a text whose
    tokens are all kept is encoded as before: every merge of its encoding still exists, and there are no new merges.

    Args:
        tokenizer_json: The base model's ``tokenizers`` file.
        texts: Texts that must encode as before: titles, prompts.
        ids: Other text ids that must stay.
        rows: Number of text ids of the base model.

    Raises:
        DelrecError: Not byte-pair encoding.
    """
    content = read_pairs(tokenizer_json)
    model = content["model"]
    vocab: dict[str, int] = model["vocab"]
    merges = merges_of(content)
    rank = {pair: n for n, pair in enumerate(merges)}
    names = {i: token for token, i in vocab.items()}
    content["added_tokens"] = [t for t in content.get("added_tokens", []) if not _SPARE.fullmatch(t["content"])]
    special = {token["content"] for token in content["added_tokens"]}
    tokenizer = open_tokenizer(tokenizer_json)
    used = set(ids)
    for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False):
        used.update(encoding.ids)
    common = list(dict.fromkeys(a + b for a, b in merges))[:COMMON]
    needed = special | _characters(content)
    for token in {*(names[i] for i in used if i in names), *common} - needed:
        needed |= _merged_from(token, rank)
    added = {token["id"] for token in content["added_tokens"]}
    kept = tuple(sorted({vocab[token] for token in needed if token in vocab} | added))
    new_ids = {old: new for new, old in enumerate(kept)}
    model["vocab"] = {token: new_ids[i] for token, i in vocab.items() if i in new_ids}
    model["merges"] = [[a, b] for a, b in merges if {a, b, a + b} <= needed]
    for token in content["added_tokens"]:
        token["id"] = new_ids[token["id"]]
    _renumber(content.get("post_processor"), new_ids)
    return Pruned(kept, content, rows)


def _characters(content: Any) -> set[str]:
    """Tokens that can encode any text: bytes; where those have names (``<0x0A>``), Latin letters too."""
    if in_pieces(content):
        return {token for token in content["model"]["vocab"] if is_byte(token) or (len(token) == 1 and token < LATIN)}
    return {token for token in content["model"]["vocab"] if len(token) == 1}


def _merged_from(token: str, rank: Mapping[tuple[str, str], int]) -> set[str]:
    """The token, its characters, and every intermediate token while byte-pair encoding merges them."""
    parts, tokens = list(token), {token, *token}
    while len(parts) > 1:
        pairs = [(rank.get(pair, len(rank)), at) for at, pair in enumerate(zip(parts, parts[1:], strict=False))]
        first, at = min(pairs)
        if first == len(rank):
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        tokens.add(parts[at])
    return tokens


def _renumber(processor: Any, new_ids: dict[int, int]) -> None:
    """Set the new ids in the template that adds special tokens."""
    for token in ((processor or {}).get("special_tokens") or {}).values():
        token["ids"] = [new_ids[i] for i in token["ids"]]
