"""Jobs of the panel in the background: prepared, sent, followed and finished in small steps on Qt's timer.

Everything the main thread does for a job happens in ``_tick`` and is cut off after ``BUDGET`` seconds, so the
interface answers at any moment. The job itself computes in another process and does not wait for the main thread.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from ...errors import DeSAMError
from ...files import make_scratch_folder
from ...jobs.client import Client, JobEnd
from .settings import temporaryFolder
from .signal import Signal

TICK = 20  # milliseconds between two looks at the worker
BUDGET = 0.015  # seconds of work per tick


@dataclass
class Job:
    """One job of the panel.

    Attributes:
      prepare: given a folder for temporary files, yields between small steps and returns the request.
      onEvent: for each event of the engine. onTick: a few times a second, to show what has come together.
      finish: after the worker's last word, good or bad: steps that bring the result home.
      onEnd: last of all, exactly once.
    """

    prepare: Callable[[Path], Generator[None, None, Any]]
    onEvent: Callable[[Any], None]
    onEnd: Callable[[JobEnd], None]
    onTick: Callable[[], None] = lambda: None
    finish: Callable[[], Iterator[None]] = field(default=lambda: iter(()))


class BackgroundJobs:
    """One job at a time on one warm worker.

    Arguments:
      client: talks to the worker process.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._job: Job | None = None
        self._steps: Iterator[None] | None = None
        self._afterSteps: Callable[[], None] = lambda: None
        self._folder: Path | None = None
        self.stateChanged = Signal()
        self._timer = qt.QTimer()
        self._timer.setInterval(TICK)
        self._timer.connect("timeout()", self._tick)

    @property
    def busy(self) -> bool:
        return self._job is not None

    @property
    def cancelling(self) -> bool:
        return self._client.cancelling

    def run(self, job: Job) -> None:
        """Starts a job; the caller has made sure that none is running."""
        if self.busy:
            raise RuntimeError("Another job is running.")
        self._job = job
        self._step(self._prepared(job), lambda: None)
        self._timer.start()
        self.stateChanged.emit()

    def cancel(self) -> None:
        """Stops the job after its current slice or step; what is finished stays."""
        if self._client.busy:
            self._client.cancel()
            self.stateChanged.emit()
        elif self.busy:
            self._steps = None
            self._end(JobEnd("cancelled"))

    def stop(self) -> None:
        """Ends worker and job now: scene closed, module reloaded, application quitting."""
        self._client.stop()  # ends a running job as cancelled
        if self.busy:
            self._steps = None
            self._end(JobEnd("cancelled"))

    def _prepared(self, job: Job) -> Iterator[None]:
        self._folder = make_scratch_folder("job", temporaryFolder())
        request = yield from job.prepare(self._folder)
        self._client.submit(request, job.onEvent, self._onWorkerEnd)

    def _onWorkerEnd(self, end: JobEnd) -> None:
        if self._job is not None:
            self._step(self._job.finish(), lambda: self._end(end))

    def _step(self, steps: Iterator[None], afterwards: Callable[[], None]) -> None:
        self._steps, self._afterSteps = steps, afterwards

    def _tick(self) -> None:
        until = time.monotonic() + BUDGET
        if self._steps is not None:
            self._advance(until)
        elif self._client.busy:
            self._client.drain(BUDGET)
            self._client.tick()
        if self._job is not None:
            self._job.onTick()

    def _advance(self, until: float) -> None:
        steps = self._steps
        try:
            while self._steps is steps and time.monotonic() < until:
                next(steps)  # type: ignore[arg-type]
        except StopIteration:
            if self._steps is steps:
                self._steps = None
            self._afterSteps()
        except (DeSAMError, OSError) as error:
            self._steps = None
            self._end(JobEnd("failed", asError(error)))
        except Exception as error:  # an internal error, or too little memory: the panel must not stay busy for ever
            logging.exception("DeSAM: a step of a job failed")
            self._steps = None
            what = _("Internal error: {kind}: {error}.").format(kind=type(error).__name__, error=error)
            self._end(JobEnd("failed", DeSAMError(what, _("The log holds the details."))))

    def _end(self, end: JobEnd) -> None:
        job, self._job = self._job, None
        self._timer.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None
        try:
            if job is not None:
                job.onEnd(end)
        finally:
            self.stateChanged.emit()


def asError(error: Exception) -> DeSAMError:
    return error if isinstance(error, DeSAMError) else DeSAMError(str(error))
