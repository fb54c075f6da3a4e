"""The settings of every teacher, typed and strict; a kind adds settings and changes defaults."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

Share = Annotated[float, Field(ge=0, lt=1)]


class TeacherConfig(BaseModel):
    """Size and training of a teacher; created by ``TeacherKind.configure``.

    Attributes:
        kind: Name of the kind, see ``delrec_lite.teacher_kinds.registry``.
        hidden: Width of item vectors and hidden states.
        dropout: Share of activations dropped in training.
        max_length: How many of the newest items of a history the network reads.
        lr: Peak learning rate, after a warm-up of one epoch and before a cosine decay to 0.
        weight_decay: Weight decay of AdamW.
        label_smoothing: Share of the target spread over the catalogue.
        batch: Windows of ``max_length`` items per step.
        epochs: Maximum passes over all training interactions.
        negatives: Items that each step's loss draws and its positions share, half of them by popularity; a step then
            trains only the items that it reads. 0: the loss is over the whole catalogue; none: 0 up to 100,000 items,
            beyond 4,096.
        patience: Epochs without a better validation result (see ``fit``) before training stops.
        seed: Random seed for initialisation, windows, order and dropout.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: str
    hidden: PositiveInt = 64
    dropout: Share = 0.3
    max_length: PositiveInt = 100
    lr: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.0
    label_smoothing: Share = 0.0
    batch: PositiveInt = 32
    epochs: PositiveInt = 40
    patience: PositiveInt = 8
    seed: NonNegativeInt = 1
    negatives: NonNegativeInt | None = None
