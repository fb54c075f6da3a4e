"""Questions about candidates: from a history to the verbalizer's scores, whichever verbalizer it is."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from delrec_lite.data.types import Floats, Ints
from delrec_lite.llm.forward import read_states
from delrec_lite.llm.model import ItemLM
from delrec_lite.llm.packing import Segment
from delrec_lite.llm.verbalizer import Question, Tokens, verbalizer_of
from delrec_lite.prompts.tasks import Prompts


def answers(model: ItemLM, prefix: Tokens, questions: Sequence[Question]) -> Any:
    """Hidden states where the answers are read: float32 ``[questions, hidden]``."""
    return read_states(model, prefix, [Segment(q.ids, [len(q.ids) - 1]) for q in questions])


def next_question(prompts: Prompts, history: Ints, candidates: Ints, max_history: int) -> Question:
    """What comes after a history, of these candidates? The history loses its oldest items if there is no room."""
    behind = len(prompts.question([], candidates.tolist())) + _longest_answer(prompts, candidates)
    ids, _ = prompts.history(prompts.newest(history, max_history, behind).tolist())
    return Question(prompts.question(ids, candidates.tolist()), candidates)


def temporal_question(prompts: Prompts, sequence: Ints, candidates: Ints) -> Question:
    """Which of these candidates was hidden in a sequence, its second-last item? See ``Prompts.temporal``."""
    behind = len(prompts.question([], candidates.tolist())) + _longest_answer(prompts, candidates)
    ids, _, _ = prompts.temporal(sequence.tolist(), behind)
    return Question(prompts.question(ids, candidates.tolist()), candidates)


def _longest_answer(prompts: Prompts, candidates: Ints) -> int:
    """Tokens that are read behind the question."""
    return max(len(prompts.titles[i]) for i in candidates) if prompts.format.verbalizer_kind.continued else 0


def next_scores(model: ItemLM, prompts: Prompts, questions: Sequence[Question]) -> Any:
    """Scores of the candidates of what comes next, with gradients: float32 ``[questions, m]``."""
    return verbalizer_of(prompts).scores(model, prompts, prompts.next_prefix, questions)


def temporal_scores(model: ItemLM, prompts: Prompts, questions: Sequence[Question]) -> Any:
    """Scores of the candidates of temporal analysis, with gradients: float32 ``[questions, m]``."""
    return verbalizer_of(prompts).scores(model, prompts, prompts.temporal_prefix, questions)


@torch.no_grad()
def score_candidates(
    model: ItemLM, prompts: Prompts, histories: Sequence[Ints], candidates: Ints, max_history: int, batch: int = 16
) -> Floats:
    """Scores of each history's candidates.

    Args:
        model: With or without adapter.
        prompts: The compiled tasks, in any form.
        histories: Item indices, oldest first, none empty.
        candidates: int64 ``[histories, m]``.
        max_history: Items that the prompt holds, the newest.
        batch: Questions packed together.

    Returns:
        float32 ``[histories, m]``.
    """
    asked = [next_question(prompts, h, c, max_history) for h, c in zip(histories, candidates, strict=True)]
    parts = [next_scores(model, prompts, asked[at : at + batch]) for at in range(0, len(asked), batch)]
    scores: Floats = torch.cat(parts).cpu().numpy().astype(np.float32)
    return scores
