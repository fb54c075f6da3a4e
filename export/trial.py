"""Open every model file of the staged bundle as a user would, and compare its scores with the trained model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delrec_lite.data.types import Floats, subsample
from delrec_lite.evaluation.fusion import INSIDE_WEIGHT, best_weight
from delrec_lite.export.bundle_files import golden
from delrec_lite.export.model_files import manifest_model
from delrec_lite.export.parity import compare_scores, gate
from delrec_lite.export.reference_scores import PARITY_USERS, ReferenceScores
from delrec_lite.export.request import ExportRequest, ModelFile
from delrec_lite.export.weights import ServedModel
from delrec_lite.export.words import words_weights
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines.factory import open_engine
from delrec_lite.runtime.engines.hybrid import WEIGHT
from delrec_lite.runtime.finish import finish_bundle
from delrec_lite.runtime.golden import answers, write_golden
from delrec_lite.runtime.recommender import Recommender

WEIGHT_USERS = 314


@dataclass(frozen=True)
class Checked:
    """Model files that passed the gate.

    Attributes:
        models: Each with its ``parity``, the default first.
        shared: Other fields of the manifest's ``model``: the weights of words and of the teacher's scores.
    """

    models: list[ModelFile]
    shared: dict[str, Any]


def open_trial(
    request: ExportRequest, served: ServedModel, models: Sequence[ModelFile], staging: Path, trial: Path
) -> None:
    """Make the staged files a bundle under the temporary name ``trial``; ``staging`` is removed."""
    finish_bundle(
        staging,
        trial,
        name=request.name,
        model=manifest_model(request, served, models),
        provenance={},
        licences=dict(request.licences),
        gated=False,
    )


def check_models(
    request: ExportRequest, reference: ReferenceScores, models: Sequence[ModelFile], trial: Path
) -> Checked:
    """Compare every model file with the trained model, and write its answers to the bundle's stored requests.

    Raises:
        GateError: A file's scores differ too much from the trained model's.
    """
    stored = golden(request.dataset, request.candidates["test"], request.max_history)
    checked: list[ModelFile] = []
    golden_scores: list[Floats] = []
    shared: dict[str, Any] = {}
    bundle = Bundle.open(trial, verify_all=True)
    for model in models:  # opened one after another
        chosen = bundle.choose(model.quant, model.format)
        with Recommender(chosen, open_engine(chosen)) as recommender:
            if not checked:
                shared = _chosen_weights(request, reference, recommender)
            parity = compare_scores(reference.scores, reference.scores_of(recommender))
            gate(parity, request.score_correlation, model.quant)
            golden_scores.append(answers(recommender, stored))
        checked.append(model.with_facts(parity=parity.dump()))
    more = {model.file: scores for model, scores in zip(checked[1:], golden_scores[1:], strict=True)}
    write_golden(trial, stored, golden_scores[0], more)
    return Checked(checked, shared)


def _chosen_weights(request: ExportRequest, reference: ReferenceScores, recommender: Recommender) -> dict[str, float]:
    """The best weights beside the exported model's scores, on some validation users: of words, and of the teacher.

    A model with its teacher inside was trained and validated with the sum of both: equal weights.
    """
    valid = request.dataset.valid()
    if reference.candidates is not None:
        sample = valid.take(subsample(len(valid), PARITY_USERS))
        scores = recommender.score_candidates(sample.histories, reference.candidates)
        return words_weights(request, recommender, sample, scores, reference.candidates)
    sample = valid.take(subsample(len(valid), WEIGHT_USERS))
    scores = recommender.scores(sample.histories)
    weights = words_weights(request, recommender, sample, scores)
    if request.teacher is None:
        return weights
    if request.teacher_inside:
        return weights | {WEIGHT: INSIDE_WEIGHT}
    return weights | {WEIGHT: best_weight(scores, request.teacher.scores(sample.histories), sample.targets)}
