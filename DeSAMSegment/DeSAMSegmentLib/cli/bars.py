"""Progress bars with rate and time left, on stderr, if that is a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


class Bars:
    """One bar for the job and, while it lasts, one for the unit it is in."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True)
        self.progress: Progress | None = None
        self.main: Any = None
        self.inner: Any = None

    def start(self, title: str, total: int, unit: str) -> None:
        """Begins the bar of a job; one of an earlier job is replaced."""
        self.close()
        if not self.console.is_terminal:
            return
        self.progress = _bar_set(self.console, unit)
        self.progress.start()
        self.main = self.progress.add_task(title, total=total)

    def move(self, done: int) -> None:
        """``done`` units of the job are finished; the bar inside the unit goes away."""
        if self.progress is None:
            return
        self.progress.update(self.main, completed=done)
        if self.inner is not None:
            self.progress.remove_task(self.inner)
            self.inner = None

    def within(self, text: str, done: int, total: int) -> None:
        """Somewhere inside a unit."""
        if self.progress is None:
            return
        if self.inner is None:
            self.inner = self.progress.add_task(text, total=total)
        self.progress.update(self.inner, description=f"  {text}", completed=done, total=total)

    def print(self, out: Console, line: str) -> None:
        """Prints above the bars when both share the terminal, and plainly otherwise."""
        if self.progress is not None and out.is_terminal:
            self.progress.console.print(line, soft_wrap=True, highlight=False)
        else:
            out.print(line)

    def close(self) -> None:
        if self.progress is not None:
            self.progress.stop()
        self.progress = self.main = self.inner = None


def _bar_set(console: Console, unit: str) -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        """Units per second, or seconds per unit when that is the larger number."""

        def render(self, task: Any) -> Text:
            speed = task.finished_speed or task.speed
            if not speed or task.description.startswith("  "):
                return Text("")
            words = f"{speed:.1f} {unit}s/s" if speed >= 1 else f"{1 / speed:.1f} s/{unit}"
            return Text(words, style="progress.data.speed")

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        speed_estimate_period=1800,  # an epoch may take minutes
    )
