"""The losses of both stages over the catalogue, by the softmax that fits its size: whole, in blocks or sampled."""

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F

from delrec_lite.data.types import Ints
from delrec_lite.errors import ConfigError
from delrec_lite.llm.verbalizer import catalogue_scores, verbalizer_of
from delrec_lite.softmax.blocks import sums_over_blocks
from delrec_lite.softmax.choice import Softmax, chosen_softmax
from delrec_lite.softmax.negatives import Draw, NegativeSampler
from delrec_lite.softmax.sampled import Sample, divergence, first_of
from delrec_lite.teachers.contract import Teacher
from delrec_lite.teachers.ensemble import Ensemble, Mixture
from delrec_lite.teachers.soft_targets import SoftTargets
from delrec_lite.training.context import TrainingContext

# Mean losses over positions. ``next_item``: cross-entropy of the true items; ``teacher``: KL from the teacher's
# distribution; ``first``: cross-entropy of the teacher's first item; ``together``: cross-entropy of the true items
# under the scores plus the teacher's log-probabilities.
Term = Literal["next_item", "teacher", "first", "together"]


class CatalogueLoss:
    """Losses of hidden states over the catalogue.

    Args:
        context: Its model scores the items; its teacher may be asked.
        positions: Of a step, for the choice of the softmax.
        seed: Of the stage, for its negatives.
    """

    def __init__(self, context: TrainingContext, positions: int, seed: int) -> None:
        self._context = context
        self.softmax: Softmax = "full"
        if context.prompts.format.ranks_catalogue:
            self.softmax = chosen_softmax(context.softmax, len(context.dataset.catalog), positions)
        if self.softmax != "full" and _has_a_model(context.teacher):
            raise ConfigError(
                f"finetune.teacher_recipe scores the whole catalogue, but the softmax is computed {self.softmax}",
                "set model.softmax: full, or leave teacher_recipe out",
            )
        if self.softmax == "sampled":
            sampler = NegativeSampler(context.dataset.popularity(), context.negatives, seed)
            self._draw = lru_cache(maxsize=1)(sampler.at)

    @property
    def _fitted(self) -> Teacher | Ensemble:
        return cast(Teacher | Ensemble, self._context.teacher)  # others are refused above

    def draw(self, step: int) -> Draw:
        """The negatives of a step, of a sampled softmax."""
        return self._draw(step)

    def terms(
        self,
        wanted: Collection[Term],
        states: Any,
        targets: Any,
        step: int,
        inputs: Sequence[Ints] = (),
        temperature: float = 1.0,
    ) -> dict[Term, Any]:
        """The losses by name, with gradients.

        The teacher's part of ``together`` is computed with the dropout of its training: without it, what the teacher
        knows by heart would leave the model nothing to learn.

        Args:
            wanted: Their names.
            states: float32 ``[n, hidden]``.
            targets: The true items, int64 ``[n]``.
            step: Decides the negatives of a sampled softmax.
            inputs: Windows that the teacher reads, n items in all; not needed for ``next_item`` alone.
            temperature: Softens the teacher's distribution.
        """
        compute = {"full": self._full, "blocks": self._in_blocks, "sampled": self._sampled}[self.softmax]
        return compute(wanted, states, targets, step, inputs, temperature)

    def _full(
        self, wanted: Collection[Term], states: Any, targets: Any, _: int, inputs: Sequence[Ints], temperature: float
    ) -> dict[Term, Any]:
        teacher, terms = self._context.teacher, dict[Term, Any]()
        scores = catalogue_scores(self._context.model, self._context.prompts, states)
        if "next_item" in wanted:
            terms["next_item"] = F.cross_entropy(scores, targets)
        if not {"teacher", "first"}.isdisjoint(wanted):
            known = teacher_distribution(teacher, inputs, temperature).to(scores.device)
            if "teacher" in wanted:
                log_probs = F.log_softmax(scores, 1)
                terms["teacher"] = F.kl_div(log_probs, known, reduction="batchmean", log_target=True)
            if "first" in wanted:
                terms["first"] = F.cross_entropy(scores, known.argmax(1))
        if "together" in wanted:
            with self._fitted.dropping_out():
                together = scores + teacher_distribution(teacher, inputs, temperature).to(scores.device)
            terms["together"] = F.cross_entropy(together, targets)
        return terms

    def _in_blocks(
        self, wanted: Collection[Term], states: Any, targets: Any, _: int, inputs: Sequence[Ints], temperature: float
    ) -> dict[Term, Any]:
        terms = dict[Term, Any]()
        rows = verbalizer_of(self._context.prompts).item_rows(self._context.model)
        of_targets = (states * rows[targets]).sum(1)
        known = None
        if not {"teacher", "first"}.isdisjoint(wanted):
            known = SoftTargets(self._fitted, inputs, temperature, states.device)
        sums = sums_over_blocks(states, rows, known.log_probs if known is not None and "teacher" in wanted else None)
        if "next_item" in wanted:
            terms["next_item"] = (sums.logsumexp - of_targets).mean()
        if "teacher" in wanted:
            terms["teacher"] = sums.divergence
        if "first" in wanted and known is not None:
            terms["first"] = (sums.logsumexp - (states * rows[known.first()]).sum(1)).mean()
        if "together" in wanted:
            with self._fitted.dropping_out():
                dropped = SoftTargets(self._fitted, inputs, temperature, states.device)
            joint = sums_over_blocks(states, rows, dropped.log_probs).joint
            terms["together"] = (joint - of_targets - dropped.of(targets)).mean()
        return terms

    def _sampled(
        self, wanted: Collection[Term], states: Any, targets: Any, step: int, inputs: Sequence[Ints], temperature: float
    ) -> dict[Term, Any]:
        terms = dict[Term, Any]()
        sample = Sample.of(targets, self.draw(step))
        rows = verbalizer_of(self._context.prompts).rows_of(self._context.model, sample.items)
        logits = sample.logits(states, rows)
        if "next_item" in wanted:
            terms["next_item"] = first_of(logits)
        if not {"teacher", "first"}.isdisjoint(wanted):
            known = SoftTargets(self._fitted, inputs, temperature, states.device).sampled(sample)
            if "teacher" in wanted:
                terms["teacher"] = divergence(known, logits)
            if "first" in wanted:
                terms["first"] = F.cross_entropy(logits, sample.without_weights(known).argmax(1))
        if "together" in wanted:
            with self._fitted.dropping_out():
                dropped = SoftTargets(self._fitted, inputs, temperature, states.device)
            terms["together"] = first_of(logits + sample.without_weights(dropped.sampled(sample)))
        return terms


def _has_a_model(teacher: Teacher | Mixture) -> bool:
    return isinstance(teacher, Mixture) and not isinstance(teacher, Ensemble)


def teacher_distribution(teacher: Teacher | Mixture, inputs: Sequence[Ints], temperature: float) -> Any:
    """Log-probabilities of the whole catalogue after each item of each window: float32 ``[tokens, items]``."""
    scores = np.concatenate(teacher.sequence_scores_many(inputs))
    return F.log_softmax(torch.from_numpy(scores) / temperature, 1)
