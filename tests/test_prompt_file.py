"""The prompt.json of a bundle in each format of prompt, byte by byte: older bundles must stay readable."""

import json
import string
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from delrec_lite.export.prompt_file import write_prompt
from delrec_lite.export.stock import stock_text
from delrec_lite.prompts.domain import DOMAINS
from delrec_lite.prompts.format import PromptFormat
from delrec_lite.prompts.tasks import compile_prompts
from delrec_lite.prompts.vocabulary import Vocabulary
from delrec_lite.runtime.prompting.prompt import TITLES, parse_prompt, read_titles

PINNED = Path(__file__).parent / "data" / "prompt-files.json"
FORMATS = {
    "items": PromptFormat(),
    "items, candidates": PromptFormat(candidates=True),
    "titles": PromptFormat(history="titles"),
    "titles, short, bounded": PromptFormat(history="titles", title_tokens=3, context=200),
    "titles, candidates": PromptFormat(history="titles", candidates=True),
    "letter, items": PromptFormat(verbalizer="letter", candidates=True),
    "letter, titles": PromptFormat(history="titles", verbalizer="letter", candidates=True),
    "likelihood, items": PromptFormat(verbalizer="likelihood"),
    "likelihood, items, candidates": PromptFormat(verbalizer="likelihood", candidates=True),
    "likelihood, titles": PromptFormat(history="titles", verbalizer="likelihood"),
}
# Every character is a token, so that the file depends on no tokenizer's training.
CHARACTERS = ["<s>", *string.ascii_letters, *" .,:?()\n"]
CATALOGUE = ("Up", "Big Fish", "Heat")


def write(folder, prompt_format):
    """Write the prompt.json of a format; returns the prompts in it."""
    tokenizer = Tokenizer(models.BPE(vocab={c: n for n, c in enumerate(CHARACTERS)}, merges=[]))
    tokenizer.save(str(folder / "tokenizer.json"))
    vocabulary = Vocabulary(text=len(CHARACTERS), soft=2, items=len(CATALOGUE))

    def encode(text):
        return tokenizer.encode(text, add_special_tokens=False).ids

    prompts = compile_prompts(
        DOMAINS["movie"], vocabulary, encode, 0, prompt_format=prompt_format, titles=CATALOGUE
    ).served()
    words = stock_text(prompts, folder / "tokenizer.json", "<s>")
    write_prompt(folder, prompts, words, 20, 1.5, 0.25)
    return prompts


@pytest.mark.parametrize("name", FORMATS)
def test_the_file_of_each_format_is_unchanged(tmp_path, name):
    write(tmp_path, FORMATS[name])
    assert (tmp_path / "prompt.json").read_text(encoding="utf-8") == json.loads(PINNED.read_text())[name]
    assert (tmp_path / TITLES).is_file() == FORMATS[name].written


@pytest.mark.parametrize("name", FORMATS)
def test_serving_reads_the_prompts_that_were_written(tmp_path, name):
    prompts = write(tmp_path, FORMATS[name])
    prompt = parse_prompt(json.loads((tmp_path / "prompt.json").read_text(encoding="utf-8")))
    titles = read_titles(tmp_path, 3, len(CHARACTERS)) if FORMATS[name].written else ()
    served = prompt.compiled(3, titles)
    assert served.format == FORMATS[name]
    assert served.next_prefix == prompts.next_prefix
    assert served.history([2, 0]) == prompts.history([2, 0])
    assert served.question([5], [1, 2]) == prompts.question([5], [1, 2])
    assert [tuple(title) for title in served.titles] == list(prompts.titles)
