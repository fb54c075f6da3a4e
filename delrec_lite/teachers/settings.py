"""The settings of a teacher: typed, strict, with defaults per kind; needs no torch."""

import math
from dataclasses import dataclass, fields

from delrec_lite.errors import ConfigError

KINDS = ("sasrec", "gru4rec", "caser")
_OWN = {"sasrec": {"layers", "heads"}, "gru4rec": {"layers"}, "caser": {"window", "filters", "vertical"}}
_SPECIAL = set[str]().union(*_OWN.values())
_LEAST = {"dropout": 0.0, "weight_decay": 0.0, "label_smoothing": 0.0, "seed": 0.0, "lr": 1e-9}


@dataclass(frozen=True)
class TeacherConfig:
    """Size and training of a teacher; make one with ``for_kind``, which knows the defaults of each kind.

    Attributes:
        kind: ``sasrec``, ``gru4rec`` or ``caser``.
        hidden: Width of item vectors and states.
        layers: Transformer blocks or GRU layers (not Caser).
        heads: Attention heads (SASRec).
        window: L, how many last items the convolutions see (Caser).
        filters: Horizontal filters of each height (Caser).
        vertical: Vertical filters (Caser).
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

    kind: str = "sasrec"
    hidden: int = 64
    layers: int = 2
    heads: int = 2
    window: int = 8
    filters: int = 16
    vertical: int = 4
    dropout: float = 0.3
    max_length: int = 100
    lr: float = 1e-3
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    batch: int = 32
    epochs: int = 40
    patience: int = 8
    seed: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"teacher.kind: no teacher {self.kind!r}", f"one of {', '.join(KINDS)}")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type in {int, float} and not value >= _LEAST.get(field.name, 1):
                raise ConfigError(f"teacher.{field.name}: {value} is too small")
        for name in ("dropout", "label_smoothing"):
            if getattr(self, name) >= 1:
                raise ConfigError(f"teacher.{name}: {getattr(self, name)} is not a share below 1")
        if self.kind == "sasrec" and self.hidden % self.heads:
            raise ConfigError(f"teacher.heads: {self.hidden} hidden do not divide by {self.heads} heads")

    @classmethod
    def for_kind(cls, kind: str, **settings: int | float) -> "TeacherConfig":
        """The defaults of a kind, changed by ``settings``.

        Raises:
            ConfigError: No such kind, a key that this kind does not have, a wrong value; names the key.
        """
        if kind not in KINDS:
            raise ConfigError(f"teacher.kind: no teacher {kind!r}", f"one of {', '.join(KINDS)}")
        types = {f.name: f.type for f in fields(cls) if f.name != "kind"}
        known = [name for name in types if name in _OWN[kind] or name not in _SPECIAL]
        for name, value in settings.items():
            if name not in known:
                raise ConfigError(f"teacher.settings: unknown key {name!r}", f"{kind} has {', '.join(known)}")
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not number or (types[name] is int and value != int(value)):
                wanted = "a whole number" if types[name] is int else "a number"
                raise ConfigError(f"teacher.{name}: {value!r} is not {wanted}")
        merged = _DEFAULTS[kind] | settings
        return cls(kind, **{name: int(v) if types[name] is int else float(v) for name, v in merged.items()})  # type: ignore[arg-type]


# Measured on ML-100K, leave-one-out, 943 validation users, NDCG@10 over the whole catalogue; a standard error is about
# 0.005 and several settings changed from trial to trial, so these are the best of a few and no more. SASRec: 0.0755 in
# 25 epochs with 128 hidden and dropout 0.4 (0.0744 in the 18 epochs that are the default), 0.0742 with dropout 0.3,
# 0.0715 with 0.5, 0.0722 with 64 hidden and 100 items. GRU4Rec: 0.0672; 0.0678 with 50 items. Caser: 0.0726; 0.0712
# and 0.0708 with windows of 5 and 6 items.
_DEFAULTS: dict[str, dict[str, int | float]] = {
    "sasrec": {
        "hidden": 128,
        "dropout": 0.4,
        "max_length": 50,
        "lr": 2e-3,
        "weight_decay": 0.1,
        "epochs": 18,
    },
    "gru4rec": {"lr": 3e-3, "epochs": 16},
    "caser": {"lr": 3e-3, "epochs": 15},
}
