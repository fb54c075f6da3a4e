"""The Modelfile of a bundle: how Ollama asks its GGUF file for the best item."""

from collections.abc import Mapping
from typing import Any

from delrec_lite.prompts.format import PromptFormat

FILE = "Modelfile"


def in_stock_runtimes(model: Mapping[str, Any], prompt_format: PromptFormat) -> bool:
    """Whether a runtime that knows nothing of this project ranks with the bundle's first model file.

    Args:
        model: As the manifest has it.
        prompt_format: Of the prompt.
    """
    ranks = bool(prompt_format.verbalizer_kind.ranking(prompt_format.candidates))
    return model["file"].endswith(".gguf") and ranks and model.get("soft_layers") != "all"


def modelfile(
    model: Mapping[str, Any], text: Mapping[str, Any], prompt_format: PromptFormat, context: int
) -> str | None:
    """The text of the file; None where Ollama cannot ask the model.

    Its template adds the fixed words, soft prompt included, before the titles. A prompt that lists candidates has words
    after them too, which a template cannot place.

    Args:
        model: As the manifest has it.
        text: The prompt in words, as ``prompt.json`` has it.
        prompt_format: Of the prompt.
        context: Most tokens of a prompt and the answer.
    """
    if not in_stock_runtimes(model, prompt_format) or prompt_format.candidates or '"""' in text["stock"]:
        return None
    # Braces in the words would be read as a template's own.
    words = text["stock"].replace("{{", '{{ "{{" }}')
    return f'''# For Ollama, which answers with the title of the best item: see README.md.
FROM ./{model["file"]}
TEMPLATE """{words}{{{{ .Prompt }}}}"""
PARAMETER num_ctx {context}
PARAMETER num_predict 1
PARAMETER temperature 0
# A title of the history may be the answer too.
PARAMETER repeat_penalty 1
'''
