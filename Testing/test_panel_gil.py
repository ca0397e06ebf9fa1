"""Slicer's main thread never lets go of Python's lock: a background job must progress all the same.

PySide6 releases the lock in its event loop, which hides the matter, so the test holds it as Slicer does: idle in C
through ``ctypes.PyDLL``, which keeps the lock, with a short visit of the event loop in between.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time

import pytest
from host import phantom
from host.desk import Desk
from host.fixtures import *  # noqa: F403
from host.fixtures import slicer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="usleep")


class Counter(threading.Thread):
    """Python work in this process, as a job on a thread would do it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.count, self.isOn = 0, True

    def run(self) -> None:
        while self.isOn:
            self.count += 1

    def rate(self, wait: object, seconds: float) -> float:
        """Counts per second while ``wait()`` is called over and over."""
        before, until = self.count, time.monotonic() + seconds
        while time.monotonic() < until:
            wait()  # type: ignore[operator]
        return (self.count - before) / seconds


def holdLock(milliseconds: int = 20) -> None:
    """Idles in C without releasing Python's lock."""
    ctypes.PyDLL(None).usleep(1000 * milliseconds)


def test_a_job_progresses_while_the_main_thread_holds_the_lock(desk: Desk) -> None:
    counter = Counter()
    counter.start()
    free, held = counter.rate(lambda: time.sleep(0.2), 1.0), counter.rate(lambda: holdLock(200), 1.0)
    counter.isOn = False
    assert held < 0.75 * free, "the lock is not held: the test would prove nothing"
    volume = phantom.addVolume("head", 3, shape=(5, 64, 48))
    desk.segment.ui.volumeSelector.setCurrentNode(volume)
    desk.chooseModel("blobs")
    desk.press(desk.segment.ui.applyButton)
    lockedSeconds, begun = 0.0, time.monotonic()
    while desk.services.jobs.busy:
        start = time.monotonic()
        holdLock()
        lockedSeconds += time.monotonic() - start
        slicer.app.processEvents()
        assert time.monotonic() - begun < 400
    assert "Finished: 5 slices" in desk.segment.ui.statusLabel.text
    assert lockedSeconds > 0.5 * (time.monotonic() - begun)
