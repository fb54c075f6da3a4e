"""Write the ONNX model of a bundle: graph, external weights, evaluated prefix, text rows for new titles."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from delrec_lite.architectures import head_width
from delrec_lite.data.types import Floats
from delrec_lite.export.merge import Merged
from delrec_lite.export.onnx_graph import IR, OPSET, build
from delrec_lite.export.onnx_weights import Graph, Weights
from delrec_lite.prompts.vocabulary import Vocabulary
from delrec_lite.quantisations import ONNX
from delrec_lite.runtime.onnx_session import open_session, run

ROWS = "token-rows.npy"


def write_onnx(
    merged: Merged,
    vocabulary: Vocabulary,
    prefix: Sequence[int],
    max_history: int,
    folder: Path,
    quant: str,
    threads: int,
    deep: Floats | None = None,
) -> dict[str, Any]:
    """Write ``model-<quant>.onnx``, its ``.onnx.data`` and ``token-rows.npy`` into ``folder``.

    The prefix is always evaluated in float32, so quantisation does not change it.

    Args:
        merged: Weights and configuration.
        vocabulary: The extended id space that the embedding has.
        prefix: Token ids before every history.
        max_history: Items that the prompt holds.
        folder: Of the bundle.
        quant: Name of a quantisation for ONNX.
        threads: Number of threads.
        deep: A deep prompt's vectors, float32 ``[layers - 2, k, hidden]``; the prefix's keys and values hold them.

    Returns:
        The manifest's entry: files, quantisation, number of layers by type, versions.

    Raises:
        ConfigError: The architecture or a setting is not supported.
        UsageError: No quantisation has this name.
    """
    positions = len(prefix) + max_history
    past = _prefix_past(merged, vocabulary, prefix, positions, folder, threads, deep)
    path = folder / f"model-{quant}.onnx"
    metadata = {
        "delrec.prefix": json.dumps(list(prefix)),
        "delrec.positions": str(positions),
        "delrec.quant": quant,
        "delrec.activations": "row" if ONNX[quant].batches else "tensor",
    }
    graph = _write(merged, vocabulary, path, quant, positions, past, metadata)
    rows = merged.tensors["model.embed_tokens.weight"][: vocabulary.text].numpy()
    np.save(folder / ROWS, rows.astype(np.float16), allow_pickle=False)
    return {
        "file": path.name,
        "data": _data(path).name,
        "rows": ROWS,
        "quant": quant,
        "layer_types": dict(sorted(graph.types.items())),
        "layer_weights": graph.layer_weights,
        "layer_bytes": graph.layer_bytes,
        "opset": OPSET,
        "ir_version": IR,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def _prefix_past(
    merged: Merged,
    vocabulary: Vocabulary,
    prefix: Sequence[int],
    positions: int,
    folder: Path,
    threads: int,
    deep: Floats | None,
) -> Floats:
    """Keys and values of the prefix: its rows are fed as new items after an empty past."""
    config, path = merged.config, folder / ".prefix.onnx"
    placed = None
    if deep is not None:
        placed = np.zeros((len(deep), len(prefix), config.hidden_size), np.float32)
        for place, token in enumerate(prefix):
            if token in vocabulary.soft_ids:
                placed[:, place] = deep[:, token - vocabulary.text]
    try:
        _write(merged, vocabulary, path, "fp32", positions, None, {}, placed)
        session = open_session(path, threads)
        empty = (2 * config.num_hidden_layers, 1, config.num_key_value_heads, 0, head_width(config))
        feeds = {
            "items": vocabulary.items + np.arange(len(prefix))[None],
            "new_items": merged.tensors["model.embed_tokens.weight"][list(prefix)].numpy(),
            "past": np.zeros(empty, np.float32),
        }
        past: Floats = run(session, ["present"], feeds)[0]
        return past
    finally:
        path.unlink(missing_ok=True)
        _data(path).unlink(missing_ok=True)


def _write(
    merged: Merged,
    vocabulary: Vocabulary,
    path: Path,
    quant: str,
    positions: int,
    past: Floats | None,
    metadata: dict[str, str],
    deep: Floats | None = None,
) -> Graph:
    with Weights(_data(path)) as weights:
        graph = Graph(weights, ONNX[quant])
        model = build(merged, vocabulary.item_base, graph, positions, past, metadata, deep)
    onnx.save_model(model, path)
    onnx.checker.check_model(str(path))
    return graph


def _data(path: Path) -> Path:
    return path.with_name(path.name + ".data")
