"""One contract for every engine, also for those of other packages; how an engine is chosen."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from delrec_lite import doctor
from delrec_lite.errors import BundleError, DelrecError, MissingPackageError, UsageError
from delrec_lite.export.parity import compare_scores
from delrec_lite.llm.forward import score_all
from delrec_lite.runtime.additions import add_items
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines.factory import ENGINES, GROUP, EngineKind, open_engine, register_engine
from delrec_lite.runtime.recommender import Recommender
from tests.conftest import export_tiny
from tests.engines import DECAY, DecayEngine, both_formats, matrix, scrambled
from tests.tiny import ITEMS, dataset

HISTORIES = [[3], [3, 4], [4, 3], list(range(7)), list(range(25, 5, -1))]
# An engine of another package, and llama.cpp as a bundle with an item index opens it.
TRUNK = EngineKind("llama.cpp without items", "gguf", "delrec_lite.runtime.engines.llama_trunk:LlamaTrunkEngine")
OTHERS = (DECAY, TRUNK)
MOST = 10  # items that the tiny model's prompt holds


@pytest.fixture(scope="module", autouse=True)
def decay():
    for kind in OTHERS:
        register_engine(kind)
    yield
    for kind in OTHERS:
        ENGINES.unregister(kind.name)


@pytest.fixture(scope="module")
def model(tiny_base):
    return scrambled(tiny_base)


@pytest.fixture(scope="module")
def trained(model):
    """What the trained model scores."""
    return score_all(model[0], model[1], [np.array(h) for h in HISTORIES], MOST)


@pytest.fixture(scope="module")
def bundle(tiny_base, model, trained, tmp_path_factory):
    """A bundle of both formats. Export changes the model, so ``trained`` must be computed before."""
    return Bundle.open(both_formats(tiny_base, tmp_path_factory.mktemp("both") / "tiny.delrec", model))


def items_of(bundle, name):
    base = bundle.prompt.item_token_base
    return matrix(bundle, name)[base : base + bundle.trained]


@pytest.fixture(scope="module")
def engines(bundle):
    """Engines by name, opened on first use."""
    opened = {}
    yield opened
    for engine in opened.values():
        engine.close()


@pytest.mark.parametrize("name", [*ENGINES.names(), *(kind.name for kind in OTHERS)])
class TestContract:
    """Uses only the methods of ``Engine``."""

    @pytest.fixture
    def engine(self, engines, bundle, name):
        if name not in engines:
            engines[name] = open_engine(bundle, name, threads=1)
        yield engines[name]
        for session in ("u", "v", *(f"u{n}" for n in range(40))):
            engines[name].forget(session)

    def test_batches_score_as_single_requests(self, bundle, name):
        histories = [list(range(n % 7, n % 7 + 1 + n % 9)) for n in range(150)]
        engine = open_engine(bundle, name, threads=2)
        together = engine.scores(histories)
        assert (together.shape, together.dtype) == ((150, ITEMS), np.float32)
        for history, scores in zip(histories[::10], together[::10], strict=True):
            np.testing.assert_allclose(scores, engine.scores([history])[0], atol=0.03)
        engine.close()
        with pytest.raises(DelrecError, match="closed"):
            engine.scores(histories)

    def test_histories_with_shared_beginnings_are_scored_as_alone(self, engine):
        history = [3, 1, 4, 2, 0]
        requests = [history, *(history[:n] + history[n + 1 :] for n in range(len(history))), history[:2], history]
        separate_scores = np.concatenate([engine.scores([request]) for request in requests])
        np.testing.assert_allclose(engine.scores(requests), separate_scores, atol=5e-3)
        assert np.abs(separate_scores[0] - separate_scores[1]).max() > 0.01

    def test_a_request_does_not_change_the_next(self, engine):
        first = engine.scores([[1, 2, 3]])
        engine.scores([[9, 8, 7, 6]] * 20)
        engine.hidden_states([[9, 8]])
        engine.score_session("u", [5, 6])
        np.testing.assert_allclose(engine.scores([[1, 2, 3]]), first, atol=1e-4)

    def test_only_the_newest_items_are_read(self, engine):
        history = list(range(ITEMS))
        np.testing.assert_allclose(engine.scores([history]), engine.scores([history[-MOST:]]), atol=1e-4)
        assert engine.count_tokens(history) == (MOST, MOST)
        assert engine.count_tokens([1, 2]) == (2, 2)

    def test_output_rows_times_the_state_are_the_scores(self, engine, bundle):
        head = items_of(bundle, "output.weight")
        states = engine.hidden_states(HISTORIES)
        assert (states.shape, states.dtype) == ((len(HISTORIES), head.shape[1]), np.float32)
        np.testing.assert_allclose(states @ head.T, engine.scores(HISTORIES), atol=0.03)

    def test_item_vectors_are_the_input_rows(self, engine, bundle):
        rows = items_of(bundle, "token_embd.weight")
        for items in ([3, 1, 3], list(range(bundle.trained)), []):
            vectors = engine.item_vectors(items)
            assert (vectors.shape, vectors.dtype) == ((len(items), rows.shape[1]), np.float32)
            np.testing.assert_allclose(vectors, rows[items], atol=1e-2)

    def test_one_evaluation_gives_scores_states_and_its_cost(self, engine):
        scores, states, tokens = engine.evaluate(HISTORIES)
        np.testing.assert_allclose(scores, engine.scores(HISTORIES), atol=0.03)
        np.testing.assert_allclose(states, engine.hidden_states(HISTORIES), atol=0.03)
        assert tokens == sum(engine.count_tokens(history)[1] for history in HISTORIES)
        engine.score_session("u", [3, 1])
        for history, cost in (([3, 1, 4], 1), ([3, 1, 4, 5, 6], 2), ([3, 1, 4, 5, 6], 1)):
            in_session = engine.evaluate([history], "u")
            without_session = engine.evaluate([history])
            assert in_session.tokens == cost
            np.testing.assert_allclose(in_session.scores, without_session.scores, atol=0.03)
            np.testing.assert_allclose(in_session.states, without_session.states, atol=0.03)
        assert engine.score_session("u", [3, 1, 4, 5, 6, 7])[1] == 1

    def test_a_session_costs_what_is_new_and_answers_the_same(self, engine):
        walk = [n % ITEMS for n in range(MOST + 2)]
        costs = []
        for end in range(1, len(walk) + 1):
            scores, computed = engine.score_session("u", walk[:end])
            costs.append(computed)
            np.testing.assert_allclose(scores, engine.scores([walk[:end]])[0], atol=0.03)
        assert costs == [1] * MOST + [MOST, MOST]  # then the oldest item leaves the prompt

    @pytest.mark.parametrize(
        ("second", "cost"),
        [
            ([3, 1, 4], 1),  # equal: only the last item is evaluated
            ([3, 1], 1),  # shorter
            ([3, 1, 7, 8], 2),  # differs from the third item on
            ([9, 1, 4], 3),  # differs from the first item on
            ([3, 1, 4, 8, 9], 2),
        ],
    )
    def test_the_shared_beginning_of_two_histories_is_cached(self, engine, second, cost):
        engine.score_session("u", [3, 1, 4])
        scores, computed = engine.score_session("u", second)
        assert computed == cost
        np.testing.assert_allclose(scores, engine.scores([second])[0], atol=0.03)

    def test_a_forgotten_session_costs_its_whole_history(self, engine):
        engine.score_session("u", [0, 1, 8])
        engine.score_session("v", [0, 1, 8])
        engine.forget("u")
        engine.forget("nobody")
        assert engine.score_session("u", [0, 1, 8])[1] == 3
        assert engine.score_session("v", [0, 1, 8])[1] == 1

    def test_many_sessions_and_batches_do_not_disturb_each_other(self, engine):
        histories = {f"u{n}": [n % ITEMS, (n + 1) % ITEMS] for n in range(40)}
        for name, history in histories.items():
            engine.score_session(name, history)
        engine.scores([[7, 8, 9]] * 20)
        for name, history in histories.items():
            scores, computed = engine.score_session(name, [*history, 20])
            assert computed in {1, 3}  # 3: the session was evicted
            np.testing.assert_allclose(scores, engine.scores([[*history, 20]])[0], atol=0.03)

    def test_a_vector_in_a_history_is_the_item_it_is_the_row_of(self, engine, bundle):
        rows = items_of(bundle, "token_embd.weight")
        expected, states = engine.scores([[3, 4]])[0], engine.hidden_states([[3, 4]])
        for request in ([rows[3], rows[4]], [3, rows[4]], [rows[3], 4]):
            np.testing.assert_allclose(engine.scores([request, [7]])[0], expected, atol=0.03)
            np.testing.assert_allclose(engine.hidden_states([request]), states, atol=0.03)
            np.testing.assert_allclose(engine.score_session("u", request)[0], expected, atol=0.03)

    def test_a_vector_in_a_session_is_cached_and_compared_by_value(self, engine, bundle):
        vector = items_of(bundle, "token_embd.weight")[5]
        engine.score_session("u", [1, vector])
        scores, computed = engine.score_session("u", [1, vector, 2])
        assert computed == 1
        changed_scores, computed = engine.score_session("u", [1, vector + 1, 2])
        assert computed == 2
        assert np.abs(changed_scores - scores).max() > 1e-3

    @pytest.mark.parametrize("history", [[], [-1], [ITEMS], [np.zeros(3, np.float32)], [1, "2"]])
    def test_invalid_histories_are_refused_and_change_nothing(self, engine, history):
        before = engine.scores([[1, 2]])
        for call in (
            lambda: engine.scores([[1], history]),
            lambda: engine.hidden_states([[1], history]),
            lambda: engine.evaluate([[1], history]),
            lambda: engine.evaluate([history], "u"),
            lambda: engine.score_session("u", history),
            lambda: engine.count_tokens(history),
        ):
            with pytest.raises(UsageError):
                call()
        np.testing.assert_allclose(engine.scores([[1, 2]]), before, atol=1e-4)

    def test_candidates_are_refused_by_a_bundle_that_ranks_the_catalogue(self, engine):
        with pytest.raises(UsageError):
            engine.score_candidates([1, 2], [3, 4])

    def test_the_vector_of_words_is_the_mean_of_their_rows(self, engine, bundle):
        rows = matrix(bundle, "token_embd.weight")
        np.testing.assert_allclose(engine.token_vector([5, 9, 9]), rows[[5, 9, 9]].mean(0), atol=1e-3)
        with pytest.raises(BundleError):
            engine.token_vector([10**6])

    def test_concurrent_threads_get_the_right_answers(self, engine):
        histories = [[n, n + 1] for n in range(8)]
        scores, states = engine.scores(histories), engine.hidden_states(histories)
        wrong = []

        def query(n):
            for turn in range(6):
                try:
                    if turn % 3 == 0:
                        equal = np.allclose(engine.scores([histories[n]])[0], scores[n], atol=0.03)
                    elif turn % 3 == 1:
                        equal = np.allclose(engine.score_session(f"u{n}", histories[n])[0], scores[n], atol=0.03)
                    else:
                        equal = np.allclose(engine.hidden_states([histories[n]])[0], states[n], atol=0.03)
                    if not equal:
                        wrong.append((n, turn))
                except Exception as error:
                    wrong.append(repr(error))

        threads = [threading.Thread(target=query, args=(n,)) for n in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert wrong == []

    def test_a_closed_engine_says_so_and_can_be_closed_again(self, bundle, name):
        engine = open_engine(bundle, name, threads=1)
        engine.score_session("u", [1])
        engine.close()
        engine.close()
        engine.forget("u")
        for call in (
            lambda: engine.scores([[1]]),
            lambda: engine.evaluate([[1]]),
            lambda: engine.score_session("u", [1]),
        ):
            with pytest.raises(DelrecError, match="closed"):
                call()

    def test_zero_threads_are_refused(self, bundle, name):
        with pytest.raises(UsageError, match="threads"):
            open_engine(bundle, name, threads=0)

    def test_added_items_are_read_and_scored_at_no_further_cost(self, bundle, name, tmp_path):
        folder = add_items(bundle.folder, {"n1": "Violet Forest (2020)"}, tmp_path / "more.delrec").folder
        titles = bundle.items.titles[:MOST]
        counts = []
        for path in (bundle.folder, folder):
            with Recommender.load(path, 1, engine=name) as recommender:
                answers = [recommender.recommend(titles[:end], session="u") for end in (9, 10)]
                counts.append([(a.tokens_computed, a.tokens_avoided) for a in answers])
                if path == folder:
                    outputs = recommender.new_item("Violet Forest (2020)")[1]
                    state = recommender.engine.hidden_states([[1, ITEMS]])[0]
                    assert recommender.scores([[1, ITEMS]])[0, ITEMS] == pytest.approx(outputs @ state, abs=0.03)
        prefix = len(bundle.prompt.prefix)
        assert counts[0] == counts[1] == [(9, prefix), (1, prefix + 9)]


@pytest.mark.parametrize("name", ENGINES.built_in)
def test_scores_are_the_trained_model_s(bundle, trained, name):
    engine = open_engine(bundle, name, threads=1)
    parity = compare_scores(trained, engine.scores(HISTORIES))
    engine.close()
    assert parity.score_correlation > 0.9999
    assert parity.top10_overlap == 1.0


def test_built_in_engines_agree(bundle):
    first, second = (open_engine(bundle, name, threads=1) for name in ENGINES.built_in)
    histories = [h.tolist() for h in dataset().test().histories]
    scores = [engine.scores(histories) for engine in (first, second)]
    assert compare_scores(*scores).top10_overlap > 0.99
    np.testing.assert_allclose(*scores, atol=0.03)
    np.testing.assert_allclose(*(engine.hidden_states(HISTORIES) for engine in (first, second)), atol=0.03)
    for engine in (first, second):
        engine.close()


# Finding and choosing one.


@pytest.fixture(scope="module")
def single_format_bundles(tiny_base, tmp_path_factory):
    """A bundle of each format alone."""
    folder = tmp_path_factory.mktemp("single")
    gguf = export_tiny(tiny_base, folder / "g.delrec").path
    return gguf, export_tiny(tiny_base, folder / "o.delrec", formats="onnx", onnx_quant="int8_block").path


def opened(path, name="auto"):
    with Recommender.load(path, 1, engine=name) as recommender:
        return type(recommender.engine).__name__


def test_auto_takes_the_first_that_reads_the_bundle_and_is_installed(bundle, single_format_bundles, monkeypatch):
    paths = (bundle.folder, *single_format_bundles)
    assert [opened(path) for path in paths] == ["LlamaEngine", "LlamaEngine", "OnnxEngine"]
    assert opened(bundle.folder, "onnxruntime") == "OnnxEngine"
    assert opened(bundle.folder, "decay") == "DecayEngine"
    with pytest.raises(BundleError, match="holds no GGUF file"):
        opened(single_format_bundles[1], "llama.cpp")
    with pytest.raises(UsageError, match="no engine 'tensor'") as unknown:
        opened(bundle.folder, "tensor")
    assert unknown.value.hint == "one of llama.cpp, onnxruntime, decay, llama.cpp without items"
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    assert [opened(path) for path in (bundle.folder, single_format_bundles[0])] == ["OnnxEngine", "DecayEngine"]
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match="onnxruntime, which is not installed") as error:
        opened(single_format_bundles[1])
    assert "delrec-lite[onnx]" in error.value.hint


def test_an_answer_is_the_same_whichever_built_in_engine_gives_it(bundle):
    request = {"history": [dataset().catalog.titles[3], "Purple Cactus"], "allow_new": True, "k": 5}
    answers = []
    for name in ENGINES.built_in:
        with Recommender.load(bundle.folder, 1, engine=name) as recommender:
            answers.append([item.id for item in recommender.recommend(**request).items])
    assert answers[0] == answers[1]


def test_a_name_that_is_built_in_cannot_be_registered():
    with pytest.raises(UsageError, match=r"'llama\.cpp' comes with delrec-lite"):
        register_engine(EngineKind("llama.cpp", "gguf", DecayEngine))
    register_engine(EngineKind("mine", "gguf", DecayEngine))
    kind = register_engine(EngineKind("mine", "onnx", DecayEngine))
    assert ENGINES["mine"] is kind
    ENGINES.unregister("mine")
    assert "mine" not in ENGINES


@pytest.fixture
def installed(tmp_path):
    """A folder with the metadata of a package that installs engines."""
    folder = tmp_path / "site" / "toy_engine-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-engine\nVersion: 1.0\n")
    names = "installed = toy_engine:KIND\nbroken = no_such_module:KIND\nwrong = tests.engines:DECAY\n"
    (folder / "entry_points.txt").write_text(f"[{GROUP}]\n{names}")
    (folder.parent / "toy_engine.py").write_text(
        "from dataclasses import replace\nfrom tests.engines import DECAY\nKIND = replace(DECAY, name='installed')\n"
    )
    yield folder.parent
    ENGINES.unregister("installed")


def test_the_engine_of_an_installed_package_serves_and_is_timed(installed, single_format_bundles):
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(installed)])}
    command = [sys.executable, "-m", "delrec_lite", "bench", str(single_format_bundles[0]), "--engine", "installed"]
    command += ["-w", "cold", "-r", "1", "--threads", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"][0]["peak_rss_bytes"] > 0


def test_a_package_without_its_engine_is_named(installed, bundle, monkeypatch):
    monkeypatch.syspath_prepend(str(installed))
    assert {"installed", "broken", "wrong"} <= set(ENGINES.names())
    with pytest.raises(UsageError, match="engine 'broken' of toy-engine cannot be loaded"):
        open_engine(bundle, "broken")
    with pytest.raises(UsageError, match="tests.engines:DECAY is not its record"):
        open_engine(bundle, "wrong")
    checks = {check.name: check for check in doctor.examine().checks}
    assert checks["engine broken"].state == "warning"
    assert checks["engine decay"].state == checks["engine llama.cpp"].state == "ok"
    assert opened(bundle.folder) == "LlamaEngine"


def test_doctor_says_how_an_engine_is_installed():
    register_engine(EngineKind("absent", "onnx", DecayEngine, "no-such-package", "pip install no-such-package"))
    check = next(check for check in doctor.examine().checks if check.name == "engine absent")
    ENGINES.unregister("absent")
    assert (check.state, check.fix) == ("missing", "pip install no-such-package")
