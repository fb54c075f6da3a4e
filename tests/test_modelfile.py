"""A bundle's Modelfile: the prompt that Ollama would send has the trained token ids."""

import json
import re
import subprocess

import pytest

from delrec_lite.export.modelfile import modelfile
from delrec_lite.prompts.format import PromptFormat
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines.llama_context import import_llama_cpp
from tests.conftest import export_tiny
from tests.formats import make_scrambled
from tests.tiny import candidates


def export_form(tiny_base, target, prompt_format, **changed):
    model = make_scrambled(tiny_base, prompt_format)
    sets = {split: candidates(split) for split in ("valid", "test")}
    return export_tiny(tiny_base, target, model=model, prune_vocab=True, candidates=sets, **changed).path


def instructions(text):
    """A Modelfile's instructions by name, parameters by theirs."""
    found = re.findall(r'^(?!#)(\w+ ?\w*?) ("""(?:.|\n)*?"""|\S+)$', text, re.MULTILINE)
    return {name.removeprefix("PARAMETER "): value.strip('"') for name, value in found}


@pytest.mark.parametrize("history", ["items", "titles"])
def test_the_prompt_of_the_template_becomes_the_trained_ids(tiny_base, tmp_path, history):
    import_llama_cpp()
    from llama_cpp import Llama

    folder = export_form(tiny_base, tmp_path / "x.delrec", PromptFormat(history=history))
    bundle = Bundle.open(folder)
    said = instructions((folder / "Modelfile").read_text(encoding="utf-8"))
    assert said["FROM"] == f"./{bundle.model_path.name}"
    assert (said["temperature"], said["num_predict"], said["repeat_penalty"]) == ("0", "1", "1")
    assert "Modelfile" in bundle.manifest["files"]
    readme = (folder / "README.md").read_text(encoding="utf-8")
    quoted = re.search(r"^ollama run \S+ (.*)$", readme, re.MULTILINE)[1]
    titles = subprocess.run(["bash", "-c", f"printf %s {quoted}"], capture_output=True, text=True, check=True).stdout
    prompt = said["TEMPLATE"].replace("{{ .Prompt }}", titles)
    before, after = json.loads((folder / "prompt.json").read_text())["text"]["item"]
    first, second = (bundle.items.titles.index(title) for title in re.findall(r'--history "(.*?)"', readme)[:2])
    names = bundle.items.titles
    assert titles == f"{before}{names[first]}{after}{before}{names[second]}{after}"
    model = Llama(str(bundle.model_path), vocab_only=True, verbose=False)
    ids = model.tokenize(prompt.encode(), add_bos=False, special=True)
    assert ids == [*bundle.prompt.prefix, *bundle.prompts.items([first, second])]
    longest = max(len(bundle.prompts.items([item])) for item in range(len(names)))
    assert int(said["num_ctx"]) > len(bundle.prompt.prefix) + bundle.prompt.max_history * longest - 1


def test_a_bundle_that_ollama_cannot_ask_has_none(tiny_base, tmp_path):
    listed = PromptFormat(history="titles", verbalizer="letter", candidates=True)
    assert not (export_form(tiny_base, tmp_path / "listed.delrec", listed) / "Modelfile").exists()
    onnx = export_tiny(tiny_base, tmp_path / "onnx.delrec", formats="onnx").path
    assert not (onnx / "Modelfile").exists()
    assert "ollama" not in (onnx / "README.md").read_text().lower()


def test_words_with_braces_are_not_a_template():
    text = modelfile({"file": "m.gguf"}, {"stock": "a {{b}} c"}, PromptFormat(), 256)
    assert instructions(text)["TEMPLATE"] == 'a {{ "{{" }}b}} c{{ .Prompt }}'
    assert modelfile({"file": "m.gguf"}, {"stock": 'a """ c'}, PromptFormat(), 256) is None
    assert modelfile({"file": "m.gguf", "soft_layers": "all"}, {"stock": "a"}, PromptFormat(), 256) is None
