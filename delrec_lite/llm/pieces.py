"""The tokenizer of a GGUF file whose vocabulary is SentencePiece's (Gemma), as a `tokenizers` file.

Such a vocabulary is byte-pair encoding without a list of merges: the pair whose merged token has the highest score is
merged first. ``transformers`` converts Gemma's to a Unigram model, and 2,642 of 2,700 titles of MovieLens-100K, with
and without a leading space, get other tokens than in llama.cpp. With this tokenizer all are equal.
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
    values = {name.removeprefix("tokenizer.ggml."): field for name, field in fields.items()}
    texts, scores, kinds = (values[name].contents() for name in ("tokens", "scores", "token_type"))
    vocab = {text: i for i, text in enumerate(texts)}
    normal = {text: scores[i] for text, i in vocab.items() if kinds[i] == gguf.TokenType.NORMAL}
    unknown = values["unknown_token_id"].contents() if "unknown_token_id" in values else None
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
    if "add_space_prefix" not in values or values["add_space_prefix"].contents():
        spaces.insert(0, normalizers.Prepend(SPACE))
        strip.append(decoders.Strip(" ", 1, 0))
    tokenizer.normalizer = normalizers.Sequence(spaces)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    for kind, special in ((gguf.TokenType.CONTROL, True), (gguf.TokenType.USER_DEFINED, False)):
        of_kind = (text for text, token_kind in zip(texts, kinds, strict=True) if token_kind == kind)
        tokens = [AddedToken(text, special=special, normalized=False) for text in of_kind]
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(tokens)
    tokenizer.save(str(target))


def merges(scores: Mapping[str, float], vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    """Every pair of tokens that forms a token, in the order in which SentencePiece merges them.

    Args:
        scores: Score of each normal token, by text.
        vocab: Id of each token, by text; breaks ties.
    """
    pairs = []
    for text, score in scores.items():
        for at in range(1, len(text)):
            first, second = text[:at], text[at:]
            if first in scores and second in scores:
                pairs.append((-score, vocab[text], vocab[first], vocab[second], first, second))
    return [(first, second) for *_, first, second in sorted(pairs)]
