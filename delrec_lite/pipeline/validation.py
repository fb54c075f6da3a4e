"""What a trained stage is worth on validation users; sweeps and tuning compare by it, and never read test users."""

from typing import TYPE_CHECKING

from delrec_lite.data.types import evenly
from delrec_lite.evaluation.choosing import RANKED_USERS, whole_catalogue
from delrec_lite.evaluation.metrics import Ranks
from delrec_lite.evaluation.protocol import rank_all
from delrec_lite.evaluation.table import protocols_of, values_of
from delrec_lite.pipeline.rows import cached_ranks
from delrec_lite.pipeline.run import Run

if TYPE_CHECKING:  # what needs torch is imported where it is used
    from delrec_lite.pipeline.model_builder import BuiltModel

# Figures by protocol: the first place among candidates, and the first ten.
FIGURES = {
    "sampled": ("HR@1", "NDCG@10"),
    "expected_sampled": ("HR@1", "NDCG@10"),
    "full": ("HR@10", "NDCG@10"),
}
# The stages that can be validated, and the model that each gives.
MODELS = {"teacher": "teacher", "distill": "DELRec after stage 1", "finetune": "DELRec"}


def validated(run: Run, stage: str) -> dict[str, float]:
    """Figures of a stage's model on validation users: ``full NDCG@10`` and so on, by protocol and metric.

    All validation users, or 2,000 evenly spaced ones where there are more. Their ranks are cached like a stage.

    Args:
        run: Missing stages are computed first.
        stage: One of ``MODELS``; of several teachers, the mean of their distributions is ranked.
    """
    done = getattr(run, stage)()
    ranks = cached_ranks(run, f"validation of {stage}", done.key, lambda: _ranked(run, stage))
    split = run.dataset.valid()
    expected = run.expected(split.take(evenly(len(split), RANKED_USERS)))
    return {
        f"{protocol} {metric}": round(float(values_of(ranks, protocol, metric, expected).mean()), 5)
        for protocol in protocols_of(ranks, expected)
        for metric in FIGURES[protocol]
    }


def deciding(run: Run, figures: dict[str, float]) -> str:
    """The name of the figure that decides between two trainings; see ``evaluation.choosing``."""
    order: tuple[str, ...] = ("expected_sampled NDCG@10", "sampled NDCG@10")
    if whole_catalogue(len(run.dataset.valid())):
        order = ("full NDCG@10", *order)
    return next(name for name in order if name in figures)


def _ranked(run: Run, stage: str) -> Ranks:
    split = run.dataset.valid()
    users = evenly(len(split), RANKED_USERS)
    split, sets, label = split.take(users), run.candidates["valid"].take(users), f"validation: {MODELS[stage]}"
    if stage == "teacher":
        return rank_all(run.models.teacher().scores, split, sets, console=run.console, label=label)
    from delrec_lite.training.ranking import ranked

    built: BuiltModel = run.models.distilled() if stage == "distill" else run.models.trained()
    built.model.eval()
    inside = run.models.teacher() if stage == "finetune" and run.recipe.finetune.teacher_inside else None
    length = run.recipe.model.max_history
    return ranked(built.model, built.prompts, split, sets, length, run.console, label, inside)
