"""The registered families, found by their names in a config.json or in a GGUF file."""

from delrec_lite.architectures.families import FAMILIES
from delrec_lite.architectures.record import Architecture
from delrec_lite.errors import ConfigError
from delrec_lite.registry import Registry

GROUP = "delrec_lite.architectures"
ARCHITECTURES: Registry[Architecture] = Registry("family", Architecture, GROUP, FAMILIES, ConfigError)


def register_architecture(record: Architecture) -> Architecture:
    """Register a family in this process; one registered before under the same name is replaced.

    Raises:
        ConfigError: A built-in family has this name.
    """
    return ARCHITECTURES.register(record)


def find_architecture(model_type: str, where: str = "the base model") -> Architecture:
    """The record of a family.

    Raises:
        ConfigError: There is none; lists the registered families.
    """
    if model_type not in ARCHITECTURES:
        raise ConfigError(
            f"{where} is a {model_type!r} model, a family that cannot be trained and exported",
            f"families known: {', '.join(ARCHITECTURES.names())}",
        )
    return ARCHITECTURES[model_type]


def gguf_architectures(gguf: str) -> tuple[Architecture, ...]:
    """The families whose GGUF files have this architecture name."""
    return tuple(record for record in ARCHITECTURES if record.gguf == gguf)


def gguf_names() -> tuple[str, ...]:
    """The architecture names that the families have in GGUF files."""
    return tuple(dict.fromkeys(record.gguf for record in ARCHITECTURES))
