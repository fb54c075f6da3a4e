"""The kinds of teacher: frozen records by name; reading them needs no torch.

A kind is a file in ``built_in``, or registered by ``register_teacher``, or provided by an installed package through the
entry-point group ``delrec_lite.teachers``.
"""

import pkgutil
import re
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from delrec_lite.errors import ConfigError, did_you_mean
from delrec_lite.registry import Registry
from delrec_lite.teacher_kinds.settings import TeacherConfig

GROUP = "delrec_lite.teachers"


@dataclass(frozen=True)
class TeacherKind:
    """A kind of sequential recommender that can be distilled.

    Attributes:
        name: Its name in a recipe, ``teacher.kind``; also the name of its folder in a run.
        label: Its name in tables.
        settings: The pydantic model of ``teacher.settings``, with the defaults of this kind.
        network: Its class, a ``delrec_lite.teachers.contract.Network``; or ``module:Class``, which is imported when a
            network is built, so that the record can be read without torch.
        source: The paper that it implements.
        reads_lists: Whether it trains on the ranked lists of ``teacher.lists`` after the data.
    """

    name: str
    label: str
    settings: type[TeacherConfig]
    network: str | type[Any]
    source: str = ""
    reads_lists: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", self.name):
            raise ConfigError(f"teacher {self.name!r} is not a valid name", "use lower-case letters, digits, - and _")

    def configure(self, **settings: Any) -> TeacherConfig:
        """The settings of a teacher: the defaults of this kind, changed by ``settings``.

        Raises:
            ConfigError: An unknown key or an invalid value; names the key.
        """
        names = [name for name in self.settings.model_fields if name != "kind"]
        for key in settings:
            if key not in names:
                raise ConfigError(f"teacher.settings: {self.name} has no setting {key!r}", did_you_mean(key, names))
        try:
            return self.settings(kind=self.name, **settings)
        except ValidationError as error:
            first = error.errors()[0]
            key, reason = ".".join(str(part) for part in first["loc"]), first["msg"].removeprefix("Value error, ")
            hint = f"got {first['input']!r}" if key else ""
            raise ConfigError(f"teacher.{key or 'settings'}: {self.name}: {reason}", hint) from error

    def build(self, config: TeacherConfig, items: int) -> Any:
        """An untrained network, initialised from torch's random state.

        Args:
            config: Returned by ``configure``.
            items: Number of items in the catalogue.
        """
        network = pkgutil.resolve_name(self.network) if isinstance(self.network, str) else self.network
        return network(config, items)


TEACHERS: Registry[TeacherKind] = Registry(
    "teacher", TeacherKind, GROUP, "delrec_lite.teacher_kinds.built_in", ConfigError
)


def register_teacher(kind: TeacherKind) -> TeacherKind:
    """Register a kind in this process; it replaces one that was registered under the same name.

    Raises:
        ConfigError: A built-in kind has this name.
    """
    return TEACHERS.register(kind)
