"""How long `tune` searches: a number of trials, and maybe a time."""

import re
from dataclasses import dataclass

from delrec_lite.errors import UsageError

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Budget:
    """The end of a search; trials of earlier calls count.

    Attributes:
        trials: Finished, pruned and failed ones.
        seconds: Sum over the trials, after which no new one begins; None: no limit.
    """

    trials: int
    seconds: float | None = None

    def is_spent(self, trials: int, seconds: float) -> bool:
        """Whether no new trial may begin after so many, which took so long."""
        return trials >= self.trials or (self.seconds is not None and seconds >= self.seconds)


def parse_time(text: str) -> float | None:
    """``2h``, ``90m``, ``1h30m``, ``45s`` or ``1d`` in seconds; None for an empty text.

    Raises:
        UsageError: Anything else.
    """
    parts = re.findall(r"([\d.]+)\s*([smhd])\s*", text.strip().lower())
    if text.strip() and "".join(number + unit for number, unit in parts) != re.sub(r"\s", "", text.lower()):
        raise UsageError(f"--time {text!r} is no time", "such as 2h, 90m or 1h30m")
    try:
        total = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    except ValueError as error:
        raise UsageError(f"--time {text!r} is no time", "such as 2h, 90m or 1h30m") from error
    if text.strip() and total <= 0:
        raise UsageError(f"--time {text!r} leaves no time", "such as 2h, 90m or 1h30m")
    return total or None
