"""A trained model as a teacher of another one: its distribution after each item, behind the contract of teachers."""

from collections.abc import Sequence

import numpy as np
import torch

from delrec_lite.data.types import Floats, Ints
from delrec_lite.llm.forward import read_states, score_all, window_segment
from delrec_lite.llm.model import ItemLM
from delrec_lite.llm.verbalizer import catalogue_scores
from delrec_lite.prompts.tasks import Prompts


class ModelTeacher:
    """Scores like ``teachers.contract.Teacher``, with a language model.

    Args:
        model: Trained; frozen here.
        prompts: Its compiled tasks, of a form that ranks the whole catalogue.
        items: Size of the catalogue.
        max_history: Items that its prompt holds.
    """

    def __init__(self, model: ItemLM, prompts: Prompts, items: int, max_history: int) -> None:
        self._model, self._prompts, self._max_history = model.eval().requires_grad_(False), prompts, max_history
        self.items = items

    def scores(self, histories: Sequence[Ints]) -> Floats:
        """See ``Teacher.scores``."""
        return score_all(self._model, self._prompts, histories, self._max_history)

    @torch.no_grad()
    def sequence_scores_many(self, sequences: Sequence[Ints]) -> list[Floats]:
        """Scores after each item of sequences that the prompt holds: float32 ``[length, items]`` each."""
        segments = [window_segment(self._prompts, sequence) for sequence in sequences]
        states = read_states(self._model, self._prompts.next_prefix, segments)
        scores: Floats = catalogue_scores(self._model, self._prompts, states).float().cpu().numpy()
        return np.split(scores, np.cumsum([len(sequence) for sequence in sequences])[:-1])
