"""The sweep of layers: one run for each choice, teachers fitted once, and a picture."""

import json

import pytest
import yaml

from delrec_lite.bench import layers
from delrec_lite.pipeline import teacher_stage
from tests.tiny import dataset, write_base


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory):
    """With three layers, of which the one between the first and the last can be left out."""
    return write_base(tmp_path_factory.mktemp("three") / "base", layers=3)


def test_each_choice_is_trained_ranked_and_timed_and_called_again_only_timed(tiny_run, tmp_path, monkeypatch):
    recipe = tiny_run.recipe(model={"base": "tiny", "soft_tokens": 3})
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({**recipe.dump(), "data": {"folder": recipe.data.folder}}))
    fitted, fit = [], teacher_stage.fit_teacher
    monkeypatch.setattr("delrec_lite.pipeline.run.fit_teacher", lambda *a: fitted.append(1) or fit(*a))
    words = [str(tmp_path / "r.yaml"), "--layers", "1,1+1,3", "--repeats", "2", "--runs", str(tmp_path / "runs")]
    words += ["--out", str(tmp_path / "layers.json"), "--picture", str(tmp_path / "layers.svg")]
    layers.main(words)
    report = json.loads((tmp_path / "layers.json").read_text())
    names = ["1", "1+1", "3"]
    assert len(fitted) == 1
    assert list(report["cold_ms"]) == list(report["bundle_mb"]) == list(report["seconds"]) == names
    assert all(len(samples) == 2 for samples in report["cold_ms"].values())
    assert sorted(report["bundle_mb"].values()) == list(report["bundle_mb"].values())
    assert all(len(report["ranks"][name]["full"]) == len(dataset().test()) for name in names)
    assert "milliseconds" in (tmp_path / "layers.svg").read_text()
    trained = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.safetensors")}
    layers.main(words)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.safetensors")} == trained
    again = json.loads((tmp_path / "layers.json").read_text())
    assert again["rows"] == report["rows"]
