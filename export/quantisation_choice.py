"""What ``--quant auto`` chose on this machine, in the cache folder: `doctor` shows it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from delrec_lite.files import add_entry, read_entries
from delrec_lite.provenance import machine, now

FILE = "quantisations.json"


def store_choice(quant: str, milliseconds: Mapping[str, float], budget: float, recipe: str, cache: Path) -> None:
    """Keep a choice, in place of an earlier one of this machine for the same recipe and the same quantisations.

    Args:
        quant: The choice.
        milliseconds: Of a new user's request, by quantisation that was tried.
        budget: Most HR@1 that it might lose, 0 to 1.
        recipe: Its name.
        cache: Folder; if it cannot be written, nothing is kept.
    """
    entry = {
        "machine": machine(),
        "recipe": recipe,
        "quant": quant,
        "ms": dict(milliseconds),
        "budget": budget,
        "created": now(),
    }
    add_entry(cache / FILE, entry, lambda earlier: _subject(earlier) == _subject(entry))


def describe_choice(cache: Path) -> str:
    """A line on what was measured on this machine last."""
    entries = [entry for entry in read_entries(cache / FILE) if entry.get("machine") == machine()]
    try:
        last = entries[-1]
        fastest_first = sorted(last["ms"].items(), key=lambda item: float(item[1]))
        times = ", ".join(f"{name} {float(ms):.0f} ms" for name, ms in fastest_first)
        return f"{last['quant']} at most {100 * float(last['budget']):g} points below bf16, {last['recipe']}: {times}"
    except (IndexError, ValueError, KeyError, TypeError, AttributeError):
        return "not measured on this machine: the recipe's is taken, unless export --quant auto measures"


def _subject(entry: Mapping[str, Any]) -> list[Any]:
    times = entry.get("ms")
    return [entry.get("machine"), entry.get("recipe"), sorted(times) if isinstance(times, dict) else None]
