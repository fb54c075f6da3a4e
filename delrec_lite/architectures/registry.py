"""The families that are known, found by their names in a config.json or in a GGUF file."""

from delrec_lite.architectures.families import FAMILIES
from delrec_lite.architectures.record import Architecture
from delrec_lite.errors import ConfigError
from delrec_lite.registry import Registry

GROUP = "delrec_lite.architectures"
ARCHITECTURES: Registry[Architecture] = Registry("family", Architecture, GROUP, FAMILIES, ConfigError)


def register_architecture(record: Architecture) -> Architecture:
    """Make a family known to this process; one of the same name that was registered before is replaced.

    Raises:
        ConfigError: A built-in family has this name.
    """
    return ARCHITECTURES.register(record)


def find_architecture(model_type: str, where: str = "the base model") -> Architecture:
    """The record of a family.

    Raises:
        ConfigError: There is none; names those that are known.
    """
    if model_type not in ARCHITECTURES:
        raise ConfigError(
            f"{where} is a {model_type!r} model, a family that cannot be trained and exported",
            f"families known: {', '.join(ARCHITECTURES.names())}",
        )
    return ARCHITECTURES[model_type]


def written_as(gguf: str) -> tuple[Architecture, ...]:
    """The families that are written to GGUF under this name."""
    return tuple(record for record in ARCHITECTURES if record.gguf == gguf)


def gguf_names() -> tuple[str, ...]:
    """What the families are called in GGUF files."""
    return tuple(dict.fromkeys(record.gguf for record in ARCHITECTURES))
