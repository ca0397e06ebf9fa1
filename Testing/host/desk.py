"""A person at the panel: chooses, presses, waits and looks; measures how long the interface kept them waiting."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer

from . import loadModule, qt

MODULE = Path(__file__).resolve().parents[2] / "DeSAMSegment" / "DeSAMSegment.py"
PATIENCE = 540.0  # seconds; this machine may be busy with other things


class Answers:
    """Stands in for ``panel/kit/questions.py``: answers what the test expects to be asked, and remembers."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.nextPath: Path | None = None
        self.nextText = ""
        self.nextChoice: int | None = 0
        self.agrees = True

    def confirm(self, title: str, text: str, yes: str, details: str = "") -> bool:
        self.asked.append(f"{title} {text} {details}")
        return self.agrees

    def choose(self, title: str, text: str, answers: list[str]) -> int | None:
        self.asked.append(f"{title} {text}")
        return self.nextChoice

    def text(self, title: str, label: str, initial: str = "") -> str:
        self.asked.append(title)
        return self.nextText

    def openFile(self, title: str, filters: str) -> Path | None:
        return self.nextPath

    def saveFile(self, title: str, name: str, filters: str) -> Path | None:
        return self.nextPath

    def folder(self, title: str) -> Path | None:
        return self.nextPath

    def tell(self, title: str, text: str) -> None:
        self.asked.append(f"{title} {text}")


class Desk:
    """The open panel with its sections at hand."""

    def __init__(self) -> None:
        self.module = loadModule(MODULE)
        self.widget = self.module.openPanel()
        self.answers = Answers()
        self.services.questions = self.answers
        self.services.installer._questions = self.answers

    @property
    def services(self) -> Any:
        return self.widget.panel.services

    def __getattr__(self, name: str) -> Any:
        """``desk.segment``, ``desk.review``, ``desk.fineTune``, ``desk.models``, ``desk.advanced``."""
        return getattr(self.widget.panel, name)

    def close(self) -> None:
        self.module.closePanel()
        slicer.app.processEvents()

    def press(self, button: Any) -> None:
        """A click on a visible, enabled button."""
        assert button.enabled, f"{button.text} cannot be pressed: {button.toolTip}"
        button.click()
        slicer.app.processEvents()

    def chooseModel(self, name: str) -> None:
        """A click on a line of the model list."""
        models = self.segment.ui.modelList
        rows = [row for row in range(models.count) if models.item(row).data(qt.Qt.UserRole) == name]
        assert rows, f"{name} is not in the list"
        models.setCurrentRow(rows[0])

    def waitUntil(self, condition: Callable[[], Any]) -> None:
        """Lets Qt work until the condition holds."""
        seconds = PATIENCE
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, f"waited {seconds} s in vain; the panel says: {self.words()}"
            slicer.app.processEvents()
            time.sleep(0.002)

    def waitUntilIdle(self) -> None:
        self.waitUntil(lambda: not self.services.jobs.busy)
        slicer.app.processEvents()

    def words(self) -> str:
        """What the sections say at the moment."""
        labels = (self.segment.ui.statusLabel, self.fineTune.ui.trainStatusLabel, self.models.ui.modelsStatusLabel)
        return " | ".join(label.text for label in labels if label.text)

    def workerPid(self) -> int:
        """Of the background process that is working now."""
        return int(self.services.jobs._client.worker_pid or 0)


def waitedForProcessor() -> float:
    """Seconds that this thread was ready to run but other programs had the processors; 0 where the system won't say."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


class Pulse:
    """A timer that should fire every 10 ms: its longest gap is how long the interface did not answer.

    ``longest`` leaves out the time in which other programs had the processors; ``longestSeen`` does not.
    """

    def __init__(self) -> None:
        self._timer = qt.QTimer()
        self._timer.setInterval(10)
        self._timer.setTimerType(qt.Qt.PreciseTimer)
        self._timer.connect("timeout()", self._beat)
        self.longest = self.longestSeen = 0.0
        self._last = (0.0, 0.0)

    def __enter__(self) -> Pulse:
        self._last = time.monotonic(), waitedForProcessor()
        self._timer.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._timer.stop()

    def _beat(self) -> None:
        now, waited = time.monotonic(), waitedForProcessor()
        gap = now - self._last[0]
        self.longestSeen = max(self.longestSeen, gap)
        self.longest = max(self.longest, gap - (waited - self._last[1]))
        self._last = now, waited
