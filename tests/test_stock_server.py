"""Any stock llama.cpp server is a recommender: the same first ten as our runtime, without any code of this project."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import numpy as np
import pytest

from delrec_lite.export.texts import token_texts
from delrec_lite.prompts.format import PromptFormat
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines.llama_context import import_llama_cpp
from delrec_lite.runtime.recommender import Recommender
from tests.conftest import export_tiny
from tests.formats import make_scrambled
from tests.tiny import candidates, dataset

# The server's process refuses to import anything of this project.
STOCK = """
import sys, runpy
class Refuse:
    def find_spec(self, name, *rest):
        if name.partition(".")[0] == "delrec_lite":
            raise ImportError("the stock server has no delrec_lite")
sys.meta_path.insert(0, Refuse())
runpy.run_module("llama_cpp.server", run_name="__main__")
"""


def export_form(tiny_base, target, prompt_format):
    model, prompts, base = make_scrambled(tiny_base, prompt_format)
    sets = {split: candidates(split) for split in ("valid", "test")}
    return export_tiny(tiny_base, target, "f16", (model, prompts, base), prune_vocab=True, candidates=sets).path


@pytest.fixture(scope="module")
def bundle(tiny_base, tmp_path_factory):
    return export_form(tiny_base, tmp_path_factory.mktemp("stock") / "x.delrec", PromptFormat())


@pytest.fixture(scope="module")
def title_bundle(tiny_base, tmp_path_factory):
    return export_form(tiny_base, tmp_path_factory.mktemp("stock") / "titles.delrec", PromptFormat(history="titles"))


@contextmanager
def serving(bundle, folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--model", str(bundle / "model-f16.gguf"), "--port", str(port), "--logits_all", "true"]
    options += ["--n_ctx", "256", "--n_threads", "1", "--n_threads_batch", "1", "--verbose", "false"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-c", STOCK, *options], cwd=folder, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            try:
                urllib.request.urlopen(f"{address}/v1/models", timeout=5).read()
                break
            except OSError:
                time.sleep(0.25)
        yield address
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(bundle, tmp_path_factory):
    with serving(bundle, tmp_path_factory.mktemp("elsewhere")) as address:
        yield address


@pytest.fixture(scope="module")
def title_server(title_bundle, tmp_path_factory):
    with serving(title_bundle, tmp_path_factory.mktemp("elsewhere")) as address:
        yield address


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.loads(urllib.request.urlopen(request, timeout=60).read())["choices"][0]


def histories():
    """Fifty users' histories, of every length the prompt holds."""
    all_lengths = [h[-n:] for n in (10, 4, 1) for h in dataset().test().histories]
    return [h.tolist() for h in all_lengths[:50]]


# Both runtimes compute in F16, in batches of other shapes; scores of one request span about 10.
TIE = 0.02


def check_ranking(bundle, server):
    """The same first ten for every history, except for ties, and the first of them as the answer."""
    text = json.loads((bundle / "prompt.json").read_text())["text"]
    before, after = text["item"]
    titles = dataset().catalog.titles
    with Recommender.load(bundle, threads=1) as recommender:
        expected = recommender.scores(histories())
    for history, scores in zip(histories(), expected, strict=True):
        listed = "".join(before + titles[i] + after for i in history)
        request = {"prompt": text["stock"] + listed, "max_tokens": 1, "logprobs": 10}
        answer = post(f"{server}/v1/completions", {**request, "temperature": 0.0})
        ranked = sorted(answer["logprobs"]["top_logprobs"][0].items(), key=lambda pair: -pair[1])
        runtime_scores = np.array([scores[titles.index(title)] for title, _ in ranked[:10]])
        np.testing.assert_allclose(runtime_scores, -np.sort(-scores)[:10], atol=TIE)
        assert scores[titles.index(answer["text"])] > scores.max() - TIE


def check_chat(bundle, server):
    titles = dataset().catalog.titles
    history = histories()[0]
    with Recommender.load(bundle, threads=1) as recommender:
        best = titles[recommender.scores([history])[0].argmax()]
    message = {"role": "user", "content": "\n".join(titles[i] for i in history)}
    answer = post(f"{server}/v1/chat/completions", {"messages": [message], "max_tokens": 1, "temperature": 0.0})
    assert answer["message"]["content"] == best


def test_the_stock_server_ranks_as_our_runtime_does(bundle, server):
    check_ranking(bundle, server)


def test_the_stock_server_reads_titles_by_their_words(title_bundle, title_server):
    check_ranking(title_bundle, title_server)


def test_the_chat_template_adds_the_soft_prompt(bundle, server):
    check_chat(bundle, server)


def test_the_chat_template_writes_titles_as_trained(title_bundle, title_server):
    check_chat(title_bundle, title_server)


LISTED = {
    "letter": PromptFormat(history="titles", verbalizer="letter", candidates=True),
    "title": PromptFormat(history="titles", candidates=True),
}


@pytest.mark.parametrize("answer", LISTED)
def test_the_stock_server_answers_with_a_candidate(tiny_base, tmp_path, answer):
    """Its letter, or its title's token: the one that our runtime ranks first. The grammar allows no other token."""
    bundle = export_form(tiny_base, tmp_path / "x.delrec", LISTED[answer])
    text = json.loads((bundle / "prompt.json").read_text())["text"]
    before, after = text["item"]
    titles, sets = dataset().catalog.titles, candidates().items
    requests = [(history, sets[n % len(sets)]) for n, history in enumerate(histories())]
    with Recommender.load(bundle, threads=1) as recommender:
        expected = [recommender.score_candidates([history], chosen[None])[0] for history, chosen in requests]
    with serving(bundle, tmp_path) as address:
        for (history, chosen), scores in zip(requests, expected, strict=True):
            names = text["letters"] if answer == "letter" else [titles[i] for i in chosen]
            named = [f"{letter}." for letter in names] if answer == "letter" else [""] * len(chosen)
            listed = "".join(name + before + titles[i] + after for name, i in zip(named, chosen, strict=False))
            listed_history = "".join(before + titles[i] + after for i in history)
            names = names[: len(chosen)]
            body = {
                "prompt": text["stock"] + listed_history + text["listed"] + listed + text["answer"],
                "temperature": 0.0,
            }
            body["grammar"] = "root ::= " + " | ".join(json.dumps(name) for name in names)
            token = post(f"{address}/v1/completions", {**body, "max_tokens": 1})["text"]
            assert token in names
            assert scores[names.index(token)] > scores.max() - TIE


def test_titles_in_a_prompt_become_the_trained_ids(title_bundle):
    import_llama_cpp()
    from llama_cpp import Llama

    bundle = Bundle.open(title_bundle)
    model = Llama(str(bundle.model_path), vocab_only=True, verbose=False)
    text = json.loads((title_bundle / "prompt.json").read_text())["text"]
    words = text["stock"] + "".join(f" {title}\n" for title in bundle.items.titles)
    expected_tokens = [*bundle.prompt.prefix, *bundle.prompts.items(range(len(bundle.items.titles)))]
    assert model.tokenize(words.encode(), add_bos=False, special=True) == expected_tokens


def test_the_words_of_the_prompt_become_the_trained_ids(bundle):
    c = import_llama_cpp()
    from llama_cpp import Llama

    opened = Bundle.open(bundle)
    text = json.loads((bundle / "prompt.json").read_text())["text"]["stock"]
    model = Llama(str(opened.model_path), vocab_only=True, verbose=False)
    assert c
    ids = model.tokenize((text + "Red River (1950)Blue Garden (1954)").encode(), add_bos=False, special=True)
    titles = opened.items.titles
    items = [opened.prompt.item_token_base + titles.index(t) for t in ("Red River (1950)", "Blue Garden (1954)")
             if t in titles]  # fmt: skip
    assert ids[: len(opened.prompt.prefix)] == opened.prompt.prefix
    assert ids[len(opened.prompt.prefix) :][: len(items)] == items


def test_titles_that_equal_prompt_words_or_special_tokens_are_changed():
    texts = token_texts(["next", "<|im_start|>", "Alien", "Alien"], ["1", "2", "3", "4"], {"Alien"}, "What is next?")
    assert texts == ["next [1]", "< |im_start|>", "Alien [3]", "Alien [4]"]
