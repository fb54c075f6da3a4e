"""The LLM as it comes, asked in plain words: what the table's zero-shot row is made with."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from delrec_lite.console import Console
from delrec_lite.data.types import CandidateSets, Floats, Split
from delrec_lite.llm.items import title_vectors
from delrec_lite.llm.load import Base
from delrec_lite.llm.packing import Packed
from delrec_lite.llm.parallel import side_by_side
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

    def forward(packed: Packed) -> Any:
        states = body(
            input_ids=torch.from_numpy(packed.ids).to(head.device),
            position_ids=torch.from_numpy(packed.positions).to(head.device),
            attention_mask=torch.from_numpy(packed.mask).to(head.device),
            use_cache=False,
        ).last_hidden_state
        return states.flatten(0, 1)[torch.from_numpy(packed.read).to(head.device)]

    def asked(user: int) -> tuple[Floats, Floats]:
        chosen = candidates.items[user]
        words = zero_shot_prompt(domain, [titles[i] for i in split.histories[user][-length:]])
        prefix = ([] if base.bos is None else [base.bos]) + base.encode(words)
        states = title_states(forward, prefix, [encoded[i] for i in chosen])
        likelihoods = log_likelihoods(states, [encoded[i] for i in chosen], head).cpu().numpy()
        return likelihoods, (rows @ states[0][0].float()).cpu().numpy()

    users = range(len(split))
    with console.progress("zero-shot", len(users)) as tick:
        answers = []
        for answer in side_by_side(asked, users):
            answers.append(answer)
            tick()
    sampled, full = zip(*answers, strict=True)
    return np.array(sampled, np.float32), np.array(full, np.float32)
