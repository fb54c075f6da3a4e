"""A bundle of a tiny random Llama, and the same Llama in numpy: tests of serving need no torch."""

import json
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from delrec_lite.data.columns import ItemColumn, dump_columns
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.finish import finish_bundle

LAYERS, HIDDEN, HEADS, KV_HEADS, FFN = 2, 64, 4, 2, 128
EPS, ROPE_BASE = 1e-5, 10000.0
SOFT, MAX_HISTORY = 3, 10
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = [("t", "h"), ("th", "e"), ("e", "r"), ("\u0120", "R"), ("\u0120", "B")]
TITLES = [
    f"{colour} {place} ({1950 + 5 * n + m})"
    for n, colour in enumerate(["Red", "Blue", "Green", "Silent", "Golden", "Last", "Warm", "Paper"])
    for m, place in enumerate(["River", "Mountain", "Garden", "Harbour", "Winter"])
]
# Columns of the items, which their titles say too; every seventh item has no price.
COLUMNS = (
    ItemColumn("colour", "text", tuple(title.split()[0] for title in TITLES)),
    ItemColumn("price", "number", tuple(None if n % 7 == 6 else n / 2 for n in range(len(TITLES)))),
    ItemColumn("new", "truth", tuple(n >= 20 for n in range(len(TITLES)))),
    ItemColumn(
        "tags", "list", tuple((title.split()[1], "even" if n % 2 == 0 else "odd") for n, title in enumerate(TITLES))
    ),
)


@dataclass(frozen=True)
class Tiny:
    """What was written: the bundle, its weights by GGUF name (q and k rows as GGUF has them), its prefix."""

    bundle: Bundle
    weights: dict[str, np.ndarray]
    prefix: list[int]
    item_base: int

    def hidden_states(self, histories):
        """Hidden states after the final norm at the last item of each history, from scratch: ``[n, hidden]``."""
        rows = [[*self.prefix, *(self.item_base + i for i in h[-MAX_HISTORY:])] for h in histories]
        return np.stack([forward(self.weights, ids)[-1] for ids in rows])

    def scores(self, histories):
        """Scores of the catalogue: ``[n, items]``."""
        return self.hidden_states(histories) @ self.weights["output.weight"][self.item_base :].T


def tiny_bundle(
    tmp_path: Path, titles=tuple(TITLES), seed=0, declared_hidden=HIDDEN, name="tiny", columns=(), **prompt
) -> Tiny:
    """Write ``tmp_path/NAME.delrec``; ``prompt`` overrides keys of prompt.json."""
    vocabulary = SPECIALS + sorted(pre_tokenizers.ByteLevel.alphabet()) + ["".join(pair) for pair in MERGES]
    base = len(vocabulary) + SOFT
    prefix = [10, 11, 12, *range(len(vocabulary), base), 13]
    weights = random_weights(base + len(titles), seed)
    weights["output.weight"][:base] = 0
    staging = tmp_path / f".{name}.part"
    staging.mkdir(parents=True)
    write_gguf(staging / "model-f32.gguf", weights, vocabulary, titles)
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(vocabulary)}, merges=MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(SPECIALS)
    tokenizer.save(str(staging / "tokenizer.json"))
    new = {"title_prefix": " ", "input_norm": 1.0, "scale": 1.0}
    prompt_json = {"schema": 1, "prefix": prefix, "soft_tokens": SOFT, "item_token_base": base}
    prompt_json |= {"max_history": MAX_HISTORY, "new_item": new, "text": {}} | prompt
    ids = [f"i{n}" for n in range(len(titles))]
    catalog = {"ids": ids, "titles": list(titles), "popularity": list(range(len(titles), 0, -1))}
    for file, data in (("prompt.json", prompt_json), ("catalog.json", catalog)):
        (staging / file).write_text(json.dumps(data), encoding="utf-8")
    if columns:
        (staging / "item-columns.json").write_text(json.dumps(dump_columns(columns)), encoding="utf-8")
    model = {"base": "random", "architecture": "llama", "hidden": declared_hidden}
    model |= {"quant": "f32", "file": "model-f32.gguf"}
    target = tmp_path / f"{name}.delrec"
    bundle = finish_bundle(staging, target, name=name, model=model, provenance={}, licences={}, gated=False)
    return Tiny(bundle, weights, prefix, base)


def random_weights(vocabulary: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)

    def matrix(rows, columns):
        return (rng.standard_normal((rows, columns)) * columns**-0.5).astype(np.float32)

    def norm():
        return (1 + 0.2 * rng.standard_normal(HIDDEN)).astype(np.float32)

    kv = HIDDEN * KV_HEADS // HEADS
    weights = {"token_embd.weight": matrix(vocabulary, HIDDEN), "output.weight": matrix(vocabulary, HIDDEN)}
    weights["output_norm.weight"] = norm()
    for layer in range(LAYERS):
        shapes = {
            "attn_q": (HIDDEN, HIDDEN),
            "attn_k": (kv, HIDDEN),
            "attn_v": (kv, HIDDEN),
            "attn_output": (HIDDEN, HIDDEN),
            "ffn_gate": (FFN, HIDDEN),
            "ffn_up": (FFN, HIDDEN),
            "ffn_down": (HIDDEN, FFN),
        }
        weights |= {f"blk.{layer}.{n}.weight": matrix(*shape) for n, shape in shapes.items()}
        weights |= {f"blk.{layer}.{n}_norm.weight": norm() for n in ("attn", "ffn")}
    return weights


def write_gguf(path: Path, weights: dict[str, np.ndarray], vocabulary: list[str], titles) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(EPS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(ROPE_BASE)
    kinds = gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([*vocabulary, *(f"<|delrec_{i}|>" for i in range(SOFT)), *titles])
    text = len(vocabulary) - len(SPECIALS)
    writer.add_token_types(
        [kinds.CONTROL] * len(SPECIALS)
        + [kinds.NORMAL] * text
        + [kinds.CONTROL] * SOFT
        + [kinds.USER_DEFINED] * len(titles)
    )
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_eos_token_id(0)
    for name, tensor in weights.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def forward(weights: dict[str, np.ndarray], ids: list[int]) -> np.ndarray:
    """A Llama as GGUF defines it, in float32: states after the final norm, ``[tokens, hidden]``."""
    x = weights["token_embd.weight"][ids]
    width = HIDDEN // HEADS
    for layer in range(LAYERS):
        w = {k.split(".")[2]: v for k, v in weights.items() if k.startswith(f"blk.{layer}.")}
        y = rms(x, w["attn_norm"])
        q = rope((y @ w["attn_q"].T).reshape(-1, HEADS, width))
        k = rope((y @ w["attn_k"].T).reshape(-1, KV_HEADS, width)).repeat(HEADS // KV_HEADS, 1)
        v = (y @ w["attn_v"].T).reshape(-1, KV_HEADS, width).repeat(HEADS // KV_HEADS, 1)
        weight = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(width)
        weight = np.where(np.tri(len(ids), dtype=bool), weight, -np.inf)
        weight = np.exp(weight - weight.max(-1, keepdims=True))
        weight /= weight.sum(-1, keepdims=True)
        x = x + np.einsum("hqk,khd->qhd", weight, v).reshape(-1, HIDDEN) @ w["attn_output"].T
        y = rms(x, w["ffn_norm"])
        gate = y @ w["ffn_gate"].T
        x = x + (gate / (1 + np.exp(-gate)) * (y @ w["ffn_up"].T)) @ w["ffn_down"].T
    return rms(x, weights["output_norm.weight"])


def rms(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * weight


def rope(x: np.ndarray) -> np.ndarray:
    """Rotate neighbouring pairs (2i, 2i + 1), as GGUF's Llama layout asks for: ``[tokens, heads, width]``."""
    width = x.shape[-1]
    angle = np.arange(len(x))[:, None] * ROPE_BASE ** (-np.arange(0, width, 2) / width)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    even, odd = x[..., ::2], x[..., 1::2]
    return np.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(x.shape).astype(np.float32)
