"""How fast this machine could be: measured ceilings, and the least time that a workload's work must take under them."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.quantisations import ONNX
from delrec_lite.runtime.gguf.header import read_header

# Larger than any cache of a laptop.
STREAM_BYTES = 256 << 20
# Shapes of a layer of a small model, with a long prompt: what a matrix product reaches at best here.
ROWS, INNER, OUT = 512, 1536, 1536
REPEATS = 5
OPSET, IR = 18, 10


@dataclass(frozen=True)
class Ceilings:
    """The best of several tries.

    Attributes:
        threads: Used for all.
        read_gb_s: Reading memory, 10^9 bytes a second.
        fp32_gop_s: Matrix product in float32, 10^9 multiplications and additions a second.
        int8_gop_s: In int8 with 32-bit sums, by ONNX Runtime; None where it is not installed.
    """

    threads: int
    read_gb_s: float
    fp32_gop_s: float
    int8_gop_s: float | None


@dataclass(frozen=True)
class Work:
    """What one cold request cannot do without.

    Attributes:
        tokens: Item tokens computed.
        gop: 10^9 multiplications and additions: two for each weight of the layers and token, and the item head once.
        gb: 10^9 bytes of weights read once.
    """

    tokens: float
    gop: float
    gb: float

    def floor_ms(self, ceilings: Ceilings) -> float:
        """The larger of computing and reading, both at their ceilings."""
        speed = max(ceilings.int8_gop_s or 0.0, ceilings.fp32_gop_s)
        return 1e3 * max(self.gop / speed, self.gb / ceilings.read_gb_s)


def measure_ceilings(threads: int) -> Ceilings:
    """Measure this machine; takes a few seconds."""
    return Ceilings(threads, _read(threads), _fp32(threads), _int8(threads))


def work_of(bundle: Any, tokens: float) -> Work | None:
    """The least work of a request of so many item tokens; None for an ONNX bundle of an older version."""
    items = bundle.trained
    if bundle.holds_gguf:
        header = read_header(Path(bundle.model_path))
        layers = [t for name, t in header.tensors.items() if name.startswith("blk.") and len(t.shape) == 2]
        weights, layer_bytes = sum(int(np.prod(t.shape)) for t in layers), sum(t.bytes for t in layers)
        head = header.tensors["output.weight"]
        hidden, head_bytes = head.shape[0], head.bytes * items / head.shape[1]
    else:
        model, hidden = bundle.manifest["model"]["onnx"], bundle.manifest["model"]["hidden"]
        if "layer_weights" not in model:
            return None
        weights, layer_bytes = model["layer_weights"], model["layer_bytes"]
        wide = model["quant"] in ONNX and ONNX[model["quant"]].rows == "float32"
        head_bytes = items * hidden * (4 if wide else 2)
    return Work(tokens, 2 * (weights * tokens + items * hidden) / 1e9, (layer_bytes + head_bytes) / 1e9)


def _best(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _read(threads: int) -> float:
    parts = np.array_split(np.ones(STREAM_BYTES // 8), threads)
    with ThreadPoolExecutor(threads) as pool:  # numpy lets go of the interpreter while it sums
        seconds = _best(lambda: [*pool.map(np.sum, parts)])
    return STREAM_BYTES / seconds / 1e9


def _fp32(threads: int) -> float:
    a = np.ones((ROWS, INNER), np.float32)
    b = np.ones((INNER, OUT), np.float32)
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        with ThreadPoolExecutor(threads) as pool:
            seconds = _best(lambda: [*pool.map(lambda part: part @ b, np.array_split(a, threads))])
    else:
        seconds = _session(threads, "MatMul", a, b)
    return 2 * ROWS * INNER * OUT / seconds / 1e9


def _int8(threads: int) -> float | None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError:
        return None
    seconds = _session(threads, "MatMulInteger", np.ones((ROWS, INNER), np.uint8), np.ones((INNER, OUT), np.int8))
    return 2 * ROWS * INNER * OUT / seconds / 1e9


def _session(threads: int, kind: str, a: Any, b: Any) -> float:
    """Seconds of one product in ONNX Runtime, the second factor packed beforehand as a layer's weights are."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    result = TensorProto.INT32 if kind == "MatMulInteger" else TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(kind, ["a", "b"], ["y"])],
        "product",
        [helper.make_tensor_value_info("a", helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)],
        [helper.make_tensor_value_info("y", result, [len(a), b.shape[1]])],
        [numpy_helper.from_array(b, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return _best(lambda: session.run(None, {"a": a}))
