"""One output sink: results to stdout, everything else to stderr, in modes human, json and quiet."""

import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console as RichConsole
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from delrec_lite.environment import unusable_sizes
from delrec_lite.errors import StorageError

# Seconds between two progress lines if stderr is a file or a pipe.
LINE_INTERVAL = 15.0
# Line breaks and tabs are harmless.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Tick(Protocol):
    """Moves a progress bar: ``tick(steps, note)``."""

    def __call__(self, steps: int = 1, note: str = "") -> None:
        """Advance by ``steps`` and show ``note`` after the bar."""


# Receives figures of a training: its stage, the step, and the figures by name.
Follower = Callable[[str, int, Mapping[str, float]], None]


class Console:
    """The program's output. Library code takes a console as an argument; ``QUIET`` prints nothing.

    Args:
        mode: ``human`` (tables, bars), ``json`` (one JSON document on stdout) or ``quiet``.
    """

    def __init__(self, mode: str = "human") -> None:
        self.mode = mode
        # rich would print nothing at all with COLUMNS=0.
        width, height = (80, 25) if unusable_sizes() else (None, None)
        self._err = RichConsole(stderr=True, highlight=False, quiet=mode == "quiet", width=width, height=height)
        self._out = RichConsole(highlight=False, soft_wrap=True, width=width, height=height)
        self._followers: list[Follower] = []

    @property
    def shows_bars(self) -> bool:
        """Whether ``progress`` shows anything."""
        return self.mode != "quiet" and self._err.is_terminal

    def say(self, text: str) -> None:
        """Print a message for a person on stderr."""
        self._err.print(visible(text), markup=False, soft_wrap=True)

    def heading(self, text: str) -> None:
        """Print the heading of a stage on stderr."""
        self._err.print(visible(text), style="bold", markup=False)

    def result(
        self, data: Any, rows: Sequence[Sequence[str]] = (), header: Sequence[str] = (), title: str = ""
    ) -> None:
        """Print the result on stdout: ``data`` as JSON in json mode, else ``rows`` as a table (or ``data`` as text).

        Raises:
            StorageError: There is no standard output.
        """
        if sys.stdout is None and self.mode != "quiet":
            raise StorageError("the result cannot be written: standard output is closed", "do not close it, or use -q")
        if self.mode == "json":
            ascii_only = not (sys.stdout.encoding or "utf-8").lower().startswith("utf")
            sys.stdout.write(json.dumps(data, ensure_ascii=ascii_only, indent=2) + "\n")
        elif self.mode == "human" and rows:
            rows = [[visible(cell) for cell in row] for row in rows]
            table = Table(
                title=title or None, title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False
            )
            for column, name in enumerate(header):
                number = all(_numeric(row[column]) for row in rows)
                # So that no word or number is split.
                widest = max(
                    cell_len(word) for text in (name, *(row[column] for row in rows)) for word in text.split() or [""]
                )
                table.add_column(name, justify="right" if number else "left", min_width=widest)
            for row in rows:
                table.add_row(*(cell.replace("[", "\\[") for cell in row))
            table.width = self._width(table)
            self._out.print(table, crop=False)
        elif self.mode == "human":
            sys.stdout.write(f"{data}\n")

    def track(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        """Give figures of a training to all who follow it, such as experiment trackers."""
        for follower in self._followers:
            follower(stage, step, figures)

    @contextmanager
    def followed(self, follower: Follower) -> Iterator[None]:
        """Within this context ``follower`` receives what ``track`` gives; its errors end the training."""
        self._followers.append(follower)
        try:
            yield
        finally:
            self._followers.remove(follower)

    def _width(self, table: Table) -> int | None:
        """None if the table fits; else the width for it.

        On a terminal, cells wrap between words, and lines exceed a terminal too narrow for that. In a file or pipe the
        table has its full width.
        """
        natural = Measurement.get(self._out, self._out.options.update(max_width=10_000), table)
        if natural.maximum <= self._out.width:
            return None
        return max(self._out.width, natural.minimum) if self._out.is_terminal else natural.maximum

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Tick]:
        """Progress on stderr with count, elapsed and remaining time; yields the function that advances it.

        On a terminal a bar; in a file or pipe a line every ``LINE_INTERVAL`` seconds.
        """
        if self.mode != "quiet" and not self.shows_bars:
            with self._progress_lines(label, total) as tick_lines:
                yield tick_lines
            return
        bar = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._err,
            disable=not self.shows_bars,
            transient=True,
        )
        with bar:
            task = bar.add_task(label, total=total, note="")

            def tick(steps: int = 1, note: str = "") -> None:
                if note:
                    bar.update(task, note=note)
                bar.advance(task, steps)

            yield tick

    @contextmanager
    def _progress_lines(self, label: str, total: int) -> Iterator[Tick]:
        done, last_note, start, finished = 0, "", time.monotonic(), threading.Event()

        def tick(steps: int = 1, note: str = "") -> None:
            nonlocal done, last_note
            done, last_note = done + steps, note or last_note

        def write_lines() -> None:
            while not finished.wait(LINE_INTERVAL):
                seconds = time.monotonic() - start
                remaining = f", about {seconds / done * (total - done):.0f} s left" if 0 < done < total else ""
                share = f" ({done / total:.0%})" if total else ""
                suffix = f", {last_note}" if last_note else ""
                self.say(f"  {label}: {done} of {total}{share}, {seconds:.0f} s{remaining}{suffix}")

        writer = threading.Thread(target=write_lines, name="delrec-progress", daemon=True)
        writer.start()
        try:
            yield tick
        finally:
            finished.set()
            writer.join()


def visible(text: str) -> str:
    """A text without characters that move the cursor, change colours or turn the direction of writing."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def _numeric(cell: str) -> bool:
    return cell.lstrip("+-").replace(".", "", 1).replace(" ", "")[:1].isdigit() or cell in {"", "-"}


QUIET = Console("quiet")
