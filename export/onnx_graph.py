"""The network of a merged model as an ONNX graph, with only the inputs and outputs that serving needs.

Built node by node from the weights: an exporter that traces the torch model gives 49k logits at every position, an
input for the past of every layer, and no input for item vectors or a constant prefix. Operators: ONNX opset 23
(Attention, RotaryEmbedding, RMSNormalization) and, in int8 and int4, ``com.microsoft.MatMulNBits``.

One graph serves all uses, because two of its inputs have default values:

- ``items`` int64 ``[batch, n]``: item indices, oldest first, padded at the end with -1; ``items + j`` is row j of
- ``new_items`` float32 ``[new, hidden]``: input vectors outside the catalogue (default: none is used);
- ``past`` float32 ``[2 * layers, batch or 1, kv heads, tokens, width]``: keys and values before ``items`` (default:
  those of the fixed prefix, so that instruction and soft prompt are not computed again);
- ``scores`` float32 ``[batch, items]`` and ``state`` float32 ``[batch, hidden]`` at the last item of each row;
- ``present``: keys and values of ``past`` and ``items`` together, which can be the ``past`` of another request.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from delrec_lite.architectures import check_base, find_architecture, head_width, rope_of
from delrec_lite.export.merge import Merged
from delrec_lite.export.onnx_weights import Graph
from delrec_lite.prompts.vocabulary import FIRST_DEEP

OPSET, IR = 23, 11


def build(
    merged: Merged,
    item_base: int,
    graph: Graph,
    positions: int,
    past: Any | None,
    metadata: Mapping[str, str],
    deep: Any | None = None,
) -> onnx.ModelProto:
    """Build the model; its weights are written to ``graph.weights``.

    Args:
        merged: Weights and configuration.
        item_base: Token id of item 0; only the rows from there are used.
        graph: An empty graph.
        positions: Largest number of positions of prefix and history.
        past: Default of the input ``past``, float32; None: no default, the input is required.
        metadata: Written into the file.
        deep: Added to the input of layer ``FIRST_DEEP`` and all later layers, float32 ``[layers - 2, length, hidden]``;
            the graph then accepts only inputs of that length.

    Raises:
        ConfigError: The architecture or a setting is not supported.
    """
    config, tensors = merged.config, merged.tensors
    check_base(config, onnx=True)
    add, op, ints = graph.weights.add, graph.op, graph.ints
    rows = tensors["model.embed_tokens.weight"][item_base:].numpy()
    count, hidden = rows.shape
    op("Shape", "items", start=0, end=1, name="batch")
    op("Shape", "items", start=1, end=2, name="length")
    op("Shape", "past", start=3, end=4, name="past_length")
    # Rows are gathered before the cast to float32: the table itself stays small.
    table = add("item_rows", rows.astype(graph.quantisation.rows))
    trained = op("Cast", op("Gather", table, op("Min", "items", ints(count - 1))), to=TensorProto.FLOAT)
    new = op("Gather", "new_items", op("Max", op("Sub", "items", ints(count)), ints(0)))
    in_catalogue = op("Unsqueeze", op("Less", "items", ints(count)), ints(-1))
    x = op("Where", in_catalogue, trained, new, name="embedded")
    _positions(graph, config, positions)
    places = op("ReduceSum", op("Cast", op("Less", ints(-1), "items"), to=TensorProto.INT64), ints(1), keepdims=1)
    op("Sub", places, ints(1), name="last")
    present: list[str] = []
    for layer in range(config.num_hidden_layers):
        if deep is not None and layer >= FIRST_DEEP:
            x = op("Add", x, add(f"deep_{layer}", deep[layer - FIRST_DEEP]))
        x = _layer(graph, config, tensors, layer, x, present)
    _norm(graph, x, "model.norm", tensors, config, name="state")
    _scores(graph, tensors["lm_head.weight"][item_base:].numpy())
    op("Concat", *present, axis=0, name="present")
    return _model(graph, config, count, hidden, past, metadata)


def _positions(graph: Graph, config: Any, positions: int) -> None:
    """Values ``positions`` [batch, n], ``seen`` [n, past + n], and the rotary tables."""
    op, ints = graph.op, graph.ints
    rope = rope_of(config)
    angles = np.arange(positions)[:, None] * rope.frequencies
    graph.weights.add("cos", (np.cos(angles) * rope.attention_factor).astype(np.float32))
    graph.weights.add("sin", (np.sin(angles) * rope.attention_factor).astype(np.float32))
    scalar = {name: op("Squeeze", name) for name in ("past_length", "length")}
    total = op("Add", scalar["past_length"], scalar["length"])
    zero, step = graph.scalar(0), graph.scalar(1)
    key_positions = op("Range", zero, total, step)
    query_positions = op("Range", scalar["past_length"], total, step)
    op("Expand", query_positions, op("Concat", "batch", ints(1), axis=0), name="positions")
    op("LessOrEqual", op("Unsqueeze", key_positions, ints(0)), op("Unsqueeze", query_positions, ints(1)), name="seen")
    # One copy of the prefix for every row of the batch.
    op("Expand", "past", op("Concat", ints(1), "batch", ints(1, 1, 1), axis=0), name="pasts")


def _layer(graph: Graph, config: Any, tensors: Mapping[str, Any], layer: int, x: str, present: list[str]) -> str:
    """A block: ``[batch, n, hidden]`` to the same; the last block gives ``[batch, hidden]`` at the last item only."""
    op, ints = graph.op, graph.ints
    family, rotated = find_architecture(config.model_type), rope_of(config).width
    prefix = f"model.layers.{layer}"
    attention = f"{prefix}.self_attn"
    heads, kv_heads, width = config.num_attention_heads, config.num_key_value_heads, head_width(config)
    y = _norm(graph, x, f"{prefix}.input_layernorm", tensors, config)
    fused = _linear(graph, y, tensors, *(f"{attention}.{name}" for name in family.qkv))
    sizes = ints(heads * width, kv_heads * width, kv_heads * width)
    q, k, v = graph.ops("Split", fused, sizes, names=tuple(f"{part}_{layer}" for part in "qkv"), axis=-1)
    if family.qk_norm:
        q = _head_norm(graph, q, f"{attention}.q_norm", tensors, config, heads)
        k = _head_norm(graph, k, f"{attention}.k_norm", tensors, config, kv_heads)
    part: dict[str, Any] = {"rotary_embedding_dim": rotated} if rotated < width else {}
    q = op("RotaryEmbedding", q, "cos", "sin", "positions", num_heads=heads, **part)
    k = op("RotaryEmbedding", k, "cos", "sin", "positions", num_heads=kv_heads, **part)
    pasts = [op("Gather", "pasts", graph.scalar(2 * layer + part), axis=0) for part in (0, 1)]
    names = (f"attended{layer}", f"keys{layer}", f"values{layer}")
    head_counts = {"q_num_heads": heads, "kv_num_heads": kv_heads}
    y, *keys_values = graph.ops("Attention", q, k, v, "seen", *pasts, names=names, **head_counts)
    present += [op("Unsqueeze", value, ints(0)) for value in keys_values]
    if layer == config.num_hidden_layers - 1:  # only the last item's state is read
        x, y = (op("GatherND", value, "last", batch_dims=1) for value in (x, y))
    x = op("Add", x, _linear(graph, y, tensors, f"{attention}.o_proj"))
    y = _norm(graph, x, f"{prefix}.post_attention_layernorm", tensors, config)
    both = _linear(graph, y, tensors, *(f"{prefix}.mlp.{name}" for name in family.gate_up))
    gate, up = graph.ops("Split", both, names=(f"gate{layer}", f"up{layer}"), axis=-1, num_outputs=2)
    y = op("Mul", op("Mul", gate, op("Sigmoid", gate)), up)
    return op("Add", x, _linear(graph, y, tensors, f"{prefix}.mlp.down_proj"))


def _linear(graph: Graph, x: str, tensors: Mapping[str, Any], *names: str) -> str:
    """Linear layers with the same input, as one product."""
    weight = np.concatenate([tensors[f"{name}.weight"].numpy() for name in names])
    biases = [tensors.get(f"{name}.bias") for name in names]
    padded = [
        b.numpy() if b is not None else np.zeros(len(tensors[f"{n}.weight"]), np.float32)
        for n, b in zip(names, biases, strict=True)
    ]
    bias = np.concatenate(padded) if any(b is not None for b in biases) else None
    return graph.linear(x, names[0], weight, bias)


def _norm(graph: Graph, x: str, weight: str, tensors: Mapping[str, Any], config: Any, name: str = "") -> str:
    scale = graph.weights.add(weight, tensors[f"{weight}.weight"].numpy())
    return graph.op("RMSNormalization", x, scale, axis=-1, epsilon=config.rms_norm_eps, name=name)


def _head_norm(graph: Graph, x: str, weight: str, tensors: Mapping[str, Any], config: Any, heads: int) -> str:
    """Queries or keys normalised head by head."""
    split = graph.op("Reshape", x, graph.ints(0, 0, heads, head_width(config)))
    normed = _norm(graph, split, weight, tensors, config)
    return graph.op("Reshape", normed, graph.ints(0, 0, heads * head_width(config)))


def _scores(graph: Graph, head: Any) -> None:
    graph.op("MatMul", "state", graph.floats("item_head", head.T), name="scores")


def _model(
    graph: Graph, config: Any, count: int, hidden: int, past: Any | None, metadata: Mapping[str, str]
) -> onnx.ModelProto:
    layers, kv_heads, width = config.num_hidden_layers, config.num_key_value_heads, head_width(config)
    value_info = helper.make_tensor_value_info
    inputs = [
        value_info("items", TensorProto.INT64, ["batch", "n"]),
        value_info("new_items", TensorProto.FLOAT, ["new", hidden]),
        value_info("past", TensorProto.FLOAT, [2 * layers, "past_batch", kv_heads, "past_tokens", width]),
    ]
    outputs = [
        value_info("scores", TensorProto.FLOAT, ["batch", count]),
        value_info("state", TensorProto.FLOAT, ["batch", hidden]),
        value_info("present", TensorProto.FLOAT, [2 * layers, "batch", kv_heads, "tokens", width]),
    ]
    defaults = [numpy_helper.from_array(np.zeros((1, hidden), np.float32), "new_items")]
    if past is not None:
        defaults.append(numpy_helper.from_array(past, "past"))
    built = helper.make_graph(graph.nodes, "delrec", inputs, outputs, [*graph.weights.tensors, *defaults])
    opsets = [helper.make_opsetid("", OPSET)]
    opsets += [helper.make_opsetid(domain, 1) for domain in sorted({node.domain for node in graph.nodes} - {""})]
    model = helper.make_model(built, opset_imports=opsets, ir_version=IR, producer_name="delrec-lite")
    helper.set_model_props(model, dict(metadata))
    return model
