"""likelihood in training: the log-probability of the candidate's title after the prompt."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from delrec_lite.llm.forward import read_packed
from delrec_lite.llm.model import ItemLM
from delrec_lite.llm.packing import Packed, Segment, pack
from delrec_lite.llm.verbalizer import Question, Tokens, Verbalizer
from delrec_lite.prompts.tasks import Prompts

# Rows of logits computed at a time: each has 49,152 floats, and those of a whole question would exceed the CPU cache.
LOGITS_ROWS = 64


class Likelihood(Verbalizer):
    """The log-probability of the candidate's title after the prompt; one forward pass per question."""

    def scores(self, model: ItemLM, prompts: Prompts, prefix: Tokens, questions: Sequence[Question]) -> Any:
        """See ``Verbalizer.scores``."""

        def forward(packed: Packed) -> Any:
            return read_packed(model, packed)

        out = []
        for question in questions:
            titles = [prompts.titles[i] for i in question.candidates]
            states = title_states(forward, [*prefix, *question.ids], titles)
            out.append(log_likelihoods(states, titles, model.text_head))
        return torch.stack(out)

    def head_rows(self, model: ItemLM, prompts: Prompts) -> tuple[Tokens, Any]:
        """See ``Verbalizer.head_rows``."""
        return range(model.vocabulary.text), model.text_head.float()


def title_states(forward: Callable[[Packed], Any], prefix: Tokens, titles: Sequence[Tokens]) -> list[Any]:
    """Hidden states before each token of each title: the prompt's last, then all of the title but its last.

    Args:
        forward: Hidden states at the read positions: ``[reads, hidden]``.
        prefix: Token ids of the whole prompt.
        titles: Token ids of each title.
    """
    # The state after a title's last token is not needed; a title of one token needs the prompt's last state alone.
    segments = [Segment(ids[:-1], range(len(ids) - 1)) for ids in titles if len(ids) > 1]
    packed = pack(prefix, segments or [Segment(titles[0], [])], sum(map(len, titles)))
    read = np.concatenate([[len(prefix) - 1], packed.read])
    last, title_parts = forward(Packed(packed.ids, packed.positions, packed.mask, read)).split([1, len(packed.read)])
    return [torch.cat([last, part]) for part in title_parts.split([len(ids) - 1 for ids in titles])]


def log_likelihoods(states: Sequence[Any], titles: Sequence[Tokens], head: Any) -> Any:
    """Sums of the log-probabilities of each title's tokens: float32 ``[titles]``; ``states`` by ``title_states``."""
    tokens = torch.tensor([token for ids in titles for token in ids], device=head.device)
    read = torch.cat(list(states)).to(head.dtype)
    parts = []
    for rows, targets in zip(read.split(LOGITS_ROWS), tokens.split(LOGITS_ROWS), strict=True):
        logits = (rows @ head.T).float()
        parts.append(logits.gather(1, targets.unsqueeze(1)).squeeze(1) - logits.logsumexp(1))
    per_token = torch.cat(parts)
    return torch.stack([part.sum() for part in per_token.split([len(ids) for ids in titles])])
