"""The evaluated prompt in the cache: a second start reads it, and an invalid file never changes the answers."""

from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines import prompt_state
from delrec_lite.runtime.engines.llama_cpp import LlamaEngine
from tests.bundles import tiny_bundle
from tests.conftest import export_tiny
from tests.families import moved

HISTORIES = [[3, 1, 4], [1, 5, 9, 2, 6], [5]]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DELREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prompt_state, "MIN_BYTES", 1)
    return tmp_path / "cache" / "prompts"


@pytest.fixture
def start(monkeypatch):
    """Open a bundle; returns whether it evaluated the prompt, and scores and states in one vector."""
    real = llama_cpp.llama_decode

    def open_bundle(bundle):
        evaluated = []

        def spy(context, batch):
            places = range(batch.n_tokens)
            evaluated.extend(batch.token[n] for n in places if not batch.embd and batch.seq_id[n][0] == 0)
            return real(context, batch)

        monkeypatch.setattr(llama_cpp, "llama_decode", spy)
        engine = LlamaEngine(bundle, threads=1)
        try:
            answers = (
                engine.scores(HISTORIES),
                engine.score_session("session", HISTORIES[1])[0],
                engine.hidden_states(HISTORIES),
            )
        finally:
            engine.close()
        assert evaluated in ([], bundle.prompt.prefix)
        return bool(evaluated), np.concatenate([answer.ravel() for answer in answers])

    return open_bundle


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3"])
def test_a_second_start_reads_what_the_first_evaluated(tmp_path, start, kind):
    folder = export_tiny(None, tmp_path / "x.delrec", "f16", moved(tmp_path / "base", kind), score_correlation=0.5).path
    bundle = Bundle.open(folder)
    for path in (tmp_path / "cache").rglob("*.state"):
        path.unlink()
    first, second = start(bundle), start(bundle)
    assert (first[0], second[0]) == (True, False)
    np.testing.assert_array_equal(first[1], second[1])


def test_an_invalid_state_is_evaluated_again_and_replaced(tmp_path, start, cache):
    bundle, other = tiny_bundle(tmp_path).bundle, tiny_bundle(tmp_path, seed=1, name="other").bundle
    expected = start(bundle)[1]
    (path,) = cache.iterdir()
    start(other)
    (other_state,) = set(cache.iterdir()) - {path}
    content = path.read_bytes()
    half = len(content) // 2
    invalid = [b"", content[:20], content[:half], content + b"\0", content[32:], other_state.read_bytes()]
    for at in (0, 32, 40, half, len(content) - 1):
        invalid.append(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    for data in invalid:
        path.write_bytes(data)
        was_evaluated, answers = start(bundle)
        assert was_evaluated
        np.testing.assert_array_equal(answers, expected)
        assert path.read_bytes() == content


def test_a_state_that_llama_cpp_refuses_is_evaluated_again(tmp_path, start, cache, monkeypatch):
    """The hash is correct, so only llama.cpp notices the damage."""
    bundle = tiny_bundle(tmp_path).bundle
    expected = start(bundle)[1]
    (path,) = cache.iterdir()
    for corrupt in (lambda state: state[: len(state) // 2], lambda _: bytes(100)):
        with monkeypatch.context() as patch:
            patch.setattr(prompt_state.PromptState, "_digest", lambda self, state: bytes(32))
            path.write_bytes(bytes(32) + corrupt(path.read_bytes()[32:]))
            was_evaluated, answers = start(bundle)
        assert was_evaluated
        np.testing.assert_array_equal(answers, expected)


def test_another_prompt_or_build_has_another_state(tmp_path, start, cache, monkeypatch):
    import llama_cpp

    tiny = tiny_bundle(tmp_path)
    start(tiny.bundle)
    other = tiny_bundle(tmp_path, name="other", prefix=[*tiny.prefix[:-1], 20]).bundle
    assert start(other)[0]
    monkeypatch.setattr(llama_cpp, "__version__", "0.0.0")
    assert start(tiny.bundle)[0]
    assert len(list(cache.iterdir())) == 3


def test_a_cache_that_cannot_be_written_is_ignored(tmp_path, start, cache, monkeypatch, capfd):
    bundle = tiny_bundle(tmp_path).bundle
    (tmp_path / "cache").write_text("a file where the folder should be")
    first = start(bundle)
    (tmp_path / "cache").unlink()

    def full(self, data):
        raise OSError(28, "No space left on device", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        second = start(bundle)
    assert list(cache.iterdir()) == []
    third, fourth = start(bundle), start(bundle)
    assert [result[0] for result in (first, second, third, fourth)] == [True, True, True, False]
    for result in (second, third, fourth):
        np.testing.assert_array_equal(result[1], first[1])
    assert capfd.readouterr() == ("", "")


def test_the_cache_has_few_states_and_none_of_a_small_model(tmp_path, start, cache, monkeypatch):
    monkeypatch.setattr(prompt_state, "MAX_FILES", 2)
    bundles = [tiny_bundle(tmp_path, seed=n, name=f"b{n}").bundle for n in range(3)]
    assert [start(bundle)[0] for bundle in (*bundles, bundles[2], bundles[0])] == [True, True, True, False, True]
    assert len(list(cache.iterdir())) == 2
    monkeypatch.undo()
    monkeypatch.setenv("DELREC_CACHE", str(tmp_path / "other"))
    LlamaEngine(bundles[0], threads=1).close()
    assert not (tmp_path / "other").exists()
