"""Hidden states of some requests, from which the head rows of tokens that are no answer are computed."""

from collections.abc import Sequence
from typing import Any

import torch

from delrec_lite.data.types import Dataset, Ints, subsample
from delrec_lite.llm.forward import read_states, window_segment
from delrec_lite.llm.model import ItemLM
from delrec_lite.llm.questions import answers, next_question
from delrec_lite.prompts.tasks import Prompts

# Number of users, and of states for each: short histories are included.
USERS, LENGTH = 64, 20
BATCH = 16


@torch.no_grad()
def training_states(model: ItemLM, prompts: Prompts, dataset: Dataset) -> Any:
    """Hidden states after every item of some training histories: float32 ``[n, hidden]``, on the model's device."""
    sequences = dataset.train()
    sample = [sequences[n][:LENGTH] for n in subsample(len(sequences), USERS) if len(sequences[n])]
    segments = [window_segment(prompts, sequence) for sequence in sample]
    batches = [segments[at : at + BATCH] for at in range(0, len(segments), BATCH)]
    return torch.cat([read_states(model, prompts.next_prefix, batch) for batch in batches])


@torch.no_grad()
def answer_states(
    model: ItemLM, prompts: Prompts, histories: Sequence[Ints], candidates: Ints, max_history: int
) -> Any:
    """Hidden states at the answers to questions about candidates: float32 ``[histories, hidden]``, same device."""
    questions = [next_question(prompts, h, c, max_history) for h, c in zip(histories, candidates, strict=True)]
    batches = [questions[at : at + BATCH] for at in range(0, len(questions), BATCH)]
    return torch.cat([answers(model, prompts.next_prefix, batch) for batch in batches])
