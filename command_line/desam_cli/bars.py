"""How far a job is: bars on a terminal, and now and then a line where the output goes to a file."""

from __future__ import annotations

import time

from DeSAMSegmentLib.engine.pace import Pace
from DeSAMSegmentLib.errors import JOINERS
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

EVERY = 30.0  # seconds between two lines in a file


class Bars:
    """One bar for the job and, while it lasts, one for the unit it is in; on stderr, so that results stay apart."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.progress: Progress | None = None  # of the job that is running
        self.title, self.unit, self.total = "", "", 0
        self.pace, self.inner_pace = Pace(), Pace()
        self.begun = self.said = 0.0

    def start(self, title: str, total: int, unit: str) -> None:
        """Begins the bar of a job; one of an earlier job is replaced."""
        self.close()
        self.title, self.unit, self.total = visible(title), unit, total
        self.pace, self.inner_pace = Pace(), Pace()
        self.begun = self.said = time.monotonic()
        self.pace.note(self.begun, 0)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[words]}"))
        drawn = self.console.is_terminal
        self.progress = Progress(*columns, console=self.console, transient=True, disable=not drawn)
        self.progress.start()
        self.main = self.progress.add_task(self.title, total=total, words=f"0/{total}")
        self.inner = self.progress.add_task("", visible=False, words="")

    def move(self, done: int) -> None:
        """``done`` units of the job are finished; the bar inside the unit goes away."""
        self.inner_pace = Pace()
        self._update(self.main, self.pace, self.title, done, self.total, self.unit)
        if self.progress is not None:
            self.progress.update(self.inner, visible=False)

    def within(self, text: str, done: int, total: int) -> None:
        """Somewhere inside a unit."""
        if done <= 1:
            self.inner_pace = Pace()
        self._update(self.inner, self.inner_pace, text, done, total)

    def _update(self, task: TaskID, pace: Pace, text: str, done: int, total: int, unit: str = "") -> None:
        """The bar, with ``44/78 · 5.1 s per slice · 2 min 55 s left``; inside a unit also what is left of the job. In a
        file a line every EVERY seconds, with the time since the job began."""
        if self.progress is None:  # between two jobs
            return
        now = time.monotonic()
        pace.note(now, done)
        left, parts = pace.seconds_left(total), [f"{done}/{total}"]
        if unit and pace.rate > 0:
            parts.append(f"{pace.rate:.1f} {unit}s/s" if pace.rate >= 1 else f"{1 / pace.rate:.1f} s per {unit}")
        if left is not None and done < total:
            parts.append(f"{duration(left)} left")
        if task == self.inner and (whole := self.pace.seconds_left(self.total)):
            parts.append(f"{duration(whole)} in all")
        text, words = visible(text), " · ".join(parts)
        indent = "  " if task == self.inner else ""
        self.progress.update(task, description=indent + text, completed=done, total=total, words=words, visible=True)
        if not self.console.is_terminal and now - self.said >= EVERY:
            self.said = now
            print(f"{duration(now - self.begun)}  {text}: {words}", file=self.console.file, flush=True)

    def print(self, out: Console, line: Text) -> None:
        """Prints above the bars when both share the terminal, and plainly otherwise."""
        shared = self.progress is not None and out.is_terminal and self.console.is_terminal
        line.plain = visible(line.plain)
        # soft_wrap: a path that is broken in two cannot be copied
        (self.console if shared else out).print(line, soft_wrap=True)

    def close(self) -> None:
        if self.progress is not None:
            self.progress.stop()
        self.progress = None


def visible(text: str) -> str:
    """As long as the text, and nothing in it steers a terminal or turns its direction: names come from files."""
    return text if text.isprintable() else "".join(c if c.isprintable() or c in JOINERS else "?" for c in text)


def duration(seconds: float) -> str:
    """``7.3 s``, ``4 min 05 s``, ``2 h 10 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"
