"""The figures of a bundle's run, `report.json` beside it, as the Hub's model index takes them."""

import json
from pathlib import Path
from typing import Any

from delrec_lite.hub.card import section
from delrec_lite.runtime.bundle import Bundle

REPORT = "report.json"
_PROTOCOLS = {"sampled": "among drawn candidates", "full": "in the whole catalogue"}


def figures_of(bundle: Bundle) -> list[dict[str, Any]]:
    """The bundle's rows in the report of its run, one dictionary for a metric; none where there is no such report.

    A report of another run, or of other quantisations, has none of this bundle's figures.

    Args:
        bundle: In the folder of its run.
    """
    report = _report(bundle.folder.parent / REPORT)
    recipe = section(bundle.manifest, "provenance", "recipe")
    if not recipe or report.get("recipe") != recipe:
        return []
    model = bundle.models[0]
    label = f"DELRec ({model.format.upper()} {model.quant})"
    rows = [row for row in report.get("rows", []) if isinstance(row, dict) and row.get("model") == label]
    name = str(section(recipe, "data").get("name") or recipe.get("name"))
    return [
        {
            "task_type": "recommendation",
            "task_name": "Sequential recommendation",
            "dataset_type": name,
            "dataset_name": name,
            "dataset_config": _PROTOCOLS[row["protocol"]],
            "dataset_split": "test",
            "metric_type": metric.lower(),
            "metric_name": f"{metric} {_PROTOCOLS[row['protocol']]}, {row['users']} users",
            "metric_value": value,
        }
        for row in rows
        if row.get("protocol") in _PROTOCOLS
        for metric, value in row["metrics"].items()
    ]


def _report(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}
