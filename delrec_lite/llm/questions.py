"""Questions about candidates: from a history to the scores of any verbalizer."""

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
    """Hidden states at the answers: float32 ``[questions, hidden]``."""
    return read_states(model, prefix, [Segment(q.ids, [len(q.ids) - 1]) for q in questions])


def next_question(prompts: Prompts, history: Ints, candidates: Ints, max_history: int) -> Question:
    """The question which candidate follows a history. The oldest items are dropped if the prompt is too long."""
    reserved = len(prompts.question([], candidates.tolist())) + _longest_answer(prompts, candidates)
    ids, _ = prompts.history(prompts.newest(history, max_history, reserved).tolist())
    return Question(prompts.question(ids, candidates.tolist()), candidates)


def temporal_question(prompts: Prompts, sequence: Ints, candidates: Ints) -> Question:
    """The question which candidate is the hidden second-last item of a sequence. See ``Prompts.temporal``."""
    reserved = len(prompts.question([], candidates.tolist())) + _longest_answer(prompts, candidates)
    ids, _, _ = prompts.temporal(sequence.tolist(), reserved)
    return Question(prompts.question(ids, candidates.tolist()), candidates)


def _longest_answer(prompts: Prompts, candidates: Ints) -> int:
    """Maximum tokens that are read after the question."""
    return max(len(prompts.titles[i]) for i in candidates) if prompts.format.verbalizer_kind.continued else 0


def next_scores(model: ItemLM, prompts: Prompts, questions: Sequence[Question]) -> Any:
    """Scores of the candidates for the next item, with gradients: float32 ``[questions, m]``."""
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
        prompts: The compiled tasks, in any prompt format.
        histories: Item indices, oldest first, none empty.
        candidates: int64 ``[histories, m]``.
        max_history: Maximum items of a history in the prompt, the newest.
        batch: Questions packed together.

    Returns:
        float32 ``[histories, m]``.
    """
    questions = [next_question(prompts, h, c, max_history) for h, c in zip(histories, candidates, strict=True)]
    parts = [next_scores(model, prompts, questions[at : at + batch]) for at in range(0, len(questions), batch)]
    scores: Floats = torch.cat(parts).cpu().numpy().astype(np.float32)
    return scores
