"""Two ways to follow a job: drawn with rich for people, one JSON object per event and line for scripts.

Results and log go to stdout. Progress bars go to stderr and only to a terminal, so that a log file stays
readable and an error stays one line.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.events import (
    CaseDone,
    CaseFailed,
    EpochDone,
    Event,
    Finished,
    Log,
    Progress,
    Saved,
    SliceDone,
    Started,
)

PROSE = ("title", "value", "labels", "problem")  # columns of a table that may be broken into lines


def make_view(as_json: bool) -> View:
    """The view the user asked for; use it as a context."""
    return JsonView() if as_json else TextView()


class View(ABC):
    """Receives the events of a job in order."""

    def __enter__(self) -> View:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @abstractmethod
    def show(self, event: Event) -> None:
        """Draws or prints one event."""

    def say(self, text: str) -> None:
        """A sentence that is no event of an engine."""
        self.show(Log(text))

    @abstractmethod
    def close(self) -> None:
        """Ends the drawing."""


class JsonView(View):
    """One JSON object per event on stdout: ``{"event": "SliceDone", ...}``; arrays are left out."""

    def show(self, event: Event) -> None:
        print(as_json(event), flush=True)

    def close(self) -> None:
        pass


def as_json(event: Event) -> str:
    """The event's fields as one line of JSON; a slice's label map as voxels per value, results left out."""
    record: dict[str, Any] = {"event": type(event).__name__}
    for field in dataclasses.fields(event):
        value = getattr(event, field.name)
        if isinstance(event, SliceDone) and field.name == "labels":
            values, counts = np.unique(value, return_counts=True)
            pairs = zip(values.tolist(), counts.tolist(), strict=True)
            record["pixels"] = {str(label): count for label, count in pairs if label}
        elif not (isinstance(event, Finished) and field.name == "result"):
            record[field.name] = plain(value)
    return json.dumps(record)


def plain(value: Any) -> Any:
    """``value`` in types that JSON has; what is not finite becomes null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, (np.integer, np.floating)):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


class TextView(View):
    """Lines and progress bars for people."""

    def __init__(self) -> None:
        from rich.console import Console

        from .bars import Bars

        # soft_wrap: a path that is broken in two cannot be copied
        self.out = Console(soft_wrap=True, highlight=False, markup=True)
        self.bars = Bars()
        self.unit = ""
        self.named: set[Path] = set()  # files already named: the best model is saved again and again

    def show(self, event: Event) -> None:
        line = self._line(event)
        if line:
            self.bars.print(self.out, line)
        self._move(event)

    def close(self) -> None:
        self.bars.close()

    def _move(self, event: Event) -> None:
        if isinstance(event, Started):
            self.unit = event.unit
            self.bars.start(event.title, event.total, event.unit)
        elif isinstance(event, (SliceDone, CaseDone, CaseFailed)):
            self.bars.move(event.done)
        elif isinstance(event, EpochDone):
            self.bars.move(event.epoch)
        elif isinstance(event, Progress):
            self.bars.within(event.text, event.done, event.total)
        elif isinstance(event, Finished):
            self.bars.close()

    def _line(self, event: Event) -> str:
        """What is printed for an event, with rich's markup; empty for what only moves a bar."""
        from rich.markup import escape

        if isinstance(event, Started):
            return f"[bold]{escape(event.title)}[/bold]: {_count(event)} on {escape(event.device)}"
        if isinstance(event, Log):
            text = escape(event.text)
            return f"[yellow]{text}[/yellow]" if event.level == "warning" else text
        if isinstance(event, EpochDone):
            return epoch_line(event)
        if isinstance(event, CaseDone):
            return f"\\[{event.done}/{event.total}] {escape(event.case)}  {escape(case_words(event))}"
        if isinstance(event, CaseFailed):
            return f"\\[{event.done}/{event.total}] [red]{escape(event.case)} failed[/red]: {escape(event.reason)}"
        if isinstance(event, Saved):
            return self._file_line(event)
        if isinstance(event, Finished):
            return f"[bold]Done[/bold] in {duration(event.seconds)}. {escape(finished_words(event))}".rstrip()
        return ""

    def _file_line(self, event: Saved) -> str:
        """Names a new file; those of the single cases of an evaluation are only counted in its report."""
        if event.path in self.named or (self.unit == "case" and event.what != "report"):
            return ""
        from rich.markup import escape

        self.named.add(event.path)
        return f"{event.what}: {escape(str(event.path))}"


def _count(event: Started) -> str:
    return f"{event.total} {event.unit}" + ("" if event.total == 1 else "s")


def epoch_line(event: EpochDone) -> str:
    dice = "" if event.validation_dice is None else f"  validation Dice {event.validation_dice:.4f}"
    star = "  [green]best so far[/green]" if event.best else ""
    return f"epoch {event.epoch}/{event.epochs}  loss {event.loss:.4f}{dice}  {duration(event.seconds)}{star}"


def case_words(event: CaseDone) -> str:
    """A scored case as Dice per label and protocol; a segmented one as millilitres per label."""
    words = []
    for label, value in event.metrics.items():
        if isinstance(value, dict) and "all" in value:
            words.append(
                f"{label}: Dice {_number(value['all']['dice'])} (labelled {_number(value['labelled']['dice'])})"
            )
        elif label == "millilitres" and isinstance(value, dict):
            words += [f"{name} {amount:.1f} ml" for name, amount in value.items()]
    return "  ".join(words)


def finished_words(event: Finished) -> str:
    """The result of a whole job in one line."""
    if event.job == "segment" and "millilitres" in event.summary:
        return "  ".join(f"{name} {amount:.1f} ml" for name, amount in event.summary["millilitres"].items())
    if event.job == "evaluate":
        return "  ".join(
            f"{label}: mean Dice {_number(by['all']['dice']['mean'])}, labelled slices"
            f" {_number(by['labelled']['dice']['mean'])}"
            for label, by in event.summary.items()
        )
    best = event.summary.get("best_dice") if isinstance(event.summary, dict) else None
    return "" if best is None else f"Best validation Dice {best:.4f}."


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def duration(seconds: float) -> str:
    """``7.3 s``, ``4 min 05 s``, ``2 h 10 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


def print_records(records: list[dict[str, Any]], as_json: bool, columns: dict[str, str]) -> None:
    """A table of records on stdout (``columns``: key -> title), or one JSON object per record and line."""
    if as_json:
        for record in records:
            print(json.dumps(plain(record)))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns.values()))
    for key, title in columns.items():
        table.add_column(title, no_wrap=key not in PROSE, overflow="fold")
    for record in records:
        table.add_row(*(str(record.get(key, "")) for key in columns))
    # a pipe has no width: as wide as the widest table
    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 200)
    console.print(table)
