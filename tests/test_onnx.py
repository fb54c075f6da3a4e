"""The ONNX files and their engine: the same answers as the trained model and the other engine, and clear refusals."""

import json
import re
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

from delrec_lite.errors import BundleError, GateError, UsageError
from delrec_lite.export.parity import compare_scores
from delrec_lite.files import sha256_of
from delrec_lite.llm.forward import score_all
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines.onnx import _groups
from delrec_lite.runtime.onnx_rows import read_item_rows
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.runtime.retriever import Retriever
from tests.conftest import export_tiny
from tests.engines import scrambled
from tests.tiny import ITEMS, dataset

# Quantisations and the README of a bundle.


@pytest.fixture(scope="module")
def exported_onnx(tiny_base, tmp_path_factory):
    target = tmp_path_factory.mktemp("onnx") / "tiny.delrec"
    return export_tiny(tiny_base, target, model=scrambled(tiny_base), formats="onnx", onnx_quant="int8_block")


@pytest.fixture
def onnx_bundle(exported_onnx, tmp_path):
    import shutil

    return shutil.copytree(exported_onnx.path, tmp_path / "tiny.delrec")


MINIMA = [("fp32", 0.99999), ("f16", 0.9999), ("int8_block", 0.999), ("int8", 0.99), ("int4", 0.9)]


@pytest.mark.parametrize(("quant", "minimum"), MINIMA)
def test_every_quantisation_scores_as_trained(tiny_base, tmp_path, quant, minimum):
    model = scrambled(tiny_base)
    histories = dataset().test().histories
    trained = score_all(model[0], model[1], histories, 10)
    exported = export_tiny(tiny_base, tmp_path / "x.delrec", model=model, formats="onnx", onnx_quant=quant)
    with Recommender.load(exported.path, 1) as recommender:
        together = recommender.scores(histories)
        alone = np.concatenate([recommender.scores([h]) for h in histories])
    assert compare_scores(trained, together).score_correlation > minimum
    np.testing.assert_allclose(together, alone, atol=1e-4, err_msg="the other histories of a batch change an answer")
    entry = json.loads((exported.path / "manifest.json").read_text())["model"]["onnx"]
    kinds = {"int8": {"int8": 6, "int8_block": 2}, "int4": {"int4_block": 8}}
    assert entry["layer_types"] == kinds.get(quant, {quant: 8})
    assert entry["opset"] == 23
    assert entry["onnxruntime"]
    onnx.checker.check_model(str(exported.path / entry["file"]), full_check=quant in {"fp32", "f16"})


def test_a_failed_gate_of_either_format_leaves_no_bundle(tiny_base, tmp_path):
    for formats in ("onnx", "both"):
        settings = {"formats": formats, "onnx_quant": "int4", "score_correlation": 0.9999}
        with pytest.raises(GateError, match="correlate"):
            export_tiny(tiny_base, tmp_path / "x.delrec", "f16", scrambled(tiny_base), **settings)
        assert list(tmp_path.iterdir()) == []


def test_the_example_for_plain_onnxruntime_in_the_readme_of_a_bundle_runs(onnx_bundle):
    text = (onnx_bundle / "README.md").read_text()
    assert "llama.cpp" not in text
    code = re.search(r"## In plain ONNX Runtime.*?```python\n(.*?)```", text, re.S).group(1)
    arguments = [sys.executable, "-c", code]
    process = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=onnx_bundle.parent)
    with Recommender.load(onnx_bundle, 1) as recommender:
        order = np.argsort(-recommender.scores([[0, 1]])[0])[:10]
    titles = dataset().catalog.titles
    assert [line.split("  ", 1)[1] for line in (x.strip() for x in process.stdout.splitlines())] == [
        titles[i] for i in order
    ]


def test_groups_contain_every_request_once():
    lengths = [3, 1, 50, 2, 2] * 20 + [2000]
    groups = list(_groups(lengths, 16))
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) <= 16
        assert len(group) == 1 or len(group) * max(lengths[r] for r in group) <= 512


# Bundles whose files contradict each other.


def rehash(folder):
    content = json.loads((folder / "manifest.json").read_text())
    for name, facts in content["files"].items():
        facts |= {"bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)}
    (folder / "manifest.json").write_text(json.dumps(content))


def test_files_are_covered_by_hashes(onnx_bundle):
    content = json.loads((onnx_bundle / "manifest.json").read_text())
    entry = content["model"]["onnx"]
    for role in ("file", "data", "rows"):
        path = onnx_bundle / entry[role]
        original = path.read_bytes()
        path.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        with pytest.raises(BundleError, match=entry[role]):
            Bundle.open(onnx_bundle)
        path.write_bytes(original)
        changed = content | {"model": content["model"] | {"onnx": {**entry, role: "other"}}}
        (onnx_bundle / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(BundleError, match="does not list other"):
            Bundle.open(onnx_bundle)
        (onnx_bundle / "manifest.json").write_text(json.dumps(content))
    for malformed in ([], 5, {"file": "x"}):
        changed = content | {"model": content["model"] | {"onnx": malformed}}
        (onnx_bundle / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(BundleError, match="ONNX files"):
            Bundle.open(onnx_bundle)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("prompt.json", {"prefix": [1, 2]}, "another prefix"),
        ("prompt.json", {"max_history": 100}, "reads"),
        ("manifest.json", {"hidden": 65}, "has width 64"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(onnx_bundle, file, changes, message):
    content = json.loads((onnx_bundle / file).read_text())
    (content["model"] if file == "manifest.json" else content).update(changes)
    (onnx_bundle / file).write_text(json.dumps(content))
    rehash(onnx_bundle)
    with pytest.raises(BundleError, match=message):
        Recommender.load(onnx_bundle, 1)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd"])
def test_weights_outside_the_bundle_are_refused(onnx_bundle, tmp_path, location):
    path = onnx_bundle / json.loads((onnx_bundle / "manifest.json").read_text())["model"]["onnx"]["file"]
    (tmp_path / "secret").write_bytes((onnx_bundle / f"{path.name}.data").read_bytes())
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for pair in tensor.external_data:
            if pair.key == "location":
                pair.value = location
    path.write_bytes(model.SerializeToString())
    rehash(onnx_bundle)
    with pytest.raises(BundleError, match="cannot load"):
        Recommender.load(onnx_bundle, 1)


FUZZ = """
import sys, json
import numpy as np
from pathlib import Path
from delrec_lite.errors import DelrecError
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines.onnx import OnnxEngine
from delrec_lite.runtime.retriever import Retriever

folder, name, kind = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
bundle = Bundle.open(folder)
path = folder / name
intact = path.read_bytes()
rng = np.random.default_rng(0)
refused = 0
for n in range(50):
    if kind == "cut":
        corrupted = intact[: len(intact) * n // 50]
    else:
        corrupted = bytearray(intact)
        for _ in range(1 + n % 3):
            corrupted[int(rng.integers(min(len(intact), 40000)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(bytes(corrupted))
    print(n, flush=True)
    try:
        engine = Retriever(bundle, 1) if name.startswith("retriever") else OnnxEngine(bundle, 1)
        engine.scores([[1, 2]])
    except DelrecError:
        refused += 1
path.write_bytes(intact)
print("refused", refused)
"""


@pytest.mark.parametrize("kind", ["cut", "flip"])
@pytest.mark.parametrize("role", ["file", "data", "rows", "retriever"])
def test_corrupted_files_with_correct_hashes_never_crash(with_retriever, tmp_path, role, kind):
    import shutil

    folder = shutil.copytree(with_retriever, tmp_path / "x.delrec")
    entry = json.loads((folder / "manifest.json").read_text())["model"]["onnx"]
    name = entry.get(role, "retriever.onnx")
    arguments = [sys.executable, "-c", FUZZ, str(folder), name, kind]
    process = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=100)
    last = process.stdout.splitlines()[-1:]
    assert process.returncode == 0, (last, process.stderr[-2000:])
    refused = int(last[0].split()[1])
    assert refused == 50 if kind == "cut" else refused > 0 or role in {"data", "rows"}


# The teacher.


@pytest.fixture(scope="module")
def teacher():
    from delrec_lite.teacher_kinds.registry import TEACHERS
    from delrec_lite.teachers.contract import Teacher
    from delrec_lite.teachers.ensemble import Ensemble

    torch.manual_seed(0)
    members = []
    for place, kind in enumerate(TEACHERS.built_in):
        config = TEACHERS[kind].configure(hidden=16, max_length=8 + place)
        network = TEACHERS[kind].build(config, ITEMS)
        for p in network.parameters():
            torch.nn.init.normal_(p, std=0.3)
        members.append(Teacher(network, ITEMS))
    return Ensemble(members)


@pytest.fixture(scope="module")
def with_retriever(tiny_base, tmp_path_factory, teacher):
    target = tmp_path_factory.mktemp("retriever") / "tiny.delrec"
    return export_tiny(tiny_base, target, formats="onnx", onnx_quant="f16", teacher=teacher).path


def test_the_retriever_is_the_teacher(with_retriever, teacher):
    histories = [np.arange(n) % ITEMS for n in (1, 2, 8, 9, 12, 13, 29)]
    retriever = Retriever(Bundle.open(with_retriever), 1)
    assert retriever.kinds == tuple(member.config.kind for member in teacher.members)
    np.testing.assert_allclose(retriever.scores(histories), teacher.scores(histories), atol=1e-4)
    np.testing.assert_allclose(retriever.scores([histories[3]])[0], teacher.scores(histories)[3], atol=1e-4)
    for malformed in ([], [-1], [ITEMS]):
        with pytest.raises(UsageError):
            retriever.scores([[1], malformed])


def test_a_bundle_without_a_teacher_is_refused(onnx_bundle):
    bundle = Bundle.open(onnx_bundle)
    assert not Retriever.is_in(bundle)
    with pytest.raises(BundleError, match="holds no retriever"):
        Retriever(bundle)


def test_the_engine_needs_neither_torch_nor_onnx(onnx_bundle):
    code = (
        "import sys\n"
        "class No:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name.split('.')[0] in {'torch', 'onnx', 'llama_cpp', 'gguf'}: raise ImportError(name)\n"
        "sys.meta_path.insert(0, No())\n"
        "from delrec_lite.runtime.recommender import Recommender\n"
        f"r = Recommender.load({str(onnx_bundle)!r}, threads=1)\n"
        "print(r.recommend(['Red River', 'Purple Cactus'], k=2, allow_new=True).items[0].title)\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() in dataset().catalog.titles
    assert process.stderr == "", "ONNX Runtime writes to stderr"


def test_item_rows_of_a_damaged_file_are_rows_or_one_clear_error(onnx_bundle):
    path = onnx_bundle / "model-int8_block.onnx"
    intact, weights = path.read_bytes(), path.with_name(f"{path.name}.data")
    expected = read_item_rows(path, ITEMS, 64)
    assert (expected.shape, np.isfinite(expected).all()) == ((ITEMS, 64), True)
    rng, refused = np.random.default_rng(4), 0
    start = intact.index(b"item_rows")
    for n in range(400):
        damaged = bytearray(intact[: rng.integers(1, len(intact))] if n % 4 == 0 else intact)
        place = rng.integers(0, len(damaged)) if n % 2 else min(len(damaged) - 1, start + rng.integers(-40, 120))
        damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            assert read_item_rows(path, ITEMS, 64).shape == (ITEMS, 64)
        except BundleError:
            refused += 1
    assert 100 < refused < 400
    path.write_bytes(intact)
    for wrong in ((ITEMS + 1, 64), (ITEMS, 16)):
        with pytest.raises(BundleError, match="item_rows has the shape"):
            read_item_rows(path, *wrong)
    weights.write_bytes(weights.read_bytes()[:10])
    with pytest.raises(BundleError, match="gives no item rows"):
        read_item_rows(path, ITEMS, 64)
