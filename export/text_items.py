"""New items of a model with item text: their vectors by the same maps as those of the trained ones, without offset."""

from typing import Any

import torch

from delrec_lite.llm.model import ItemLM
from delrec_lite.llm.ridge import ridge

# Of the regression of a title's LM-head rows on its token rows, where the base has both.
HEAD_RIDGE = 0.03


@torch.no_grad()
def text_item_maps(model: ItemLM, titles: Any) -> Any:
    """The maps from a text's mean token row to what it adds to the vectors of its item.

    An item's input vector is its title's mean token row, scaled to a token's length, plus the first map of its text's
    mean token row; its output vector is the title's mean row times the verbalizer's scale, plus the second. For items
    of the catalogue these are the trained vectors without offsets, where the features are those of token rows.

    Args:
        model: As trained, with item text.
        titles: Mean token rows of the catalogue's titles, float32 ``[items, hidden]``.

    Returns:
        float32 ``[2, hidden + 1, hidden]``: matrices, and their shifts as the last rows.
    """
    assert model.text is not None
    from_rows, scale = model.text.from_rows.to(model.text_in.device), model.log_scale.exp()
    out = from_rows @ model.text_out
    untied = model.titles_out - titles
    if untied.abs().max() > 0:  # the base's LM head has rows of its own, which no bundle holds
        matrix, shift = ridge(titles, untied, HEAD_RIDGE)
        out += torch.cat([matrix, shift[None]])
    return torch.stack([from_rows @ model.text_in, scale * out])


@torch.no_grad()
def new_rows(model: ItemLM, titles: Any, texts: Any, maps: Any) -> tuple[Any, Any]:
    """Input and output vectors of new items, as the runtime computes them: float32 ``[n, hidden]`` each.

    Args:
        model: As trained.
        titles: Mean token rows of their titles, float32 ``[n, hidden]``.
        texts: Mean token rows of their titles with side text, same shape.
        maps: See `text_item_maps`.
    """
    inputs = titles * (model.input_norm / titles.norm(dim=1, keepdim=True))
    outputs = model.log_scale.exp() * titles
    first, second = (v + texts @ m[:-1] + m[-1] for v, m in zip((inputs, outputs), maps, strict=True))
    return first, second
