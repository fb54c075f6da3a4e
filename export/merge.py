"""Merge the adapter into the base weights, in float32 so that nothing is lost before quantisation."""

from dataclasses import dataclass
from typing import Any

import torch

from delrec_lite.llm.model import ItemLM

# Far below any item's score (those of one request span about 30), and still exact in 8 bits.
NEVER = -200.0


@dataclass(frozen=True)
class Merged:
    """Weights ready to be written.

    Attributes:
        config: The base model's ``transformers`` configuration.
        tensors: Names as in Hugging Face's layout -> float32 tensors. Token embedding and LM head have the extended
            vocabulary: the head's item rows are the verbalizer's, so an item's logit is its score.
    """

    config: Any
    tensors: dict[str, Any]


@torch.no_grad()
def merge(model: ItemLM, usual_state: Any) -> Merged:
    """Fold the adapter into the LLM, and soft prompt and items into its vocabulary; ``model`` is used up.

    Args:
        model: As trained.
        usual_state: The mean hidden state of some requests, ``[hidden]``. Text and soft tokens get the head row that
            gives a logit of ``NEVER`` at this state, so that no runtime can answer with them.
    """
    lm = model.lm.float()
    if hasattr(lm, "merge_and_unload"):
        lm = lm.merge_and_unload()
    tensors = {name: t for name, t in lm.state_dict().items() if not name.endswith("rotary_emb.inv_freq")}
    tensors["model.embed_tokens.weight"] = torch.cat([tensors["model.embed_tokens.weight"], model.extension()])
    never = NEVER * usual_state / usual_state.square().sum()
    others = never.expand(model.vocabulary.item_base, -1)
    tensors["lm_head.weight"] = torch.cat([others, model.head()])
    return Merged(lm.config, tensors)
