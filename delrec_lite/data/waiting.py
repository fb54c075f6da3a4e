"""Interactions that wait for more: of users who do not have enough for a sequence yet."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.data.readers import Interactions
from delrec_lite.errors import DataError
from delrec_lite.files import write_atomic


@dataclass(frozen=True)
class Waiting:
    """Rows that belong to no sequence yet, in the order in which they came.

    Attributes:
        users: User id of each row.
        items: Item id of each row.
        times: Of the rows, as in ``times.npy``.
        titles: Title of each item that is not in the catalogue.
        texts: Side text of such items.
    """

    users: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    times: tuple[float, ...] = ()
    titles: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)

    def log(self, kind: Any) -> Interactions:
        """The rows as a log with times of type ``kind``."""
        log = Interactions.of(self.users, self.items, np.empty(len(self.users)))
        return Interactions(log.user_ids, log.item_ids, log.users, log.items, np.array(self.times, dtype=kind))

    def save(self, path: Path) -> None:
        """Write a JSON file; ``load`` reads it back."""
        write_atomic(path, json.dumps(asdict(self), ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Waiting":
        """Read what ``save`` wrote; nothing waits where there is no such file.

        Raises:
            DataError: It is damaged.
        """
        if not path.is_file():
            return cls()
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            users, items, times = (tuple(fields[name]) for name in ("users", "items", "times"))
            waiting = cls(users, items, times, dict(fields["titles"]), dict(fields["texts"]))
            if len({len(waiting.users), len(waiting.items), len(waiting.times)}) > 1:
                raise ValueError("its lists differ in length")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"cannot read {path}: {error}", "remove it; its rows have to be given again") from error
        return waiting
