"""A run's figures as JSON with raw samples, as CSV and as Markdown; and two runs compared."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.errors import UsageError
from delrec_lite.evaluation.table import aligned
from delrec_lite.files import check_file, write_atomic

SCHEMA = 1
# Which tell a report from other JSON files.
REPORT_KEYS = ("schema", "results")
# Other programs used at least half a core: two threads that wait for each other then take many times as long.
BUSY = 0.5
HEADER = ("bundle", "MB", "threads", "workload", "tokens", "p50 ms", "p95", "p99", "mean ± σ", "/s", "RSS MB")
ACCURACY = ("HR@1", "NDCG@10")


@dataclass(frozen=True)
class Result:
    """One workload on one configuration.

    Attributes:
        workload: Its name.
        bundle: Its name and quantisation.
        threads: Of the engine.
        users: In one sample.
        tokens: Computed in one sample, on average; a reused prefix does not count.
        ms: ``p50``, ``p95``, ``p99``, ``mean`` and ``sigma`` of the samples, milliseconds.
        per_second: Requests (in a batch: users) a second.
        phases: Mean milliseconds by phase.
        peak_rss_bytes: Of a process that loads the bundle and does only this workload.
        artifact_bytes: All files of the bundle; for a chosen quantisation, those that it needs.
        accuracy: ``protocol``, ``candidates`` of a set (``sampled``), ``requests``, ``HR@1``, ``NDCG@10``; empty for
            ``load``.
        samples_ms: Every timed sample, in order.
        busy_processes: How many computed without a pause beside it.
        unfinished: What a peer had no time for; without any sample ``ms`` is empty and the other figures are 0.
    """

    workload: str
    bundle: str
    threads: int
    users: int
    tokens: float
    ms: dict[str, float]
    per_second: float
    phases: dict[str, float]
    peak_rss_bytes: int
    artifact_bytes: int
    accuracy: dict[str, Any]
    samples_ms: list[float]
    busy_processes: int = 0
    unfinished: str = ""


@dataclass(frozen=True)
class Report:
    """A run: its results and their circumstances.

    Attributes:
        created: UTC.
        commit: Of the program; None outside a checkout.
        machine: Processor, its features, cores allowed, what llama.cpp is built for.
        versions: Of the packages that compute.
        asked: Where the requests come from, and how many there are.
        repeats: Timed samples each.
        load_before: The machine's load average over the minute before; 0 if unknown.
        bundles: Facts by name, as their manifests have them.
        results: In the order they were timed.
        roofline: ``ceilings`` of the machine and, by bundle, the least ``work`` of a cold request and its ``floor_ms``;
            empty where ceilings were not measured.
    """

    created: str
    commit: str | None
    machine: dict[str, Any]
    versions: dict[str, str]
    asked: dict[str, Any]
    repeats: int
    load_before: float
    bundles: dict[str, dict[str, Any]]
    results: list[Result]
    roofline: dict[str, Any] = field(default_factory=dict)

    def dump(self) -> dict[str, Any]:
        """As JSON; ``read_report`` reads it back."""
        return {"schema": SCHEMA, **asdict(self)}


def latency_summary(samples: Sequence[float]) -> dict[str, float]:
    """Percentiles (interpolated), mean and standard deviation (0 for one sample)."""
    values = np.asarray(samples, np.float64)
    sigma = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    percentiles = {f"p{q}": float(np.percentile(values, q)) for q in (50, 95, 99)}
    return {name: round(v, 4) for name, v in {**percentiles, "mean": float(values.mean()), "sigma": sigma}.items()}


def table_rows(report: Report) -> tuple[list[list[str]], list[str]]:
    """The table's cells and header."""
    out, some_unfinished = [], any(r.unfinished for r in report.results)
    beside = any(r.busy_processes for r in report.results)
    for r in report.results:
        name = f"{r.workload} {r.users}" if r.workload == "batch" else r.workload
        out.append(
            [
                r.bundle,
                f"{r.artifact_bytes / 1e6:.0f}" if r.artifact_bytes else "-",
                str(r.threads or "-"),
                name,
                *([str(r.busy_processes)] if beside else []),
                *(_times(r) if r.ms else ["-"] * 6),
                f"{r.peak_rss_bytes / 1e6:.0f}" if r.peak_rss_bytes else "-",
                *(f"{r.accuracy[m]:.3f}" if r.accuracy else "-" for m in ACCURACY),
                *([r.unfinished] if some_unfinished else []),
            ]
        )
    after = HEADER.index("workload") + 1
    header = [*HEADER[:after], *(["busy processes"] if beside else []), *HEADER[after:], *ACCURACY]
    return out, [*header, *(["finished only"] if some_unfinished else [])]


def _times(r: Result) -> list[str]:
    return [
        f"{r.tokens:.0f}",
        *(f"{r.ms[p]:.1f}" for p in ("p50", "p95", "p99")),
        f"{r.ms['mean']:.1f} ± {r.ms['sigma']:.1f}",
        f"{r.per_second:.1f}",
    ]


def footnotes(report: Report) -> list[str]:
    """What the figures were measured on, and their phases: lines below the table."""
    m, source = report.machine, report.asked
    lines = [
        f"{m['cpu']}, {m['cores_allowed']} cores allowed; "
        + ", ".join(f"{name} {v}" for name, v in report.versions.items())
        + (f"; commit {report.commit}" if report.commit else ""),
        f"{report.repeats} samples each, configurations in turn, warm-up left out; "
        f"{source['requests']} requests of up to {source['history']} items ({source['source']}). "
        "RSS: peak of a process that does only that workload.",
        *([busy_warning(report)] if report.load_before >= BUSY else []),
    ]
    for protocol, size, n in dict.fromkeys(
        (r.accuracy["protocol"], r.accuracy.get("candidates"), r.accuracy["requests"])
        for r in report.results
        if r.accuracy
    ):
        used = sorted({r.workload for r in report.results if r.accuracy.get("protocol") == protocol})
        among = "the whole catalogue" if size is None else f"{size} candidates"
        lines.append(f"HR@1 and NDCG@10 of {', '.join(used)}: among {among}, {n} requests.")
    lines += [_index(name, facts["item_index"]) for name, facts in report.bundles.items() if "item_index" in facts]
    lines += [f"{name}: {facts['peer']}." for name, facts in report.bundles.items() if "peer" in facts]
    lines += _floors(report)
    for r in report.results:
        if r.phases:
            phases = ", ".join(f"{name} {ms:.1f}" for name, ms in r.phases.items())
            beside = f", {r.busy_processes} busy processes" if r.busy_processes else ""
            lines.append(f"{r.workload}, {r.bundle}, {r.threads} threads{beside}: {phases} ms")
    return lines


def _index(name: str, facts: dict[str, Any]) -> str:
    """What the item index of a bundle is; its figures of accuracy are those of exact scores."""
    return (
        f"{name}: item index of {facts['rank']} numbers an item, {facts['candidates']} candidates scored exactly; "
        f"{facts['recall']:.1%} of the first ten found at export."
    )


def _floors(report: Report) -> list[str]:
    """The machine's ceilings, and how far each cold row is from its floor."""
    if not report.roofline:
        return []
    c = report.roofline["ceilings"]
    int8 = "not measured" if c["int8_gop_s"] is None else f"{c['int8_gop_s']:.0f} Gop/s"
    lines = [
        f"Ceilings of {c['threads']} threads: memory {c['read_gb_s']:.1f} GB/s, float32 {c['fp32_gop_s']:.0f} Gop/s, "
        f"int8 {int8}."
    ]
    for r in report.results:
        floor = report.roofline["bundles"].get(r.bundle)
        alone = r.threads == c["threads"] and not r.busy_processes
        if r.workload == "cold" and r.ms and floor and alone:
            lines.append(
                f"{r.bundle}, cold: at least {floor['work']['gop']:.2f} Gop and {floor['work']['gb']:.3f} GB, "
                f"so {floor['floor_ms']:.1f} ms; measured {r.ms['p50']:.1f} ms, {r.ms['p50'] / floor['floor_ms']:.1f} "
                "times that."
            )
    return lines


def busy_warning(report: Report) -> str:
    """A warning that other programs ran."""
    return f"The machine was not idle (load average {report.load_before:.1f} before): times are too long and uneven."


def as_markdown(report: Report) -> str:
    """The table and its footnotes."""
    cells, header = table_rows(report)
    return aligned([header, *cells]) + "\n\n" + "\n".join(f"- {line}" for line in footnotes(report))


def as_csv(report: Report) -> str:
    """One line a result, without the raw samples."""
    out = io.StringIO()
    columns = [
        "workload",
        "bundle",
        "threads",
        "busy_processes",
        "users",
        "samples",
        "tokens",
        "p50_ms",
        "p95_ms",
        "p99_ms",
        "mean_ms",
    ]
    columns += [
        "sigma_ms",
        "per_second",
        "peak_rss_bytes",
        "artifact_bytes",
        "protocol",
        "candidates",
        "requests",
        *ACCURACY,
    ]
    columns += ["unfinished", "cpu", "commit", "created"]
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    for r in report.results:
        line = {name: value for name, value in asdict(r).items() if name in columns} | r.accuracy
        line |= {f"{name}_ms": value for name, value in r.ms.items()} | {"samples": len(r.samples_ms)}
        line |= {"cpu": report.machine["cpu"], "commit": report.commit, "created": report.created}
        writer.writerow(line)
    return out.getvalue().rstrip("\n")


def write_report(report: Report, path: Path) -> None:
    """The whole report with raw samples, as JSON."""
    write_atomic(
        check_file(path, "report of bench", REPORT_KEYS), json.dumps(report.dump(), indent=1, ensure_ascii=False) + "\n"
    )


def read_report(path: Path) -> Report:
    """A report that ``write_report`` wrote.

    Raises:
        UsageError: The file is missing, is no report, or has another schema.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields.pop("schema") != SCHEMA:
            raise ValueError("another schema")
        fields["results"] = [Result(**r) for r in fields["results"]]
        return Report(**fields)
    except FileNotFoundError as error:
        raise UsageError(f"no report at {path}", "`delrec-lite bench BUNDLE --out FILE` writes one") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} is no report of the bench: {error}", "write it with --out, by this version"
        ) from error


@dataclass(frozen=True)
class Ratio:
    """One workload and configuration in two runs; each ratio is the second over the first, above 1 is worse.

    Attributes:
        workload: Its name.
        bundle: Its name.
        threads: Of the engine.
        users: In one sample.
        busy_processes: Beside it.
        p50: Of the median time.
        p95: Of the 95th percentile.
        rss: Of the peak memory.
        regression: Whether ``p50`` is beyond the threshold.
    """

    workload: str
    bundle: str
    threads: int
    users: int
    busy_processes: int
    p50: float
    p95: float
    rss: float
    regression: bool


def compare_reports(before: Report, after: Report, threshold: float = 1.10) -> list[Ratio]:
    """Ratios of all that both runs timed; the median alone decides, because tails of few samples are noise.

    Raises:
        UsageError: A threshold of 0 or less, or runs that have nothing in common.
    """
    if not threshold > 0:
        raise UsageError(f"the threshold is {threshold}", "1.10 allows 10% more time")
    old = {_key(r): r for r in before.results if r.ms}
    ratios = []
    for new in after.results:
        earlier = old.get(_key(new))
        if earlier and new.ms:
            p50 = new.ms["p50"] / earlier.ms["p50"]
            rss = new.peak_rss_bytes / earlier.peak_rss_bytes if earlier.peak_rss_bytes else 1.0
            ratios.append(Ratio(*_key(new), p50, new.ms["p95"] / earlier.ms["p95"], rss, p50 > threshold))
    if not ratios:
        raise UsageError("the two runs timed nothing in common", "time the same bundle, workloads and threads")
    return ratios


def comparison_warnings(before: Report, after: Report) -> list[str]:
    """Lines on what only one of two runs timed, on different machines and on busy ones."""
    old, new = {_key(r) for r in before.results}, {_key(r) for r in after.results}
    lines = [
        f"only in the {which} run: {w}, {b}, {t} threads, {u} users" + (f", {n} busy processes" if n else "")
        for which, keys in (("first", old - new), ("second", new - old))
        for w, b, t, u, n in sorted(keys)
    ]
    if any(before.machine[key] != after.machine[key] for key in before.machine.keys() & after.machine.keys()):
        lines.append(f"different machines: {before.machine['cpu']} and {after.machine['cpu']}")
    lines += [
        f"{which} run: {busy_warning(r)}"
        for which, r in (("first", before), ("second", after))
        if r.load_before >= BUSY
    ]
    return lines


def _key(r: Result) -> tuple[str, str, int, int, int]:
    return r.workload, r.bundle, r.threads, r.users, r.busy_processes
