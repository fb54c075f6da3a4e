"""What every teacher can be told: size and training, typed and strict; a kind adds its own and its defaults."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

Share = Annotated[float, Field(ge=0, lt=1)]


class TeacherConfig(BaseModel):
    """Size and training of a teacher; make one with ``TeacherKind.configure``.

    Attributes:
        kind: Name of the kind, see ``delrec_lite.teacher_kinds.registry``.
        hidden: Width of item vectors and states.
        dropout: Share of activations dropped in training.
        max_length: Items of a history that the network reads, the newest.
        lr: Highest learning rate; it rises over the first epoch and falls to 0 as a cosine.
        weight_decay: Of AdamW.
        label_smoothing: Share of the target spread over the catalogue.
        batch: Windows of ``max_length`` items in a step.
        epochs: Most passes over all training interactions.
        patience: Epochs without a better validation, as ``fit`` chooses, before training stops.
        seed: For first values, windows, order and dropout.
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
