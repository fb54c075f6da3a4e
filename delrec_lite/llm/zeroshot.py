"""The LLM as it comes, asked in plain words: what the table's zero-shot row is made with."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from delrec_lite.console import Console
from delrec_lite.data.types import CandidateSets, Floats, Split
from delrec_lite.llm.items import title_vectors
from delrec_lite.llm.load import Base
from delrec_lite.llm.packing import Segment, pack
from delrec_lite.prompts.domain import Domain
from delrec_lite.prompts.tasks import TITLE_PREFIX, zero_shot_prompt


@torch.no_grad()
def zero_shot(
    base: Base,
    titles: Sequence[str],
    domain: Domain,
    split: Split,
    candidates: CandidateSets,
    length: int,
    console: Console,
) -> tuple[Floats, Floats]:
    """Scores of candidates and of the whole catalogue from the untouched LLM, one forward a user.

    Candidates: ``likelihood``, the log-probability of the title's tokens after the prompt. Catalogue:
    ``title-mean``, the last hidden state times the mean LM-head row of the title's tokens; a likelihood of 1,349
    titles a user would take hours.

    Args:
        base: The language model.
        titles: The catalogue's.
        domain: Its words.
        split: Whose histories are asked about.
        candidates: Of the same users.
        length: Titles of a history that the prompt holds, the newest.
        console: Shows the bar.

    Returns:
        float32 ``[users, m]`` and float32 ``[users, items]``.
    """
    body, head = base.model.model, base.model.get_output_embeddings().weight
    rows = title_vectors(head, titles, base.encode)
    encoded = [base.encode(TITLE_PREFIX + title) for title in titles]
    likelihoods, catalogue = [], []
    with console.progress("zero-shot", len(split)) as tick:
        for history, chosen in zip(split.histories, candidates.items, strict=True):
            words = zero_shot_prompt(domain, [titles[i] for i in history[-length:]])
            prefix = ([] if base.bos is None else [base.bos]) + base.encode(words)
            states = _states(body, prefix, [encoded[i] for i in chosen])
            catalogue.append((rows @ states[0][0].float()).numpy())
            likelihoods.append(_likelihoods(states, [encoded[i] for i in chosen], head))
            tick()
    return np.array(likelihoods, np.float32), np.array(catalogue, np.float32)


def _states(body: Any, prefix: list[int], titles: list[list[int]]) -> list[Any]:
    """Hidden states before each token of each title: the prefix's last, then the title's own but the last."""
    # A title of one token reads nothing behind the prefix; its state is the prefix's last alone.
    packed = pack(prefix, [Segment(ids, range(len(ids) - 1)) for ids in titles], sum(map(len, titles)))
    states = body(
        input_ids=torch.from_numpy(packed.ids),
        position_ids=torch.from_numpy(packed.positions),
        attention_mask=torch.from_numpy(packed.mask),
        use_cache=False,
    ).last_hidden_state[0]
    last = states[len(prefix) - 1 : len(prefix)]
    own = states[torch.from_numpy(packed.read)].split([len(ids) - 1 for ids in titles])
    return [torch.cat([last, one]) for one in own]


def _likelihoods(states: list[Any], titles: list[list[int]], head: Any) -> list[float]:
    """Sum of the log-probabilities of each title's tokens."""
    logits = (torch.cat(states) @ head.T).float()
    tokens = torch.tensor([token for ids in titles for token in ids])
    per_token = logits.gather(1, tokens.unsqueeze(1)).squeeze(1) - logits.logsumexp(1)
    return [float(part.sum()) for part in per_token.split([len(ids) for ids in titles])]
