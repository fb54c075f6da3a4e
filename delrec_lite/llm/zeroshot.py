"""Scores of the untrained LLM for the zero-shot row of the table."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from delrec_lite.console import Console
from delrec_lite.data.types import CandidateSets, Floats, Split
from delrec_lite.llm.items import title_vectors
from delrec_lite.llm.load import Base
from delrec_lite.llm.packing import Packed
from delrec_lite.llm.parallel import map_in_threads
from delrec_lite.llm.verbalizers.likelihood import log_likelihoods, title_states
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
    """Scores of candidates and of the whole catalogue from the untrained LLM, one forward pass per user.

    Candidates: ``likelihood``, the log-probability of the title's tokens after the prompt. Catalogue:
    ``title-mean``, the last hidden state times the mean LM-head row of the title's tokens; likelihoods of
    1,349 titles per user would take hours.

    Args:
        base: The language model.
        titles: Titles of the catalogue.
        domain: Words of the domain.
        split: The histories.
        candidates: Candidates of the same users.
        length: Maximum titles of a history in the prompt, the newest.
        console: Shows the progress bar.

    Returns:
        float32 ``[users, m]`` and float32 ``[users, items]``.
    """
    body, head = base.model.model, base.model.get_output_embeddings().weight
    rows = title_vectors(head, titles, base.encode)
    encoded = [base.encode(TITLE_PREFIX + title) for title in titles]

    def forward(packed: Packed) -> Any:
        states = body(
            input_ids=torch.from_numpy(packed.ids).to(head.device),
            position_ids=torch.from_numpy(packed.positions).to(head.device),
            attention_mask=torch.from_numpy(packed.mask).to(head.device),
            use_cache=False,
        ).last_hidden_state
        return states.flatten(0, 1)[torch.from_numpy(packed.read).to(head.device)]

    def scores_of(user: int) -> tuple[Floats, Floats]:
        chosen = candidates.items[user]
        words = zero_shot_prompt(domain, [titles[i] for i in split.histories[user][-length:]])
        prefix = ([] if base.bos is None else [base.bos]) + base.encode(words)
        states = title_states(forward, prefix, [encoded[i] for i in chosen])
        likelihoods = log_likelihoods(states, [encoded[i] for i in chosen], head).cpu().numpy()
        return likelihoods, (rows @ states[0][0].float()).cpu().numpy()

    users = range(len(split))
    with console.progress("zero-shot", len(users)) as tick:
        answers = []
        for answer in map_in_threads(scores_of, users):
            answers.append(answer)
            tick()
    sampled, full = zip(*answers, strict=True)
    return np.array(sampled, np.float32), np.array(full, np.float32)
