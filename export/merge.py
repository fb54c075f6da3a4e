"""Merge the adapter into the base weights, in float32 to avoid a rounding error before quantisation."""

from dataclasses import dataclass
from typing import Any

import torch

from delrec_lite.llm.model import ItemLM
from delrec_lite.llm.precision import merged
from delrec_lite.llm.verbalizer import verbalizer_of
from delrec_lite.prompts.tasks import Prompts

# Far below any item's score (the scores of a request span about 30), and still exact in 8 bits.
NEVER = -200.0


@dataclass(frozen=True)
class Merged:
    """Weights ready to be written.

    Attributes:
        config: The base model's ``transformers`` configuration.
        tensors: Names as in Hugging Face's layout -> float32 tensors. Token embedding and LM head have the extended
            vocabulary: the head's item rows are the verbalizer's, so an item's logit is its score. Items have no rows
            if the prompt format has no item tokens.
    """

    config: Any
    tensors: dict[str, Any]


@torch.no_grad()
def merge(model: ItemLM, states: Any, prompts: Prompts, plain: Any | None = None) -> Merged:
    """Merge the adapter into the LLM, and soft prompt and items into its vocabulary; ``model`` is unusable afterwards.

    Args:
        model: As trained.
        states: Hidden states of many requests, ``[n, hidden]``. Tokens that are no answer get the head row whose logit
            is nearest to ``NEVER`` at these states, so that no runtime answers with them.
        prompts: Their verbalizer decides which tokens are answers.
        plain: Base weights to merge onto, instead of the model's; cannot be used afterwards.
    """
    vocabulary = model.vocabulary
    head = never_row(states.cpu()).repeat(len(vocabulary), 1)
    ids, rows = verbalizer_of(prompts).head_rows(model, prompts)
    head[list(ids)] = rows.cpu()
    lm = merged(model.lm, plain)
    tensors = {name: t for name, t in lm.state_dict().items() if not name.endswith("rotary_emb.inv_freq")}
    embedding = torch.cat([tensors["model.embed_tokens.weight"], model.extension().cpu()])
    rows_written = len(vocabulary) if prompts.format.item_tokens else vocabulary.item_base
    tensors |= {"model.embed_tokens.weight": embedding[:rows_written], "lm_head.weight": head[:rows_written]}
    return Merged(lm.config, tensors)


def never_row(states: Any) -> Any:
    """The head row with a logit of about ``NEVER`` at every state: least squares with a small ridge.

    Args:
        states: float32 ``[n, hidden]``.
    """
    square = states.T @ states / len(states)
    ridge = 1e-3 * square.diagonal().mean() * torch.eye(len(square))
    return torch.linalg.solve(square + ridge, NEVER * states.mean(0))
