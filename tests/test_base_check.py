"""A base that cannot be exported is refused before anything is computed: by training, by `plan`, by `init`."""

import json
import shutil

import gguf
import numpy as np
import pytest

from delrec_lite.console import QUIET
from delrec_lite.data.store import Settings, make_dataset, save_dataset
from delrec_lite.errors import ConfigError, DelrecError
from delrec_lite.hub.base import find_base
from delrec_lite.pipeline.base import check_gguf_base, check_local
from delrec_lite.pipeline.run import Run
from delrec_lite.pipeline.start import start_recipe
from delrec_lite.training.plan import plan
from tests.tiny import candidates, dataset

NTK = {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}}


@pytest.fixture
def changed(tiny_base, tmp_path):
    """Copies the tiny base with other settings in its config.json."""

    def copy(**settings):
        folder = shutil.copytree(tiny_base, tmp_path / "changed")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | settings))
        return folder

    return copy


@pytest.fixture
def run_with(tiny_run, tmp_path, monkeypatch):
    """A run of another base, as a recipe names it."""

    def make(base, **sections):
        monkeypatch.setattr(Run, "pulled", {"model": find_base(str(base), QUIET, tmp_path / "cache")})
        return tiny_run(**sections, model={"base": str(base)})

    return make


@pytest.mark.parametrize("stage", ["distill", "finetune", "export"])
@pytest.mark.parametrize(
    ("settings", "words"),
    [({"model_type": "mamba"}, "'mamba'"), (NTK, "'dynamic'"), ({"hidden_act": "gelu"}, "gelu")],
)
def test_training_refuses_an_unsupported_base_before_any_stage(run_with, changed, stage, settings, words):
    run = run_with(changed(**settings))
    with pytest.raises(ConfigError, match=words) as error:
        getattr(run, stage)()
    assert "config.json" in error.value.message
    assert sorted(path.name for path in run.folder.iterdir()) == ["recipe.yaml"]


def test_training_for_onnx_refuses_a_family_without_onnx(run_with, changed):
    folder = changed(model_type="gemma3_text", hidden_activation="gelu_pytorch_tanh")
    run = run_with(folder, export={"format": "onnx"})
    with pytest.raises(ConfigError, match="cannot be written as ONNX"):
        run.finetune()
    assert not (run.folder / "teacher").exists()
    assert run_with(folder, runs="others").models.base_folder == folder


def test_training_refuses_an_unsupported_tokenizer(run_with, changed):
    folder = changed()
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["type"] = "Unigram"
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    run = run_with(folder)
    with pytest.raises(DelrecError, match="byte-pair"):
        run.finetune()
    assert not (run.folder / "teacher").exists()


def test_plan_refuses_an_unsupported_base(changed):
    with pytest.raises(ConfigError, match="'dynamic'"):
        plan(str(changed(**NTK)), "8GB", 50, 1349, 800)


def test_init_refuses_an_unsupported_base_and_writes_no_recipe(changed, tmp_path):
    sets = {name: candidates(name) for name in ("valid", "test")}
    ring = make_dataset("ring", dataset().catalog, dataset().user_ids, dataset().sequences)
    save_dataset(ring, sets, Settings(2, 5, 3), tmp_path / "ring")
    out = tmp_path / "own.yaml"
    with pytest.raises(ConfigError, match="'mamba'"):
        start_recipe("own", tmp_path / "ring", "item", str(changed(model_type="mamba")), out)
    assert not out.exists()


def write_header(path, arch, scaling=None, factors=False):
    writer = gguf.GGUFWriter(path, arch)
    writer.add_rope_dimension_count(16)
    if scaling:
        writer.add_rope_scaling_type(scaling)
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    if factors:
        writer.add_tensor("rope_freqs.weight", np.ones(8, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_is_refused_before_it_is_unpacked(tmp_path, run_with):
    check_gguf_base(write_header(tmp_path / "plain.gguf", "llama"))
    for name, settings, words in (
        ("mamba", {"arch": "mamba"}, "'mamba'"),
        ("linear", {"arch": "gemma3", "scaling": gguf.RopeScalingType.LINEAR}, "lost when"),
        ("llama3", {"arch": "llama", "factors": True}, "lost when"),
    ):
        path = write_header(tmp_path / f"{name}.gguf", **settings)
        with pytest.raises(ConfigError, match=words):
            check_local(str(path), ())
    run = run_with(tmp_path / "llama3.gguf")
    with pytest.raises(ConfigError, match="lost when"):
        run.finetune()
    assert not (run.folder / "teacher").exists()
    check_local("nobody/knows-this", (tmp_path,))
