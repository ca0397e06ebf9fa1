"""The parent's side of the worker: request ids, line buffering, states, and words for a worker's death.

No Qt and no thread: whoever owns the event loop calls ``feed`` when output arrives and ``drain`` when there is time.

    client = Client(process)
    client.submit(request, on_event=print, on_end=print)
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..engine.events import Event
from ..errors import DeSAMError
from . import protocol

LIBRARY_HOME = Path(__file__).resolve().parents[2]  # the folder that holds DeSAMSegmentLib
WORKER_ARGUMENTS = ["-m", "DeSAMSegmentLib.jobs.worker"]

CANCEL_SECONDS = 15.0  # a worker that does not stop by then is killed; finished slices are here already
PATIENCE = 5.0  # seconds without the rest of a line that has begun
GARBLED = 5  # ends of a job that make no sense, after which nothing better will come
ANSWER_SECONDS = 120.0  # a worker that has not even taken the request by then never will; a cold start needs 1 to 20
STDERR_LINES = 60


class Process(Protocol):
    """A child process that speaks through three callbacks; QProcess and subprocess both fit."""

    on_output: Callable[[bytes], None]
    on_errors: Callable[[bytes], None]
    on_exit: Callable[[int, int], None]  # exit code, signal number (0 = none)

    def start(self) -> None: ...
    def write(self, data: bytes) -> None: ...
    def kill(self) -> None: ...
    def running(self) -> bool: ...


ENDS = ("finished", "cancelled", "failed")


@dataclass(frozen=True)
class JobEnd:
    """How a job ended; ``error`` says why it failed."""

    how: str  # one of ENDS
    error: DeSAMError | None = None

    @property
    def failed(self) -> bool:
        return self.how == "failed"


@dataclass
class _Job:
    identifier: int
    on_event: Callable[[Event], None]
    on_end: Callable[[JobEnd], None]
    submitted_at: float
    cancelled_at: float | None = None
    is_taken: bool = False
    garbled: int = 0  # ends that made no sense


class Client:
    """Starts the worker with the first request and keeps it warm; one job at a time.

    Arguments:
      process: the child process, not started.
      clock: seconds; tests turn it by hand.
      kill_tree: ends a process group by the worker's own process id.
    """

    def __init__(
        self,
        process: Process,
        clock: Callable[[], float] = time.monotonic,
        kill_tree: Callable[[int], None] | None = None,
    ) -> None:
        self._process, self._clock, self._kill_tree = process, clock, kill_tree or kill_tree_of
        process.on_output, process.on_errors, process.on_exit = self.feed, self._note, self._exited
        self._partial, self._fed_at = b"", 0.0
        self._lines: deque[bytes] = deque()
        self._errors: deque[str] = deque(maxlen=STDERR_LINES)
        self._job: _Job | None = None
        self._next = 1
        self.worker_pid: int | None = None
        self._worker_folder: Any = None
        self.on_log: Callable[[str], None] = lambda text: None

    @property
    def busy(self) -> bool:
        return self._job is not None

    @property
    def cancelling(self) -> bool:
        return self._job is not None and self._job.cancelled_at is not None

    def submit(self, request: Any, on_event: Callable[[Event], None], on_end: Callable[[JobEnd], None]) -> int:
        """Sends a request; ``on_end`` is called exactly once, after the last ``on_event``."""
        if self.busy:
            raise RuntimeError("The worker is busy: cancel its job or wait for it.")
        job = _Job(self._next, on_event, on_end, self._clock())
        self._job, self._next = job, self._next + 1
        if not self._process.running():
            self._reset()
            self._process.start()
        if self._job is job:  # a process that cannot start has ended the job already
            self._process.write(protocol.to_line({"id": job.identifier, "request": request}))
        return job.identifier

    def cancel(self) -> None:
        """Asks the running job to stop after its current unit; ``tick`` ends a worker that does not listen."""
        if self._job is not None and self._job.cancelled_at is None:
            self._job.cancelled_at = self._clock()
            self._process.write(protocol.to_line({"cancel": self._job.identifier}))

    def tick(self) -> None:
        """Call now and then: kills a worker that ignores a cancel, or that has not answered at all."""
        job = self._job
        if job is None:
            return
        if job.cancelled_at is not None and self._clock() - job.cancelled_at > CANCEL_SECONDS:
            self.stop()
        elif not job.is_taken and self._clock() - job.submitted_at > ANSWER_SECONDS:
            self._fail(job, no_answer())
        elif self._partial and self._clock() - self._fed_at > PATIENCE:
            self._fed_at = self._clock()
            self._ask_again(job)

    def stop(self) -> None:
        """Ends the worker and its children now; a running job ends as cancelled."""
        job = self._job
        self._kill()
        if job is not None:
            job.on_end(JobEnd("cancelled"))

    def _kill(self) -> None:
        self._job = None
        if self._process.running():
            if self.worker_pid is not None:
                self._kill_tree(self.worker_pid)
            self._process.kill()
        self._reset()

    def feed(self, data: bytes) -> None:
        """Takes output as it comes, in pieces of any size; ``drain`` acts on it."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        self._fed_at = self._clock()
        self._lines.extend(line for line in lines if line.strip())

    def drain(self, seconds: float = float("inf")) -> bool:
        """Delivers waiting messages for at most about ``seconds``; True when some are left."""
        until = self._clock() + seconds
        while self._lines:
            self._deliver(self._lines.popleft())
            if self._clock() >= until:
                break
        return bool(self._lines)

    def _deliver(self, line: bytes) -> None:
        job = self._job
        try:
            message = protocol.from_line(line)
            if not isinstance(message, dict):
                raise ValueError("no object")
            if "ready" in message:
                self.worker_pid, self._worker_folder = _worker_of(message["ready"])
                return
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self.on_log(f"Output of the background process that is no message: {error}")
            if job is not None:
                self._ask_again(job)
            return
        if job is None:
            return
        identifier = message.get("id")
        if identifier is None and not job.is_taken:
            identifier = job.identifier  # the request did not arrive whole, its number included
        if identifier != job.identifier:
            self._ask_again(job)
            return
        job.is_taken = True
        if "event" in message:
            self._hand_on(job, message["event"])
        elif "end" in message:
            self._finish(job, message["end"])
        elif "taken" not in message:
            self._ask_again(job)

    def _ask_again(self, job: _Job) -> None:
        """What was damaged may have been the end of the job: the worker repeats it, if it has ended."""
        self._process.write(protocol.to_line({"again": job.identifier}))

    def _hand_on(self, job: _Job, event: Any) -> None:
        if not isinstance(event, Event):
            self.on_log("An event of a kind that this version does not know was left out.")
            return
        try:
            job.on_event(event)
        except Exception as error:  # such as a slice that the volume does not have
            logging.exception("DeSAM: an event of a job failed")
            what = f"Internal error: {type(error).__name__}: {error}."
            self._fail(job, error if isinstance(error, DeSAMError) else DeSAMError(what, "The log holds the details."))

    def _finish(self, job: _Job, end: Any) -> None:
        try:
            how, told = str(end["how"]), end["error"]
            failure = DeSAMError(told["what"], told["do"], kind=told["kind"], **told["data"]) if told else None
            if how not in ENDS or (how == "failed") != bool(failure):
                raise ValueError(how)
        except (ValueError, KeyError, TypeError, AttributeError):
            job.garbled += 1
            if job.garbled < GARBLED:
                self._ask_again(job)
            else:
                self._fail(job, no_answer())
            return
        self._job = None
        job.on_end(JobEnd(how, failure))

    def _fail(self, job: _Job, error: DeSAMError) -> None:
        if self._job is job:
            self._kill()
            job.on_end(JobEnd("failed", error))

    def _note(self, data: bytes) -> None:
        for line in data.decode("utf-8", "replace").splitlines():
            if line.strip():
                self._errors.append(line)
                self.on_log(line)

    def _exited(self, code: int, signal_number: int) -> None:
        self.drain()
        job, self._job = self._job, None
        started = self.worker_pid is not None
        self._reset(keep_errors=True)
        if job is None:
            return
        if job.cancelled_at is not None:
            job.on_end(JobEnd("cancelled"))
        else:
            job.on_end(JobEnd("failed", error_of_death(code, signal_number, list(self._errors), started)))

    def _reset(self, keep_errors: bool = False) -> None:
        if self._worker_folder is not None:  # of a worker that could not clean up behind itself
            shutil.rmtree(self._worker_folder, ignore_errors=True)
        self._partial, self.worker_pid, self._worker_folder = b"", None, None
        self._lines.clear()
        if not keep_errors:
            self._errors.clear()


def _worker_of(ready: Any) -> tuple[int, Path | None]:
    """Process id and scratch folder: what the one names is killed, what the other names removed. Raises ValueError."""
    pid, folder = ready["pid"], ready.get("folder")
    if type(pid) is not int or pid < 2 or (folder is not None and not Path(folder).name.startswith("desam-")):
        raise ValueError("no process of ours")
    return pid, folder


KEPT = "Everything finished so far is kept."


def no_answer() -> DeSAMError:
    return DeSAMError("The background process does not answer.", "Try again.", kind="worker-no-answer")


def error_of_death(code: int, signal_number: int, errors: list[str], started: bool) -> DeSAMError:
    """What happened, from what is left of a worker that ended in the middle of a job."""
    last = next((line.strip() for line in reversed(errors) if "Error" in line), "")
    if "No module named" in last:
        return DeSAMError(f"A Python package is missing ({last}).", "Install it.", kind="package-missing")
    if "DLL load failed" in last or "cannot open shared object" in last:
        return DeSAMError(f"A Python package cannot be loaded ({last}).", "Install it again.", kind="package-broken")
    out_of_memory = "most often because memory ran out"
    if signal_number == getattr(signal, "SIGKILL", 9) or code == 137:
        what = f"The background process was ended by the system, {out_of_memory}. {KEPT}"
        return DeSAMError(what, "Close other programs or use fewer points, then try again.", kind="worker-killed")
    if any("exit abnormally" in line for line in errors):  # Slicer's launcher stands between: no signal gets through
        what = f"The background process crashed or was ended by the system, {out_of_memory}. {KEPT}"
        return DeSAMError(what, "Close other programs or use fewer points, then try again.", kind="worker-lost")
    if signal_number:
        what = f"The background process crashed (signal {signal_number}). {KEPT}"
        return DeSAMError(what, "Try again; if it crashes again, use the CPU.", kind="worker-crashed")
    if not started:
        detail = f" ({last})" if last else ""
        what = f"The background process could not start{detail}."
        return DeSAMError(what, "Install the Python packages again.", kind="worker-no-start")
    what = f"The background process ended unexpectedly (exit code {code}). {KEPT}"
    return DeSAMError(what, "Try again; the log holds the details.", kind="worker-ended")


def worker_environment() -> dict[str, str]:
    """This environment, with the library importable in the child."""
    environment = dict(os.environ)
    paths = [str(LIBRARY_HOME), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return environment


NO_WINDOW = 0x08000000 if os.name == "nt" else 0  # CREATE_NO_WINDOW: a console would flash


def kill_tree_of(pid: int) -> None:
    """Ends the worker's process group (POSIX) or process tree (Windows)."""
    try:
        if hasattr(os, "killpg"):
            os.killpg(pid, signal.SIGKILL)  # the worker made itself the leader of a group
        else:
            subprocess.run(
                ["taskkill", "/T", "/F", "/PID", str(pid)], capture_output=True, check=False, creationflags=NO_WINDOW
            )
    except (ProcessLookupError, PermissionError):
        pass  # gone already, or never became a group of its own
