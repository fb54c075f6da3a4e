"""`verify`: checks that a bundle is unchanged and gives on this machine the answers that it gave at export."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from delrec_lite import machine
from delrec_lite.data.types import Floats, Ints
from delrec_lite.errors import BundleError, MissingPackageError
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines.factory import ENGINES, open_engine
from delrec_lite.runtime.golden import answers, read_golden
from delrec_lite.runtime.isolated import Limits, answers_in_child
from delrec_lite.runtime.item_index.index import ItemIndex
from delrec_lite.runtime.manifest import INDEX_FACTS, REMEDY, Model
from delrec_lite.runtime.recommender import Recommender

# Another processor sums in another order; the scores of one request span about 30.
MIN_OVERLAP = 0.95
MAX_DIFFERENCE = 0.5


@dataclass(frozen=True)
class Processor:
    """A processor, as far as it decides scores.

    Attributes:
        cpu: Its name; empty if the bundle does not name it.
        features: Vector instructions, see ``machine.cpu_features``.
        vnni: Whether it sums int8 products in 32 bits at once (VNNI, AMX; Arm: dot product); None if unknown.
    """

    cpu: str
    features: tuple[str, ...]
    vnni: bool | None

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Processor":
        """From ``cpu`` and ``features``, as ``provenance.machine`` names them."""
        features = tuple(str(feature) for feature in facts.get("features") or ())
        return cls(str(facts.get("cpu") or ""), features, machine.has_vnni(features))

    def __str__(self) -> str:
        if not self.cpu:
            return "a processor that the bundle does not name"
        names = {True: "VNNI", False: "no VNNI", None: "instructions unknown"}
        return f"{self.cpu} ({names[self.vnni]})"


@dataclass(frozen=True)
class Answers:
    """A model's answers to the stored requests on this machine, compared with those at export.

    Attributes:
        model: Its file.
        engine: That computed them.
        quant: Its quantisation.
        top10_overlap: Mean share of the stored first ten that are among the first ten now.
        rank_agreement: Share of the pairs of stored first items that are in the same order now.
        largest_difference: Between a stored score and the score now.
        stored: Whether the bundle has this model's answers; older versions stored the default model's alone.
    """

    model: str
    engine: str
    quant: str
    top10_overlap: float
    rank_agreement: float
    largest_difference: float
    stored: bool


@dataclass(frozen=True)
class Verification:
    """The result of ``verify``.

    Attributes:
        name: Of the bundle.
        files: How many were hashed.
        bytes: Their size.
        models: Model files that were opened and compared.
        unopened: Model files whose engine does not run here, and why.
        requests: Stored requests that were answered again.
        top10_overlap: The lowest of all models.
        largest_difference: The largest of all models.
        gated: Whether export compared it with the trained model.
        answers: By model.
        exported_on: The processor that made the bundle and its stored answers.
        answered_on: This machine's.
        source: Where the bundle is: its folder, or its address on the Hub with the commit.
        item_index: What the manifest says of the item index, which was read; None: the bundle has none.
    """

    name: str
    files: int
    bytes: int
    models: list[str]
    unopened: dict[str, str]
    requests: int
    top10_overlap: float
    largest_difference: float
    gated: bool
    answers: list[Answers]
    exported_on: Processor
    answered_on: Processor
    source: str
    item_index: dict[str, Any] | None = None

    def dump(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def verify(
    path: str | os.PathLike[str], threads: int | None = None, isolated: bool = True, limits: Limits | None = None
) -> Verification:
    """Hash every file, open every model, answer the stored requests and compare with the stored answers.

    Args:
        path: The bundle's folder, or ``hf://ORG/NAME[@REVISION]``.
        threads: Default: the cores allowed.
        isolated: Open each model in a child process with limits; False: in this process, for a bundle from a trusted
            source that needs records registered in this process.
        limits: Of the child process; default: ample for a sound bundle of this size.

    Raises:
        BundleError: A file is not the one that was exported, a model does not open, crashes or exceeds a limit, or its
            answers differ.
        MissingPackageError: No model's engine is installed.
    """
    bundle = Bundle.open(path, verify_all=True)
    golden = read_golden(bundle.folder, bundle.trained)
    if golden.top is None or golden.scores is None:
        raise BundleError(f"{bundle.folder} stores no answers to compare with", "export the run again")
    exported_on = Processor.of(_exported_on(bundle))
    answered_on = Processor.of({"cpu": machine.cpu_name(), "features": machine.cpu_features()})
    index = None
    if ItemIndex.is_in(bundle):
        ItemIndex.load(bundle)
        index = bundle.manifest["model"][INDEX_FACTS]
    stored = {bundle.models[0].files[0]: (golden.top, golden.scores), **golden.other_models}
    limits = limits or Limits.of(bundle.folder)
    shape = len(golden.histories), bundle.trained
    compared: list[Answers] = []
    unopened: dict[str, str] = {}
    for model in bundle.models:
        file, chosen = model.files[0], bundle.choose(model.quant, model.format)
        try:
            if isolated:
                scores = answers_in_child(chosen.folder, model, threads, limits, shape)
            else:
                with Recommender(chosen, open_engine(chosen, threads=threads)) as recommender:
                    scores = answers(recommender, golden)
        except MissingPackageError as error:
            unopened[file] = error.message
            if len(unopened) == len(bundle.models):
                raise
            continue
        result = _compare(model, scores, stored.get(file))
        if not _is_same(result) or np.isnan(scores).any():
            raise BundleError(
                f"{bundle.folder / file} gives other answers here than at export: {result.top10_overlap:.0%} of the "
                f"first ten are the same, {result.rank_agreement:.0%} of their pairs in the same order, scores differ "
                f"by up to {result.largest_difference:.2f}; exported on {exported_on}, answered by {result.engine} on "
                f"{answered_on}",
                _remedy(exported_on, answered_on),
            )
        compared.append(result)
    files = bundle.manifest["files"].values()
    return Verification(
        bundle.name,
        len(files),
        sum(int(file["bytes"]) for file in files),
        [result.model for result in compared],
        unopened,
        len(golden.histories),
        min(result.top10_overlap for result in compared),
        max(result.largest_difference for result in compared),
        bool(bundle.manifest.get("gated")),
        compared,
        exported_on,
        answered_on,
        bundle.source,
        index,
    )


def _exported_on(bundle: Bundle) -> Mapping[str, Any]:
    provenance = bundle.manifest.get("provenance")
    facts = provenance.get("machine") if isinstance(provenance, dict) else None
    return facts if isinstance(facts, dict) else {}


def _remedy(exported_on: Processor, answered_on: Processor) -> str:
    if exported_on.cpu and exported_on.features != answered_on.features:
        return "export the run on this machine, or serve another quantisation or format of it here"
    return f"{REMEDY}; if that does not help, this build of the engine computes something else"


def _is_same(result: Answers) -> bool:
    return result.top10_overlap >= MIN_OVERLAP and result.largest_difference <= MAX_DIFFERENCE


def _compare(model: Model, scores: Floats, stored: tuple[Ints, Floats] | None) -> Answers:
    """Compare scores ``[users, items]`` with the stored first ten; without these it is enough that it answers."""
    engine = next((kind.name for kind in ENGINES if kind.format == model.format and kind.installed), model.format)
    if stored is None:
        return Answers(model.files[0], engine, model.quant, 1.0, 1.0, 0.0, stored=False)
    top, then = stored
    k = top.shape[1]
    top_now = np.argsort(-scores, axis=1)[:, :k]
    overlap = float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(top_now, top, strict=True)]))
    now = np.take_along_axis(scores, top, 1)
    difference = float(np.abs(now - then).max())
    return Answers(
        model.files[0], engine, model.quant, round(overlap, 4), _agreement(now, then), round(difference, 4), stored=True
    )


def _agreement(now: Floats, then: Floats) -> float:
    """Share of pairs in the same order, of those that were not equal at export; ``[users, k]``, best first."""
    first, second = np.triu_indices(then.shape[1], 1)
    ordered = then[:, first] > then[:, second]
    same = now[:, first] > now[:, second]
    return round(float(same[ordered].mean()), 4) if ordered.any() else 1.0
