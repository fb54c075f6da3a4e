"""Every prompt format but the default, and tiny models whose prompts have one; the default has tests of its own."""

from delrec_lite.prompts.domain import DOMAINS
from delrec_lite.prompts.format import PromptFormat
from delrec_lite.prompts.tasks import compile_prompts
from tests.families import scramble
from tests.tiny import dataset, make_model

FORMATS = {
    "titles": PromptFormat(history="titles"),
    "title-mean, candidates": PromptFormat(history="titles", candidates=True),
    "letter, titles": PromptFormat(history="titles", verbalizer="letter", candidates=True),
    "letter, items": PromptFormat(verbalizer="letter", candidates=True),
    "likelihood": PromptFormat(history="titles", verbalizer="likelihood"),
    "likelihood, items, candidates": PromptFormat(verbalizer="likelihood", candidates=True),
}
CANDIDATES_ONLY = [name for name, prompt_format in FORMATS.items() if not prompt_format.ranks_catalogue]


def make_formatted(base_folder, prompt_format, soft=4):
    """The tiny model, its prompts in a format, and its base."""
    model, _, base = make_model(base_folder, soft)
    titles = dataset().catalog.titles
    prompts = compile_prompts(
        DOMAINS["movie"], model.vocabulary, base.encode, base.bos, prompt_format=prompt_format, titles=titles
    )
    return model, prompts, base


def make_scrambled(base_folder, prompt_format):
    """The same with adapter, soft prompt and offsets away from their first values, as after training."""
    model, prompts, base = make_formatted(base_folder, prompt_format)
    scramble(model)
    return model, prompts, base
