"""The tokenizer of a GGUF file whose vocabulary is SentencePiece's (Gemma), as a `tokenizers` file.

Such a vocabulary is byte-pair encoding without its list of merges: the pair is joined first whose whole scores highest.
``transformers`` makes a Unigram model of Gemma's: 2,642 of 2,700 titles of MovieLens-100K, with a space in front and
without, become other tokens than in llama.cpp. With this one none does.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE

SPACE = "\u2581"


def write_tokenizer(path: Path, target: Path) -> None:
    """Write ``target`` from the GGUF file at ``path``, whose ``tokenizer.ggml.model`` is ``llama``."""
    fields = gguf.GGUFReader(path).fields
    held = {name.removeprefix("tokenizer.ggml."): field for name, field in fields.items()}
    texts, scores, kinds = (held[name].contents() for name in ("tokens", "scores", "token_type"))
    vocab = {text: i for i, text in enumerate(texts)}
    normal = {text: scores[i] for text, i in vocab.items() if kinds[i] == gguf.TokenType.NORMAL}
    unknown = held["unknown_token_id"].contents() if "unknown_token_id" in held else None
    tokenizer = Tokenizer(
        BPE(
            vocab,
            merges(normal, vocab),
            unk_token=None if unknown is None else texts[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces: list[Any] = [normalizers.Replace(" ", SPACE)]
    strip: list[Any] = []
    if "add_space_prefix" not in held or held["add_space_prefix"].contents():
        spaces.insert(0, normalizers.Prepend(SPACE))
        strip.append(decoders.Strip(" ", 1, 0))
    tokenizer.normalizer = normalizers.Sequence(spaces)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    for kind, special in ((gguf.TokenType.CONTROL, True), (gguf.TokenType.USER_DEFINED, False)):
        found = (text for text, its_kind in zip(texts, kinds, strict=True) if its_kind == kind)
        added = [AddedToken(text, special=special, normalized=False) for text in found]
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(added)
    tokenizer.save(str(target))


def merges(scores: Mapping[str, float], vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    """Every pair of tokens that makes a token, in the order in which SentencePiece joins them.

    Args:
        scores: Of the tokens that take part, by text.
        vocab: Their ids, which order two ways to make the same token.
    """
    found = []
    for text, score in scores.items():
        for at in range(1, len(text)):
            left, right = text[:at], text[at:]
            if left in scores and right in scores:
                found.append((-score, vocab[text], vocab[left], vocab[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]
