"""Rank a split's targets with the model in training precision, by the protocols that its form of prompt allows."""

from collections.abc import Callable, Sequence
from functools import partial

from delrec_lite.console import QUIET, Console
from delrec_lite.data.types import CandidateSets, Floats, Ints, Split
from delrec_lite.evaluation.fusion import INSIDE_WEIGHT, mix
from delrec_lite.evaluation.metrics import Ranks
from delrec_lite.evaluation.protocol import rank_all, rank_chosen
from delrec_lite.llm.forward import score_histories
from delrec_lite.llm.model import ItemLM
from delrec_lite.llm.questions import score_candidates
from delrec_lite.prompts.tasks import Prompts
from delrec_lite.teachers.contract import Teacher
from delrec_lite.teachers.ensemble import Mixture

AT_ONCE, MANY_AT_ONCE = 16, 64  # users that are scored together


def ranked(
    model: ItemLM,
    prompts: Prompts,
    split: Split,
    candidates: CandidateSets,
    max_history: int,
    console: Console = QUIET,
    label: str = "evaluate",
    teacher: Teacher | Mixture | None = None,
) -> Ranks:
    """The rank of each target; a form that ranks candidates alone leaves ``Ranks.full`` empty.

    Args:
        model: With or without adapter.
        prompts: The compiled tasks, in any form.
        split: Histories and targets.
        candidates: Of the same split and users.
        max_history: Items that the prompt holds.
        console: Shows the bar.
        label: Before the bar.
        teacher: Inside the model: mixed into the scores of the whole catalogue; None: the model is alone.
    """
    if prompts.format.ranks_catalogue:
        alone = partial(score_histories, model, prompts, max_history=max_history)
        scorer = alone if teacher is None else partial(_score_with, teacher, alone)
        # A pass over a large catalogue takes seconds, whoever is ranked: more users share it.
        batch = MANY_AT_ONCE if model.by_rows else AT_ONCE
        return rank_all(scorer, split, candidates, batch, console, label)
    chooser = partial(score_candidates, model, prompts, max_history=max_history)
    return rank_chosen(chooser, split, candidates, console=console, label=label)


def _score_with(
    teacher: Teacher | Mixture, alone: Callable[[Sequence[Ints]], Floats], histories: Sequence[Ints]
) -> Floats:
    return mix(alone(histories), teacher.scores(histories), INSIDE_WEIGHT)
