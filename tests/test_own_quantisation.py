"""A quantisation of another package is one record that recipes, commands, export and comparison accept."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from delrec_lite.cli.app import app
from delrec_lite.config import parse
from delrec_lite.errors import ConfigError, UsageError
from delrec_lite.pipeline.model_files import files_for
from delrec_lite.quantisations import (
    BASELINE,
    GGUF,
    ONNX,
    Quantisation,
    auto_candidates,
    formats_of,
    quantisation_names,
    register_quantisation,
)
from delrec_lite.runtime.verify import verify
from tests.conftest import export_tiny


@pytest.fixture
def registered(page_module):
    """The quantisations that the page on extending registers."""
    page_module("quantisations_of_mine")
    yield
    GGUF.unregister("q5_last")
    ONNX.unregister("hundredths")


def test_a_registered_quantisation_is_exported_from_recipe_and_command(registered, tiny_run, tmp_path):
    sections = tiny_run.recipe(export={"quant": "q5_last"}).model_dump(mode="json", exclude_unset=True)
    recipe, out = tmp_path / "r.yaml", tmp_path / "registered.delrec"
    recipe.write_text(yaml.safe_dump(sections))
    arguments = ["export", str(recipe), "--runs", str(tmp_path / "runs"), "--json"]
    answer = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert json.loads(answer.stdout)["quant"] == "q5_last"
    more = ["--quant", "hundredths,q5_last", "--out", str(out)]
    answer = CliRunner().invoke(app, [*arguments, *more], catch_exceptions=False)
    models = json.loads(answer.stdout)["models"]
    assert [model["file"] for model in models] == ["model-q5_last.gguf", "model-hundredths.onnx"]
    types = models[0]["tensors"]
    assert (types["blk.0.ffn_up.weight"], types["blk.1.ffn_up.weight"]) == ("Q5_0", "Q8_0")
    assert models[1]["layer_types"] == {"fp32": 2, "hundredths": 6}
    assert verify(out, 1).models == [model["file"] for model in models]


def test_every_list_of_names_contains_a_registered_quantisation(registered):
    assert {"q5_last", "hundredths"} <= set(quantisation_names())
    assert (formats_of("q5_last"), formats_of("hundredths"), formats_of("f16")) == (
        ("gguf",),
        ("onnx",),
        ("gguf", "onnx"),
    )
    assert "q5_last" in auto_candidates("gguf")
    assert BASELINE not in auto_candidates("gguf")
    assert {"hundredths", "int8"} <= set(auto_candidates("onnx"))
    assert "f16" not in auto_candidates("onnx")
    recipe = parse("name: r\nexport: {onnx_quant: hundredths}\n", "r.yaml").export
    assert files_for(recipe, ["q5_last", "hundredths"]) == (["q5_last"], ["hundredths"])


def test_unregistered_names_are_refused_when_the_recipe_is_read():
    with pytest.raises(ConfigError, match=r"r\.yaml: export\.quant: .*no quantisation 'q5_last': one of q4_0, iq4_nl"):
        parse("name: r\nexport: {quant: q5_last}\n", "r.yaml")
    with pytest.raises(ConfigError, match=r"export\.onnx_quant: .*no quantisation for ONNX 'q8_0': one of int4, int8"):
        parse("name: r\nexport: {onnx_quant: q8_0}\n", "r.yaml")
    with pytest.raises(UsageError, match="'q8_0' comes with delrec-lite"):
        register_quantisation(Quantisation("q8_0", "gguf", "another", "q4_0"))
    with pytest.raises(UsageError, match="for the format 'safetensors'"):
        Quantisation("x", "safetensors", "", "f16")


def test_a_width_that_is_no_multiple_of_the_block_is_one_clear_error(tiny_base, tmp_path):
    """Rows of 64 are no whole blocks of 256, and this record does not say what they become instead."""
    from delrec_lite.errors import DelrecError

    register_quantisation(Quantisation("q4_k_pure", "gguf", "4 bits in blocks of 256", "q4_k", file_type="Q4_K_M"))
    try:
        with pytest.raises(DelrecError, match=r"made blk\.\S+ \w+, not Q4_K|could not quantise"):
            export_tiny(tiny_base, tmp_path / "x.delrec", "q4_k_pure")
    finally:
        GGUF.unregister("q4_k_pure")
    assert list(tmp_path.iterdir()) == []
