"""The ONNX files and their engine: the same answers as the trained model and the other engine, and honest refusals."""

import json
import re
import subprocess
import sys
import threading

import numpy as np
import onnx
import pytest
import torch

from delrec_lite.config import FinetuneSection
from delrec_lite.errors import BundleError, DelrecError, GateError, MissingPackageError, UsageError
from delrec_lite.export.parity import compare
from delrec_lite.files import sha256_of
from delrec_lite.llm.forward import score_all
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines.factory import open_engine
from delrec_lite.runtime.engines.onnx import OnnxEngine, _groups
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.runtime.retriever import Retriever
from delrec_lite.training.adapters import add_adapter
from tests.conftest import export_tiny
from tests.tiny import ITEMS, dataset, make_model

HISTORIES = [[3], [3, 4], [4, 3], list(range(7)), list(range(25, 5, -1))]
KINDS = ("gguf", "onnx")


def scrambled(folder):
    """A model in which adapter, soft prompt and item vectors all matter."""
    made = make_model(folder)
    add_adapter(made[0], FinetuneSection(rank=4, alpha=8), steps=1)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, p in made[0].named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.05)
        for p in (made[0].soft, made[0].offset_in, made[0].offset_out):
            p.add_(torch.randn_like(p) * 0.3)
    return made


@pytest.fixture(scope="module")
def both(tiny_base, tmp_path_factory):
    """A bundle with a GGUF and a float32 ONNX file, and what the trained model scores."""
    model = scrambled(tiny_base)
    trained = score_all(model[0], model[1], [np.array(h) for h in HISTORIES], 10)
    target = tmp_path_factory.mktemp("both") / "tiny.delrec"
    export_tiny(tiny_base, target, "f16", model, formats="both", onnx_quant="fp32", prune_vocab=True)
    return target, trained


@pytest.fixture(scope="module", params=KINDS)
def engine(request, both):
    made = open_engine(Bundle.open(both[0]), request.param, threads=1)
    yield made
    made.close()


# One contract for both engines.


@pytest.mark.parametrize("kind", KINDS)
def test_many_at_once_are_answered_as_one_by_one(both, kind):
    histories = [list(range(n % 7, n % 7 + 1 + n % 9)) for n in range(150)]
    with_two = open_engine(Bundle.open(both[0]), kind, threads=2)
    together = with_two.scores(histories)
    for history, scores in zip(histories[::10], together[::10], strict=True):
        np.testing.assert_allclose(scores, with_two.scores([history])[0], atol=0.03)
    with_two.close()
    with pytest.raises(DelrecError, match="closed"):
        with_two.scores(histories)


def test_scores_are_the_trained_model_s(engine, both):
    parity = compare(both[1], engine.scores(HISTORIES))
    assert parity.score_correlation > 0.9999
    assert parity.top10_overlap == 1.0


def test_engines_agree(both):
    engines = [open_engine(Bundle.open(both[0]), kind, threads=1) for kind in KINDS]
    histories = [h.tolist() for h in dataset().test().histories]
    first, second = (e.scores(histories) for e in engines)
    assert compare(first, second).top10_overlap > 0.99
    np.testing.assert_allclose(first, second, atol=0.03)
    np.testing.assert_allclose(*(e.hidden_states(HISTORIES) for e in engines), atol=0.03)
    np.testing.assert_allclose(*(e.token_vector([5, 9, 9]) for e in engines), atol=1e-3)
    for e in engines:
        e.close()


def test_a_step_is_the_whole_history(engine):
    walk = list(range(12))
    counts = []
    for n in range(1, len(walk) + 1):
        scores, evaluated = engine.score_session("user", walk[:n])
        counts.append(evaluated)
        np.testing.assert_allclose(scores, engine.scores([walk[:n]])[0], atol=0.03)
    assert counts[:10] == [1] * 10
    assert counts[10:] == [10, 10]  # the prompt holds ten: its first one left
    again, evaluated = engine.score_session("user", [0, 1, 9])
    np.testing.assert_allclose(again, engine.scores([[0, 1, 9]])[0], atol=0.03)
    assert evaluated == 3
    assert engine.score_session("user", [0, 1, 8])[1] == 1
    engine.forget("user")
    engine.forget("nobody")
    assert engine.score_session("user", [0, 1, 8])[1] == 3
    for n in range(40):
        engine.score_session(f"user {n}", [n % ITEMS, 3])
    np.testing.assert_allclose(engine.score_session("user", [5, 6])[0], engine.scores([[5, 6]])[0], atol=0.03)


def test_vectors_are_items(engine, both, tiny_base):
    model, _, _ = scrambled(tiny_base)
    rows = model.extension()[model.vocabulary.soft :].detach().numpy()
    for request in ([rows[3], rows[4]], [3, rows[4]], [rows[3], 4]):
        np.testing.assert_allclose(engine.scores([request, [7]])[0], engine.scores([[3, 4]])[0], atol=0.03)
        np.testing.assert_allclose(engine.score_session("vectors", request)[0], engine.scores([[3, 4]])[0], atol=0.03)


@pytest.mark.parametrize("request_", [[], [-1], [ITEMS], [np.zeros(3, np.float32)], [1, "2"]])
def test_what_is_no_history_is_refused(engine, request_):
    for ask in (engine.scores, engine.hidden_states, lambda r: engine.score_session("x", r[-1])):
        with pytest.raises(UsageError):
            ask([[1], request_])


def test_threads_get_their_own_answers(engine):
    expected = engine.scores([[n, n + 1] for n in range(8)])
    wrong = []

    def ask(n):
        for turn in range(5):
            got = engine.score_session(f"s{n}", [n, n + 1])[0] if turn % 2 else engine.scores([[n, n + 1]])[0]
            if not np.allclose(got, expected[n], atol=0.03):
                wrong.append(n)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_closed_engine_says_so(both, kind):
    made = open_engine(Bundle.open(both[0]), kind, threads=1)
    made.close()
    made.close()
    for ask in (lambda: made.scores([[1]]), lambda: made.score_session("x", [1])):
        with pytest.raises(DelrecError, match="closed"):
            ask()
    with pytest.raises(UsageError, match="threads"):
        open_engine(Bundle.open(both[0]), kind, threads=0)


# Choosing an engine.


def test_auto_takes_what_is_held_and_installed(both, onnx_bundle, monkeypatch):
    titles = dataset().catalog.titles
    with Recommender.load(both[0], 1) as first, Recommender.load(both[0], 1, engine="onnx") as second:
        assert type(first.engine).__name__ == "LlamaEngine"
        assert type(second.engine).__name__ == "OnnxEngine"
        asked = {"history": [titles[3], "Purple Cactus"], "allow_new": True, "k": 5}
        assert [i.id for i in first.recommend(**asked).items] == [i.id for i in second.recommend(**asked).items]
    with Recommender.load(onnx_bundle, 1) as alone:
        assert type(alone.engine).__name__ == "OnnxEngine"
    with pytest.raises(BundleError, match="holds no GGUF"):
        Recommender.load(onnx_bundle, 1, engine="gguf")
    with pytest.raises(UsageError, match="no engine"):
        Recommender.load(onnx_bundle, 1, engine="tensor")
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with Recommender.load(both[0], 1) as other:
        assert type(other.engine).__name__ == "OnnxEngine"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError) as error:
        Recommender.load(onnx_bundle, 1)
    assert "delrec-lite[onnx]" in error.value.hint


# Precisions, and what a bundle says.


@pytest.fixture(scope="module")
def onnx_made(tiny_base, tmp_path_factory):
    target = tmp_path_factory.mktemp("onnx") / "tiny.delrec"
    return export_tiny(tiny_base, target, model=scrambled(tiny_base), formats="onnx", onnx_quant="int8_block")


@pytest.fixture
def onnx_bundle(onnx_made, tmp_path):
    import shutil

    return shutil.copytree(onnx_made.path, tmp_path / "tiny.delrec")


LEAST = [("fp32", 0.99999), ("f16", 0.9999), ("int8_block", 0.999), ("int8", 0.99), ("int4", 0.9)]


@pytest.mark.parametrize(("quant", "least"), LEAST)
def test_every_precision_scores_as_trained(tiny_base, tmp_path, quant, least):
    model = scrambled(tiny_base)
    histories = dataset().test().histories
    trained = score_all(model[0], model[1], histories, 10)
    made = export_tiny(tiny_base, tmp_path / "x.delrec", model=model, formats="onnx", onnx_quant=quant)
    with Recommender.load(made.path, 1) as recommender:
        together = recommender.scores(histories)
        alone = np.concatenate([recommender.scores([h]) for h in histories])
    assert compare(trained, together).score_correlation > least
    np.testing.assert_allclose(together, alone, atol=1e-4, err_msg="who else is asked changes an answer")
    entry = json.loads((made.path / "manifest.json").read_text())["model"]["onnx"]
    kinds = {"int8": {"int8": 6, "int8_block": 2}, "int4": {"int4_block": 8}}
    assert entry["layer_types"] == kinds.get(quant, {quant: 8})
    assert entry["opset"] == 23
    assert entry["onnxruntime"]
    onnx.checker.check_model(str(made.path / entry["file"]), full_check=quant in {"fp32", "f16"})


def test_a_failed_gate_of_either_format_leaves_no_bundle(tiny_base, tmp_path):
    for formats in ("onnx", "both"):
        settings = {"formats": formats, "onnx_quant": "int4", "score_correlation": 0.9999}
        with pytest.raises(GateError, match="correlate"):
            export_tiny(tiny_base, tmp_path / "x.delrec", "f16", scrambled(tiny_base), **settings)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_other_architectures_score_as_transformers_does(tmp_path, kind):
    """Biases of queries, keys and values; norms of heads that are wider than hidden / heads."""
    import transformers

    from delrec_lite.export.merge import Merged
    from delrec_lite.export.onnx_file import write_onnx
    from delrec_lite.prompts.vocabulary import Vocabulary
    from delrec_lite.runtime.onnx_session import open_session

    torch.manual_seed(2)
    names = {"qwen2": "Qwen2", "qwen3": "Qwen3"}
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "vocab_size": 60, "initializer_range": 0.2, "rope_theta": 5000.0}
    if kind == "qwen3":
        shape["head_dim"] = 32
    config = getattr(transformers, f"{names[kind]}Config")(**shape, tie_word_embeddings=False)
    model = getattr(transformers, f"{names[kind]}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name or "bias" in name:
                p.add_(torch.randn_like(p) * 0.3)
        ids = torch.tensor([[1, 5, 30, 31, 40, 59, 42]])
        expected = model(ids).logits[0, -1, 30:].numpy()
    tensors = dict(model.state_dict())
    entry = write_onnx(Merged(config, tensors), Vocabulary(28, 2, 30), [1, 5], 9, tmp_path, "fp32", 1)
    session = open_session(tmp_path / entry["file"], 1)
    scores = session.run(["scores"], {"items": ids[:, 2:].numpy() - 30})[0][0]
    np.testing.assert_allclose(scores, expected, atol=1e-3)
    config.model_type = "mamba"
    with pytest.raises(DelrecError, match="mamba"):
        write_onnx(Merged(config, tensors), Vocabulary(28, 2, 30), [1, 5], 9, tmp_path, "fp32", 1)


def test_the_card_s_lines_for_plain_onnxruntime_run(onnx_bundle):
    text = (onnx_bundle / "README.md").read_text()
    assert "llama.cpp" not in text
    code = re.search(r"## In plain ONNX Runtime.*?```python\n(.*?)```", text, re.S).group(1)
    arguments = [sys.executable, "-c", code]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=onnx_bundle.parent)
    with Recommender.load(onnx_bundle, 1) as recommender:
        order = np.argsort(-recommender.scores([[0, 1]])[0])[:10]
    titles = dataset().catalog.titles
    assert [line.split("  ", 1)[1] for line in (x.strip() for x in done.stdout.splitlines())] == [
        titles[i] for i in order
    ]


def test_groups_hold_every_request_once():
    lengths = [3, 1, 50, 2, 2] * 20 + [2000]
    groups = list(_groups(lengths, 16))
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) <= 16
        assert len(group) == 1 or len(group) * max(lengths[r] for r in group) <= 512


# Bundles that lie.


def rehash(folder):
    held = json.loads((folder / "manifest.json").read_text())
    for name, facts in held["files"].items():
        facts |= {"bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)}
    (folder / "manifest.json").write_text(json.dumps(held))


def test_files_are_covered_by_hashes(onnx_bundle):
    held = json.loads((onnx_bundle / "manifest.json").read_text())
    entry = held["model"]["onnx"]
    for role in ("file", "data", "rows"):
        path = onnx_bundle / entry[role]
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(BundleError, match=entry[role]):
            Bundle.open(onnx_bundle)
        path.write_bytes(whole)
        changed = held | {"model": held["model"] | {"onnx": {**entry, role: "other"}}}
        (onnx_bundle / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(BundleError, match="does not list other"):
            Bundle.open(onnx_bundle)
        (onnx_bundle / "manifest.json").write_text(json.dumps(held))
    for bad in ([], 5, {"file": "x"}):
        changed = held | {"model": held["model"] | {"onnx": bad}}
        (onnx_bundle / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(BundleError, match="ONNX files"):
            Bundle.open(onnx_bundle)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("prompt.json", {"prefix": [1, 2]}, "another prompt"),
        ("prompt.json", {"max_history": 100}, "reads"),
        ("manifest.json", {"hidden": 65}, "has width 64"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(onnx_bundle, file, changes, message):
    held = json.loads((onnx_bundle / file).read_text())
    (held["model"] if file == "manifest.json" else held).update(changes)
    (onnx_bundle / file).write_text(json.dumps(held))
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
whole = path.read_bytes()
rng = np.random.default_rng(0)
refused = 0
for n in range(50):
    if kind == "cut":
        spoiled = whole[: len(whole) * n // 50]
    else:
        spoiled = bytearray(whole)
        for _ in range(1 + n % 3):
            spoiled[int(rng.integers(min(len(whole), 40000)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(bytes(spoiled))
    print(n, flush=True)
    try:
        made = Retriever(bundle, 1) if name.startswith("retriever") else OnnxEngine(bundle, 1)
        made.scores([[1, 2]])
    except DelrecError:
        refused += 1
path.write_bytes(whole)
print("refused", refused)
"""


@pytest.mark.parametrize("kind", ["cut", "flip"])
@pytest.mark.parametrize("role", ["file", "data", "rows", "retriever"])
def test_spoiled_files_with_right_hashes_never_crash(with_retriever, tmp_path, role, kind):
    import shutil

    folder = shutil.copytree(with_retriever, tmp_path / "x.delrec")
    entry = json.loads((folder / "manifest.json").read_text())["model"]["onnx"]
    name = entry.get(role, "retriever.onnx")
    arguments = [sys.executable, "-c", FUZZ, str(folder), name, kind]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=100)
    last = done.stdout.splitlines()[-1:]
    assert done.returncode == 0, (last, done.stderr[-2000:])
    refused = int(last[0].split()[1])
    assert refused == 50 if kind == "cut" else refused > 0 or role in {"data", "rows"}


# The teacher.


@pytest.fixture(scope="module")
def teacher():
    from delrec_lite.teachers.contract import Teacher, TeacherConfig, build
    from delrec_lite.teachers.ensemble import Ensemble

    torch.manual_seed(0)
    members = []
    shapes = {"sasrec": {"max_length": 8}, "gru4rec": {"max_length": 12}, "caser": {"max_length": 9, "window": 4}}
    for kind, shape in shapes.items():
        network = build(TeacherConfig.for_kind(kind, hidden=16, **shape), ITEMS)
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
    assert retriever.kinds == ("sasrec", "gru4rec", "caser")
    np.testing.assert_allclose(retriever.scores(histories), teacher.scores(histories), atol=1e-4)
    np.testing.assert_allclose(retriever.scores([histories[3]])[0], teacher.scores(histories)[3], atol=1e-4)
    for bad in ([], [-1], [ITEMS]):
        with pytest.raises(UsageError):
            retriever.scores([[1], bad])


@pytest.mark.parametrize("place", [0, 1, 2])
def test_each_kind_of_teacher_is_written(teacher, place, tmp_path):
    from delrec_lite.export.retriever import write_retriever
    from delrec_lite.runtime.onnx_session import open_session

    write_retriever(teacher.members[place], tmp_path / "r.onnx")
    session = open_session(tmp_path / "r.onnx", 1)
    history = np.arange(20) % ITEMS
    scores = session.run(None, {"items": history[None]})[0]
    np.testing.assert_allclose(scores, teacher.members[place].scores([history]), atol=1e-4)


def test_a_bundle_without_a_teacher_says_so(onnx_bundle):
    bundle = Bundle.open(onnx_bundle)
    assert not Retriever.held(bundle)
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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in dataset().catalog.titles
    assert done.stderr == "", "ONNX Runtime speaks"


def test_the_engine_is_what_the_contract_names(onnx_bundle):
    engine = OnnxEngine(Bundle.open(onnx_bundle), 1)
    with pytest.raises(BundleError, match="no token rows"):
        engine.token_vector([10**6])
    engine.close()
