"""The README of a bundle (a model card) and its licence text."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from delrec_lite.export.modelfile import FILE as MODELFILE
from delrec_lite.export.modelfile import in_stock_runtimes
from delrec_lite.hub.card import card_fields
from delrec_lite.prompts.format import PromptFormat


def bundle_readme(
    name: str,
    model: Mapping[str, Any],
    licences: Mapping[str, str],
    titles: Sequence[str],
    provenance: Mapping[str, Any],
    parity: Mapping[str, float],
    text: Mapping[str, Any],
    prompt_format: PromptFormat,
    context: int,
) -> str:
    """A model card with front matter and examples for delrec-lite, llama.cpp and ONNX Runtime.

    Args:
        name: Of the run.
        model: As the manifest has it.
        licences: By name of model and data set.
        titles: Two titles of the catalogue, for the examples.
        provenance: As the manifest has it.
        parity: Comparison with the model in training precision.
        text: The prompt in words, as ``prompt.json`` has it.
        prompt_format: Of the prompt.
        context: Most tokens of a prompt and the answer.
    """
    kept_tokens, base_tokens = model["text_tokens"]["kept"], model["text_tokens"]["of"]
    fields = card_fields({"model": model, "provenance": provenance, "licences": licences})
    head = yaml.safe_dump({"base_model": model["base"], **fields}, sort_keys=False, allow_unicode=True)
    shown = ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in parity.items())
    data = provenance.get("stages", {}).get("prepare", {})
    trained = f"Trained on {data['users']} users, {data['items']} items, " if data else ""
    trained += f"{data['interactions']} interactions.\n" if data else ""
    first, second = (title.replace('"', "'") for title in titles)
    extra = "gguf" if model["file"].endswith(".gguf") else "onnx"
    types = ", ".join(f"{count} x {kind}" for kind, count in model["tensor_types"].items()) or "F16"
    runtimes = _llama_cpp(name, model, first, second, text, prompt_format, context) + _onnx(name, model)
    catalogue = "the whole\ncatalogue as item tokens" if prompt_format.item_tokens else "titles\nread as words"
    candidate_options, candidate_argument = "", ""
    if not prompt_format.ranks_catalogue:
        candidate_options = f' --candidates "{first}" --candidates "{second}"'
        candidate_argument = f', candidates=["{first}", "{second}"]'
    return f"""---
{head}---
# {name}

A sequential recommender: {model["base"]} with a distilled soft prompt, a fine-tuned adapter merged in and {catalogue}.
Model file: `{model["file"]}` ({types}); {kept_tokens} of the base's {base_tokens} text tokens are kept. {trained}
Against the model in training precision ({model["quant"]}): {shown}.

{_model_files(model)}## With delrec-lite

```bash
pip install "delrec-lite[{extra}]"
delrec-lite recommend {name}.delrec --history "{first}" --history "{second}"{candidate_options} -k 10
delrec-lite verify {name}.delrec
```

```python
from delrec_lite.runtime.recommender import Recommender

with Recommender.load("{name}.delrec") as recommender:
    print(recommender.recommend(history=["{first}", "{second}"]{candidate_argument}, k=10).items)
```

{runtimes}`manifest.json` holds the hash of every file, the recipe and
the figures of the comparison with the trained model.

## Licences

{licences_text(licences)}"""


def _model_files(model: Mapping[str, Any]) -> str:
    """The table of several model files; empty for one."""
    onnx = [model["onnx"]] if "onnx" in model else []
    more = [entry for entry in [*onnx, *model.get("others", [])] if entry["file"] != model["file"]]
    if not more:
        return ""
    rows = [
        f"| `{entry['file']}` | {entry['quant']} | {entry['parity']['score_correlation']:.4f} "
        f"| {entry['parity']['top10_overlap']:.1%} |"
        for entry in (model, *more)
    ]
    return "\n".join(
        [
            "## Model files\n",
            "The first is the default; choose another with `--quant NAME`.\n",
            "| file | quantisation | correlation of scores with training precision | first ten the same |",
            "|---|---|---:|---:|",
            *rows,
            "\n",
        ]
    )


def _llama_cpp(
    name: str,
    model: Mapping[str, Any],
    first: str,
    second: str,
    text: Mapping[str, Any],
    prompt_format: PromptFormat,
    context: int,
) -> str:
    kind = prompt_format.verbalizer_kind
    ranking = kind.ranking(prompt_format.candidates)
    if not in_stock_runtimes(model, prompt_format):
        if not model["file"].endswith(".gguf") or not ranking:
            return ""
        return """## In other llama.cpp runtimes

The GGUF file loads there, but they do not read `deep-prompt.npy`, the vectors that the soft prompt adds between the
layers (llama.cpp's control vectors, one set for each soft token), and rank worse without it.

"""
    before, after = text["item"]
    listed = " + ".join(f'"{before}{title}{after}"'.replace("\n", "\\n") for title in (first, second))
    prompt_code = f"""words = json.load(open(folder + "prompt.json", encoding="utf-8"))["text"]["stock"]
prompt = words + {listed}"""
    if prompt_format.candidates:
        labelled = "titles"
        if kind.labels:
            label = kind.labels.removesuffix("s")
            labelled = f'{label} + "." + title for {label}, title in zip(text["{kind.labels}"], titles)'
        prompt_code = f"""text = json.load(open(folder + "prompt.json", encoding="utf-8"))["text"]
titles = [{listed.replace(" + ", ", ")}]
prompt = text["stock"] + titles[0] + text["listed"] + "".join({labelled}) + text["answer"]"""
    return f"""## In any llama.cpp runtime

{ranking} The fixed words before the titles, soft prompt included, are in `prompt.json`;
{prompt_format.history_format.explained}.

```python
import json
from llama_cpp import Llama

folder = "{name}.delrec/"
{prompt_code}
model = Llama(folder + "{model["file"]}", n_ctx={context}, logits_all=True, verbose=False)
answer = model.create_completion(prompt, max_tokens=1, logprobs=10)
for title, logprob in answer["choices"][0]["logprobs"]["top_logprobs"][0].items():
    print(f"{{logprob:8.3f}}  {{title}}")
```

A server does the same: `python -m llama_cpp.server --model {model["file"]} --logits_all true`, then a completion
request with `max_tokens` 1 and `logprobs` 10. In a chat the template adds the fixed words; the message is
the titles, oldest first, one per line. llama.cpp's own server takes the same prompt:
`llama-server --model {model["file"]} --ctx-size {context}`, then `POST /completion` with `prompt`, `"n_predict": 1`,
`"n_probs": 10` and `"temperature": 0`; `completion_probabilities[0].top_logprobs` is the ranking.

""" + ("" if prompt_format.candidates else _ollama(name, f"{before}{first}{after}{before}{second}{after}"))


def _ollama(name: str, titles: str) -> str:
    quoted = titles.replace("\\", r"\\").replace("'", r"\'").replace("\n", r"\n")
    return f"""## In Ollama

```bash
ollama create {name} -f {MODELFILE}
ollama run {name} $'{quoted}'
```

The answer is the title of the best item, and no more: for a ranking ask its API with `logprobs` and `top_logprobs`
(20 at most; since November 2025). Ollama knows neither ids nor exclusions nor new items. It was not tried there.

"""


def _onnx(name: str, model: Mapping[str, Any]) -> str:
    if "onnx" not in model:
        return ""
    entry = model["onnx"]
    return f"""## In plain ONNX Runtime

`{entry["file"]}` ({entry["quant"]}, opset {entry["opset"]}) takes the indices of a history's items and gives the scores
of all items; the prompt is a constant inside. Several histories are padded at their ends with -1.

```python
import json
import numpy as np
import onnxruntime

folder = "{name}.delrec/"
titles = json.load(open(folder + "catalog.json", encoding="utf-8"))["titles"]
session = onnxruntime.InferenceSession(folder + "{entry["file"]}")
items = np.array([[0, 1]])
scores = session.run(["scores"], {{"items": items}})[0][0]
for item in np.argsort(-scores)[:10]:
    print(f"{{scores[item]:8.3f}}  {{titles[item]}}")
```

"""


def licences_text(licences: Mapping[str, str]) -> str:
    """One line for the base model and one for the data."""
    return "".join(f"- {name}: {licence}\n" for name, licence in licences.items())
