"""Models of an update that begin from trained weights; vectors of new items begin from the items' text."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from delrec_lite.data.types import Dataset
from delrec_lite.errors import ConfigError
from delrec_lite.export.new_items import fit_new_items
from delrec_lite.export.states import training_states
from delrec_lite.llm.item_text import ItemText
from delrec_lite.llm.items import title_vectors
from delrec_lite.llm.load import Base
from delrec_lite.llm.ridge import ridge
from delrec_lite.pipeline.model_builder import BuiltModel
from delrec_lite.teacher_kinds.registry import TEACHERS
from delrec_lite.teachers.contract import Network, Teacher
from delrec_lite.training.adapters import ADAPTER, BODY, ITEMS

# Of the regression of a teacher's item vectors on the vectors of the items' text.
TEACHER_RIDGE = 0.1


@torch.no_grad()
def longer_text(text: ItemText, base: Base, texts: list[str]) -> ItemText:
    """Text features with those of new items, by the map that the trained ones have; these do not change."""
    if not texts:
        return text
    rows = title_vectors(base.model.get_input_embeddings().weight, texts, base.encode).cpu()
    return ItemText(torch.cat([text.features, text.of_rows(rows)]), text.from_rows)


@torch.no_grad()
def longer_network(teacher: Teacher, texts: Any, trained: Any) -> Network:
    """A teacher's network with vectors for new items, predicted from the vectors of their text.

    Args:
        teacher: Of a smaller catalogue.
        texts: Vectors of the text of all items, float32 ``[items, d]``.
        trained: Which of the old items the teacher was trained on, bool ``[old items]``.

    Raises:
        ConfigError: The kind has weights for each item that are no matrix of items.
    """
    count = len(texts)
    with torch.random.fork_rng(devices=[]):
        network: Network = TEACHERS[teacher.config.kind].build(teacher.config, count)
    state = {}
    for name, fresh in network.state_dict().items():
        weights = teacher.network.state_dict()[name]
        if weights.shape == fresh.shape:
            state[name] = weights
        elif weights.shape[:1] == (teacher.items,) and fresh.shape == (count, *weights.shape[1:]):
            state[name] = torch.cat([weights, _of_new(weights, texts, trained)])
        else:
            raise ConfigError(
                f"teacher {teacher.config.kind!r} cannot take new items: {name} is {list(weights.shape)}",
                "train again: `delrec-lite train RECIPE --fresh`",
            )
    network.load_state_dict(state)
    return network


def _of_new(weights: Any, texts: Any, trained: Any) -> Any:
    """Rows of new items: predicted where rows are vectors, else the mean."""
    new = len(texts) - len(weights)
    if weights.dim() != 2 or trained.sum() < 2:
        return weights[trained].mean(0, keepdim=True).expand(new, *weights.shape[1:])
    matrix, shift = ridge(texts[: len(weights)][trained], weights[trained], TEACHER_RIDGE)
    return texts[len(weights) :] @ matrix + shift


@dataclass(frozen=True)
class Trained:
    """Where a trained model's files are.

    Attributes:
        finetuned: Folder of stage 2.
        items: Size of its catalogue.
    """

    finetuned: Path
    items: int


def go_on(built: BuiltModel, trained: Trained, dataset: Dataset) -> None:
    """Load the weights of stage 2 into a model with a larger catalogue, to be trained further.

    Args:
        built: Untrained, with the soft prompt of stage 1.
        trained: Of the old items.
        dataset: Extended; some of its sequences show how items are scored.
    """
    model = built.model
    if (trained.finetuned / BODY).is_file():
        for name, tensor in load_file(trained.finetuned / BODY).items():
            p = model.lm.get_parameter(name)
            p.data = tensor.to(p.device)
    else:
        from peft import PeftModel

        model.lm = PeftModel.from_pretrained(model.lm, str(trained.finetuned / ADAPTER), is_trainable=True)
    vectors = load_file(trained.finetuned / ITEMS)
    with torch.no_grad():
        for name, tensor in vectors.items():
            p = getattr(model, name)
            if p.shape == tensor.shape:
                p.copy_(tensor)
                continue
            p.zero_()  # a new item begins from its text alone
            p[: trained.items] = tensor
    if "offset_out" in vectors and len(model.offset_out) > trained.items and model.text is None:
        _score_by_title(built, trained, vectors, dataset)


@torch.no_grad()
def _score_by_title(built: BuiltModel, trained: Trained, vectors: Mapping[str, Any], dataset: Dataset) -> None:
    """Give new items the rows that ``catalog add`` would give them: predicted from their titles."""
    model, old = built.model, trained.items
    model.eval()
    rows = model.body.embed_tokens.weight[: model.vocabulary.text]
    titles = title_vectors(rows, dataset.catalog.titles, built.base.encode)
    states = training_states(model, built.prompts, dataset)
    fitted = fit_new_items(titles[:old], model.head()[:old], states)
    predicted = (titles[old:] @ fitted[:-1] + fitted[-1]) / model.log_scale.exp()
    model.offset_out[old:] = predicted - model.titles_out[old:]
