"""Losses that the library does not take, for comparison: gBCE, and a sampled softmax with AdamW on all vectors."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from delrec_lite.data.types import Ints
from delrec_lite.llm.verbalizer import verbalizer_of
from delrec_lite.softmax.negatives import NegativeSampler
from delrec_lite.softmax.sampled import Sample, first_of
from delrec_lite.teachers.sasrec import SASRec
from delrec_lite.training.catalogue_loss import CatalogueLoss, Term

CALIBRATION = 0.75  # t of gSASRec, the value of its authors for most data sets


def gbce(logits: Any, items: int, calibration: float = CALIBRATION) -> Any:
    """The loss of gSASRec (Petrov and Macdonald, 2023, arXiv 2308.07192): the power beta of the target's sigmoid.

    Args:
        logits: The target's first, then those of uniform negatives; -inf where a negative is the target.
        items: In the catalogue.
        calibration: t: 0 is binary cross-entropy, 1 corrects all that sampling overestimates.
    """
    drawn = logits.shape[1] - 1
    share = drawn / (items - 1)
    beta = share * (calibration * (1 - 1 / share) + 1 / share)
    return -(beta * F.logsigmoid(logits[:, 0]) + F.logsigmoid(-logits[:, 1:]).sum(1)).mean() / (drawn + 1)


def uniform_sampler(items: int, count: int, seed: int) -> NegativeSampler:
    """Draws all negatives uniformly."""
    return NegativeSampler(torch.zeros(items, dtype=torch.int64).numpy(), count, seed)


class GBCELoss(CatalogueLoss):
    """gBCE in the place of the student's sampled softmax, with uniform negatives."""

    def terms(
        self,
        wanted: Collection[Term],
        states: Any,
        targets: Any,
        step: int,
        inputs: Sequence[Ints] = (),
        temperature: float = 1.0,
    ) -> dict[Term, Any]:
        """``next_item`` alone."""
        sample = Sample.of(targets, self.draw(step))
        rows = verbalizer_of(self._context.prompts).rows_of(self._context.model, sample.items)
        logits = sample.without_weights(sample.logits(states, rows))
        return {"next_item": gbce(logits, self._context.model.vocabulary.items)}


class DrawnSASRec(SASRec):
    """SASRec with drawn negatives and AdamW on all vectors; ``sampler`` is set before it is fitted."""

    sampler: NegativeSampler
    step = 0

    def drawn_negatives(self, items: int) -> int:
        """None that ``fit`` would draw: the loss does."""
        return 0

    def logits(self, states: Any, targets: Any) -> tuple[Sample, Any]:
        """The sample of the next step and its logits."""
        sample = Sample.of(targets, type(self).sampler.at(self.step))
        self.step += 1
        return sample, sample.logits(states, self.items[sample.items])


class SampledSASRec(DrawnSASRec):
    """The sampled softmax."""

    def loss(self, states: Any, targets: Any) -> Any:
        """See ``Network.loss``."""
        return first_of(self.logits(states, targets)[1])


class GSASRec(DrawnSASRec):
    """gBCE."""

    def loss(self, states: Any, targets: Any) -> Any:
        """See ``Network.loss``."""
        sample, logits = self.logits(states, targets)
        return gbce(sample.without_weights(logits), len(self.items))
