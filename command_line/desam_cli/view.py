"""Two ways to follow a job: drawn with rich for people, one JSON object per event and line for scripts.

Results and log go to stdout. Progress bars go to stderr and only to a terminal, so that a log file stays
readable and an error stays one line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from DeSAMSegmentLib.engine import events
from DeSAMSegmentLib.store.card import json_ready
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .bars import Bars, duration, visible

PROSE = ("title", "value", "labels", "problem")  # columns of a table that may be broken into lines
Show = Callable[[events.Event], None]  # draws or prints the events of a job, in order


def follow(job: Iterable[events.Event], as_json: bool, stopped: Callable[[], str] | None = None) -> Any:
    """Shows the events of a job; returns the last. ``stopped`` words what Ctrl-C leaves."""
    with shown(as_json) as show:
        try:
            for event in job:
                show(event)
        except KeyboardInterrupt:
            if stopped is not None:
                show(events.Log(stopped()))
            raise
    return event


@contextmanager
def shown(as_json: bool) -> Iterator[Show]:
    """The way of showing events that the user asked for."""
    view = TextView()
    try:
        yield print_event if as_json else view.show
    finally:
        view.close()


def print_event(event: events.Event) -> None:
    """The event's fields as one line of JSON; a slice's label map as voxels per value, results left out."""
    record: dict[str, Any] = {"event": type(event).__name__}
    for name, value in vars(event).items():
        if name == "labels":
            pairs = zip(*np.unique(value, return_counts=True), strict=True)
            record["pixels"] = {label: count for label, count in pairs if label}
        elif name != "result":
            record[name] = value
    print_json(record)


class TextView:
    """Lines and progress bars for people."""

    def __init__(self) -> None:
        self.out = Console()
        self.bars = Bars()
        self.unit = ""
        self.named: set[Path] = set()  # files already named: the best model is saved again and again

    def close(self) -> None:
        self.bars.close()

    def show(self, event: events.Event) -> None:
        if line := self._line(event):
            self.bars.print(self.out, line)
        match event:
            case events.Started():
                self.unit = event.unit
                self.bars.start(event.title, event.total, event.unit)
            case events.SliceDone() | events.CaseDone() | events.CaseFailed():
                self.bars.move(event.done)
            case events.EpochDone():
                self.bars.move(event.epoch)
            case events.Progress():
                self.bars.within(event.text, event.done, event.total)
            case events.Finished():
                self.bars.close()

    def _line(self, event: events.Event) -> Text:
        """What is printed for an event; empty for what only moves a bar."""
        match event:
            case events.Started():
                count = f"{event.total} {event.unit}" + ("" if event.total == 1 else "s")
                return Text.assemble((event.title, "bold"), f": {count} on {event.device}")
            case events.Log():
                return Text(event.text, "yellow" if event.level == "warning" else "")
            case events.EpochDone():
                dice = "" if event.validation_dice is None else f"  validation Dice {event.validation_dice:.4f}"
                words = f"epoch {event.epoch}/{event.epochs}  loss {event.loss:.4f}{dice}  {duration(event.seconds)}"
                return Text.assemble(words, ("  best so far" if event.best else "", "green"))
            case events.CaseDone():
                return Text(f"[{event.done}/{event.total}] {event.case}  {case_words(event.metrics)}")
            case events.CaseFailed():
                failed = (f"{event.case} failed", "red")
                return Text.assemble(f"[{event.done}/{event.total}] ", failed, f": {event.reason}")
            case events.Saved() if self._is_news(event):
                return Text(f"{event.what}: {event.path}")
            case events.Finished():
                words = f" in {duration(event.seconds)}. {finished_words(event)}"
                return Text.assemble(("Done", "bold"), words.rstrip())
        return Text()

    def _is_news(self, event: events.Saved) -> bool:
        """Whether to name a file: once, and those of the single cases of an evaluation only in its report."""
        if event.path in self.named or (self.unit == "case" and event.what != "report"):
            return False
        self.named.add(event.path)
        return True


def case_words(metrics: dict[str, Any]) -> str:
    """A segmented case as millilitres per label; a scored one as Dice per label and protocol."""
    if "millilitres" in metrics:
        return _volumes(metrics)
    return "  ".join(
        f"{label}: Dice {_number(by['all']['dice'])} (labelled {_number(by['labelled']['dice'])})"
        for label, by in metrics.items()
    )


def finished_words(event: events.Finished) -> str:
    """The result of a whole job in one line."""
    if event.job == "segment":
        return _volumes(event.summary)
    if event.job == "evaluate":
        return "  ".join(
            f"{label}: mean Dice {_number(by['all']['dice']['mean'])}, labelled slices"
            f" {_number(by['labelled']['dice']['mean'])}"
            for label, by in event.summary.items()
        )
    best = event.summary.get("best_dice")
    return "" if best is None else f"Best validation Dice {best:.4f}."


def _volumes(summary: dict[str, Any]) -> str:
    return "  ".join(f"{name} {amount:.1f} ml" for name, amount in summary["millilitres"].items())


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def say(*lines: object) -> None:
    """Lines on stdout; names in them may come from files."""
    print(*(visible(str(line)) for line in lines), sep="\n")


def print_json(record: Any) -> None:
    """One line of JSON on stdout."""
    print(json.dumps(json_ready(record)), flush=True)


def print_records(records: list[dict[str, Any]], as_json: bool, columns: dict[str, str]) -> None:
    """A table of records on stdout (``columns``: key -> title), or one JSON object per record and line."""
    if as_json:
        for record in records:
            print_json(record)
        return
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns.values()))
    for key, title in columns.items():
        table.add_column(title, no_wrap=key not in PROSE, overflow="fold")
    for record in records:
        table.add_row(*(visible(str(record.get(key, ""))) for key in columns))
    # a pipe has no width: as wide as the widest table
    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 200)
    console.print(table)
