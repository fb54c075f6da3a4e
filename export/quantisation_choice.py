"""What ``--quant auto`` chose on this machine, in the cache folder: `doctor` shows it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from delrec_lite.files import write_atomic
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
    others = [e for e in _entries(cache / FILE) if _subject(e) != _subject(entry)]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        write_atomic(cache / FILE, json.dumps([*others, entry], indent=1) + "\n")
    except OSError:
        return  # the cache is optional


def describe_choice(cache: Path) -> str:
    """A line on what was measured on this machine last."""
    entries = [entry for entry in _entries(cache / FILE) if entry.get("machine") == machine()]
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


def _entries(path: Path) -> Sequence[dict[str, Any]]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
