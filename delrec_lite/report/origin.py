"""The section on where the figures come from: data, stages, machine, versions, sources, the recipe."""

from collections.abc import Mapping
from typing import Any

from delrec_lite.report.blocks import Block, Cell, Section, Table, TableRow, Terms, Text


def origin(report: Mapping[str, Any], recipe: str) -> Section:
    """Before an evaluation the recipe alone."""
    blocks: list[Block] = []
    if report:
        blocks += [_run(report), _stages(report), _versions(report), _sources(report)]
    blocks.append(Text(recipe, is_code=True, folded="The recipe, with every default"))
    return Section("origin", "Where this comes from", blocks)


def _run(report: Mapping[str, Any]) -> Terms:
    machine, precision = report["machine"], report.get("precision", {})
    pairs = [
        ("evaluated", f"{report['created']}, load average before: {report.get('load_before', 0)}"),
        ("commit", str(report.get("commit") or "an installed package")),
        ("machine", f"{machine['cpu']}, {machine['cores_allowed']} cores allowed, {machine.get('system', '')}"),
        ("processor features", ", ".join(machine.get("features", [])) or "none known"),
        ("precision", ", ".join(f"{name}: {value}" for name, value in precision.items()) or "not noted"),
    ]
    return Terms(pairs)


def _stages(report: Mapping[str, Any]) -> Table:
    rows = [
        TableRow(name, [Cell(f"{stage['seconds']:,.1f}"), Cell(_facts(stage), is_text=True)])
        for name, stage in report["stages"].items()
    ]
    return Table("Stages, with the seconds of the call that finished each", ["stage", "seconds", "facts"], rows)


def _facts(stage: Mapping[str, Any]) -> str:
    """The plain figures of a stage."""
    plain = {
        key: value
        for key, value in stage.items()
        if isinstance(value, bool | int | float | str) and key not in {"seconds", "fingerprint"}
    }
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in plain.items()
    )


def _versions(report: Mapping[str, Any]) -> Terms:
    return Terms(list(report["versions"].items()), folded="Versions")


def _sources(report: Mapping[str, Any]) -> Table:
    rows = [
        TableRow(name, [Cell(str(source.get("mirror")), is_text=True), Cell(f"{file}: {digest}", is_text=True)])
        for name, source in report.get("sources", {}).items()
        for file, digest in source.get("sha256", {}).items()
    ]
    return Table("Sources", ["what", "from", "sha256"], rows, folded="Sources and their checksums")
