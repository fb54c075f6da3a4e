"""Write a GGUF file in F16: tensors under llama.cpp's names, the tokenizer with soft tokens and titles as tokens.

Format: the GGUF specification of the ggml project; tensor names from the ``gguf`` package's own map.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from delrec_lite.architectures import Architecture, check_base, head_width, rope_of
from delrec_lite.errors import DelrecError
from delrec_lite.export.gguf_rope import add_rope
from delrec_lite.export.merge import Merged
from delrec_lite.export.tokenizer_file import in_pieces, is_byte, merges_of, prefixes_space, read_pairs, speller
from delrec_lite.prompts.vocabulary import Vocabulary


def soft_token(index: int) -> str:
    """The text of a soft token: ``<|delrec_0|>``."""
    return f"<|delrec_{index}|>"


def write_gguf(
    merged: Merged,
    vocabulary: Vocabulary,
    titles: Sequence[str],
    tokenizer_json: Path,
    base: str,
    name: str,
    licence: str,
    template: str,
    path: Path,
    whole_titles: bool = True,
) -> None:
    """Write ``merged`` to ``path``.

    Args:
        merged: Weights and configuration.
        vocabulary: The extended id space that the embedding has.
        titles: Item tokens' texts; must be distinct.
        tokenizer_json: The base model's ``tokenizers`` file (byte-pair encoding).
        base: Name of the base model, as pulled.
        name: Goes into ``general.name``.
        licence: Goes into ``general.license``.
        template: Jinja template that makes a prompt of chat messages.
        path: New file.
        whole_titles: A title in a text becomes its item's token; otherwise it is read as words, and its token is
            never matched in a text.

    Raises:
        ConfigError: The architecture or a setting is not supported.
        DelrecError: The tokenizer or a tensor is not supported.
    """
    config = merged.config
    family = check_base(config)
    writer = gguf.GGUFWriter(path, family.gguf)
    writer.add_name(name)
    writer.add_license(licence)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    _add_shape(writer, config, family, len(vocabulary))
    add_rope(writer, rope_of(config))
    item_texts = titles if whole_titles else [*map(speller(tokenizer_json), titles)]
    kind = gguf.TokenType.USER_DEFINED if whole_titles else gguf.TokenType.NORMAL
    _add_tokenizer(writer, vocabulary, item_texts, kind, tokenizer_json, family.split_rule, config)
    writer.add_chat_template(template)
    names = tensor_names(config)
    for hf_name, tensor in merged.tensors.items():
        target = names.get_name(hf_name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise DelrecError(f"no GGUF name for the tensor {hf_name}", "this base model is not supported")
        array = tensor.numpy()
        part = hf_name.rpartition(".")[0].rpartition(".")[2]
        if family.interleaved_rope and part in {"q_proj", "k_proj"}:
            array = _interleave(array, config.num_attention_heads if part == "q_proj" else config.num_key_value_heads)
        elif family.norms_from_one and part.endswith("norm"):
            array = array + 1
        writer.add_tensor(target, array.astype(np.float16 if array.ndim > 1 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensor_names(config: Any) -> Any:
    """The ``gguf`` package's map from names in Hugging Face's layout to llama.cpp's."""
    arches = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
    return gguf.get_tensor_name_map(arches[check_base(config).gguf], config.num_hidden_layers)


def _interleave(weight: Any, heads: int) -> Any:
    """Rotary pairs (i, i + d/2) of Hugging Face's layout to neighbours (2i, 2i + 1), as llama.cpp rotates them."""
    rows = weight.shape[0]
    halves = weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def _add_shape(writer: Any, config: Any, family: Architecture, vocabulary: int) -> None:
    width = head_width(config)
    writer.add_vocab_size(vocabulary)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    if family.full_attention_every and config.sliding_window:
        writer.add_sliding_window(config.sliding_window)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _add_tokenizer(
    writer: Any,
    vocabulary: Vocabulary,
    titles: Sequence[str],
    kind: Any,
    tokenizer_json: Path,
    split_rule: str,
    config: Any,
) -> None:
    tokenizer = read_pairs(tokenizer_json)
    pieces = in_pieces(tokenizer)
    tokens = [f"<|unused_{i}|>" for i in range(vocabulary.text)]
    types = [gguf.TokenType.UNUSED] * vocabulary.text
    for token, i in tokenizer["model"]["vocab"].items():
        tokens[i], types[i] = token, gguf.TokenType.NORMAL
        if pieces and is_byte(token):
            types[i] = gguf.TokenType.BYTE
    for added in tokenizer.get("added_tokens", []):
        special = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
        tokens[added["id"]], types[added["id"]] = added["content"], special
    tokens += [soft_token(i) for i in range(vocabulary.soft)]
    types += [gguf.TokenType.CONTROL] * vocabulary.soft
    tokens += titles
    types += [kind] * vocabulary.items
    writer.add_tokenizer_model("llama" if pieces else "gpt2")
    writer.add_tokenizer_pre("default" if pieces else _split_rule(tokenizer, split_rule))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = merges_of(tokenizer)
    if pieces:
        writer.add_token_scores(_scores(tokens, merges))
    else:
        writer.add_token_merges([" ".join(pair) for pair in merges])
    for add, value in (
        (writer.add_bos_token_id, config.bos_token_id),
        (writer.add_eos_token_id, config.eos_token_id),
        (writer.add_pad_token_id, config.pad_token_id),
    ):
        if isinstance(value, int):
            add(value)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(pieces and prefixes_space(tokenizer))


def _split_rule(tokenizer: Any, default: str) -> str:
    """llama.cpp's name for the file's split rule, so that a prompt becomes the same tokens as in training."""
    rule = tokenizer.get("pre_tokenizer") or {}
    steps = rule.get("pretokenizers", [rule])
    pattern = (steps[0].get("pattern") or {}).get("Regex", "")
    if "\\p{N}{1,3}" in pattern and tokenizer["model"].get("ignore_merges"):  # llama-bpe ignores merges too
        return "llama-bpe"
    if steps[-1].get("type") != "ByteLevel" or not steps[-1].get("use_regex", True):
        return default
    if len(steps) == 1:
        return "gpt-2"
    digits = len(steps) == 2 and steps[0].get("type") == "Digits" and steps[0].get("individual_digits")
    return "smollm" if digits else default


def _scores(tokens: Sequence[str], merges: Sequence[tuple[str, str]]) -> list[float]:
    """SentencePiece joins the pair whose joined token has the highest score, so earlier merges score higher."""
    rank = {a + b: float(-n) for n, (a, b) in enumerate(merges)}
    return [rank.get(token, -1000.0 - len(merges)) for token in tokens]
