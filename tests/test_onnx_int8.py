"""The int8 layers of an ONNX file give the same sums on processors without VNNI, whose 16-bit sums saturate."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from delrec_lite.export.onnx_weights import in_int8
from tests.conftest import export_tiny


def vpmaddubsw(activations, weights):
    """Products of uint8 and int8 as AVX2 adds them: two neighbours in 16 bits, saturating; then exactly.

    Args:
        activations: uint8 ``[rows, in]``.
        weights: int8 ``[in, out]``.
    """
    products = activations.astype(np.int32)[:, :, None] * weights.astype(np.int32)[None]
    return np.clip(products[:, ::2] + products[:, 1::2], -(2**15), 2**15 - 1).sum(1)


def exact(activations, weights):
    return activations.astype(np.int32) @ weights.astype(np.int32)


def worst(weights):
    """Activations that make the sums of some output channels as large as they get: one row a channel and sign."""
    large = [np.where(sign * weights.T[:16] > 0, 255, 0) for sign in (1, -1)]
    return np.concatenate([*large, np.full((1, len(weights)), 255)]).astype(np.uint8)


@pytest.fixture(scope="module")
def int8_layers(tiny_base, tmp_path_factory):
    exported = export_tiny(tiny_base, tmp_path_factory.mktemp("int8") / "x.delrec", formats="onnx", onnx_quant="int8")
    graph = onnx.load(next(exported.path.glob("*int8.onnx"))).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    weights = {
        n.input[1]: numpy_helper.to_array(tensors[n.input[1]]) for n in graph.node if n.op_type == "MatMulInteger"
    }
    assert len(weights) >= 6
    return weights


def test_exported_layers_never_saturate(int8_layers):
    for name, weights in int8_layers.items():
        assert weights.dtype == np.int8
        activations = worst(weights)
        np.testing.assert_array_equal(vpmaddubsw(activations, weights), exact(activations, weights), err_msg=name)
        assert np.abs(weights).max() > 64, "the range is used"


@pytest.mark.parametrize("width", [2, 7, 64])
def test_any_weights_fit(width):
    rng = np.random.default_rng(width)
    for weight in (
        rng.standard_normal((50, width)),
        np.ones((50, width)),
        -np.ones((50, width)),
        rng.choice([-1, 1], (50, width)),
        np.zeros((50, width)),
    ):
        narrow, scales = in_int8(weight.astype(np.float32))
        pairs = narrow[:, : width // 2 * 2].astype(int).reshape(50, -1, 2)
        assert pairs.sum(-1).max() <= 128
        assert pairs.sum(-1).min() >= -128
        assert np.abs(narrow.astype(int)).max() <= 127
        np.testing.assert_allclose(narrow * scales[:, None], weight, atol=scales.max() / 2 * 1.001)


def test_the_full_range_would_saturate():
    """The check finds saturation where each channel has one ordinary scale, so the tests above can fail."""
    weight = np.random.default_rng(0).standard_normal((50, 64)).astype(np.float32)
    scales = np.abs(weight).max(1, keepdims=True) / 127
    narrow = np.rint(weight / scales).astype(np.int8).T
    assert (vpmaddubsw(worst(narrow), narrow) != exact(worst(narrow), narrow)).any()
