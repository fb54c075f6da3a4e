"""The kinds of teacher: a frozen record each, found by name; reading a record needs no torch.

A kind comes from one of three places: a file in ``built_in``, a call of ``register_teacher``, or an installed package
that names its record in the entry-point group ``delrec_lite.teachers``.
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
        name: What a recipe calls it, ``teacher.kind``; also the name of its folder in a run.
        label: What a table calls it.
        settings: Its settings with their defaults, the pydantic model that ``teacher.settings`` is checked against.
        network: Its class, a ``delrec_lite.teachers.contract.Network``; or ``module:Class``, which is imported when a
            network is built, so that the record can be read without torch.
        source: The paper it follows.
        reads_lists: It learns from the ranked lists of ``teacher.lists`` after the data.
    """

    name: str
    label: str
    settings: type[TeacherConfig]
    network: str | type[Any]
    source: str = ""
    reads_lists: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", self.name):
            raise ConfigError(f"teacher {self.name!r}: not a name", "use small letters, digits, - and _")

    def configure(self, **settings: Any) -> TeacherConfig:
        """Its defaults, changed by ``settings``.

        Raises:
            ConfigError: A key that this kind does not have, or a wrong value; names the key.
        """
        known = [name for name in self.settings.model_fields if name != "kind"]
        for key in settings:
            if key not in known:
                raise ConfigError(f"teacher.settings: {self.name} has no setting {key!r}", did_you_mean(key, known))
        try:
            return self.settings(kind=self.name, **settings)
        except ValidationError as error:
            first = error.errors()[0]
            key, said = ".".join(str(part) for part in first["loc"]), first["msg"].removeprefix("Value error, ")
            hint = f"got {first['input']!r}" if key else ""
            raise ConfigError(f"teacher.{key or 'settings'}: {self.name}: {said}", hint) from error

    def build(self, config: TeacherConfig, items: int) -> Any:
        """An untrained network; first values come from torch's random state.

        Args:
            config: What ``configure`` gave.
            items: Size of the catalogue.
        """
        network = pkgutil.resolve_name(self.network) if isinstance(self.network, str) else self.network
        return network(config, items)


TEACHERS: Registry[TeacherKind] = Registry(
    "teacher", TeacherKind, GROUP, "delrec_lite.teacher_kinds.built_in", ConfigError
)


def register_teacher(kind: TeacherKind) -> TeacherKind:
    """Make a kind known to this process; one of the same name that was registered before is replaced.

    Raises:
        ConfigError: A built-in kind has this name.
    """
    return TEACHERS.register(kind)
