"""The child process: ``python -m DeSAMSegmentLib.jobs.worker``.

Standard input takes JSON lines: ``{"id": 1, "request": ...}``, ``{"cancel": 1}``, or, from a parent that got a damaged
line, ``{"again": 1}``, which repeats the end of that job if it has ended. Standard output gives JSON lines:
first ``{"ready": ...}``, then per request ``{"id": 1, "taken": true}`` at once, ``{"id": 1, "event": ...}`` as they
come, and one ``{"id": 1, "end": ...}``. Requests are worked on one after another. Whatever else prints, in Python or
in a C library, lands on standard error.

When standard input ends, the parent is gone, and the process ends with everything it started.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import IO, Any

from .. import __version__
from ..engine.runtime.allocator import give_back, tune_allocator
from ..errors import BadInput, DeSAMError, OutOfMemory
from ..files import make_scratch_folder
from . import protocol
from .runner import Runner

NICENESS = 2  # the viewer's own threads come first


class Worker:
    """Reads requests, writes events.

    Arguments:
      source: lines come from here.
      sink: lines go there.
      runner: carries requests out.
      parent_gone: called when the source ends; without it the process ends, with everything it started.
      far: the parent is on another computer: arrays go in the lines, whatever their size.
      remedies: by kind, of errors that have to be mended on this computer, where no panel is.
    """

    def __init__(
        self,
        source: IO[bytes],
        sink: IO[bytes],
        runner: Any = None,
        parent_gone: Callable[[], None] | None = None,
        far: bool = False,
        remedies: Mapping[str, str] | None = None,
    ) -> None:
        self._source, self._sink = source, sink
        self._runner = runner or Runner()
        self._parent_gone = parent_gone or self._end_process
        self._requests: queue.Queue[tuple[Any, Any] | None] = queue.Queue()
        self._cancelled: set[Any] = set()
        self._ended: tuple[Any, Any] | None = None  # the last job and its end
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._far, self._remedies = far, remedies or {}
        self._folder = make_scratch_folder("worker")

    def serve(self) -> None:
        """Until standard input ends."""
        writer = threading.Thread(target=self._write, daemon=True)
        writer.start()
        facts = {"pid": os.getpid(), "folder": self._folder, "version": protocol.VERSION, "program": __version__}
        self._send({"ready": facts})
        threading.Thread(target=self._read, daemon=True).start()
        try:
            while (item := self._requests.get()) is not None:
                self._answer(*item)
                give_back()
        finally:
            self._lines.put(None)
            writer.join()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _read(self) -> None:
        """Runs in a thread of its own, so that a cancel is seen while a job computes."""
        for line in self._source:
            if line.strip():
                self._take(line)
        self._parent_gone()
        self._requests.put(None)

    def _end_process(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)  # `serve` will not come to it
        end_with_children()

    def _take(self, line: bytes) -> None:
        identifier = None
        try:
            message = protocol.from_line(line)
            identifier = _hashable(message.get("id"))
            if "cancel" in message:
                self._cancelled.add(message["cancel"])
            elif "again" in message:
                if self._ended and self._ended[0] == message["again"]:
                    self._send({"id": self._ended[0], "end": self._ended[1]})
            else:
                request = message["request"]
                self._send({"id": identifier, "taken": True})
                self._requests.put((identifier, request))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._end(identifier, "failed", BadInput(f"The background process did not understand a request: {error}."))

    def _answer(self, identifier: Any, request: Any) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)  # cleaners of /tmp remove what was not used for days
        for old in self._folder.glob("*.npy"):  # the parent has read the last job's result
            with contextlib.suppress(OSError):
                old.unlink()
        how = "finished"
        try:
            with contextlib.closing(self._runner.run(request)) as events:
                for event in events:
                    if identifier in self._cancelled:
                        how = "cancelled"
                        break
                    self._send({"id": identifier, "event": event})
            self._end(identifier, how)  # only now is every file of the job closed, which Windows needs to remove it
        except DeSAMError as error:
            self._end(identifier, "failed", error)
        except MemoryError:
            self._end(identifier, "failed", OutOfMemory("The memory of this computer was not enough.", MEMORY_ADVICE))
        except Exception as error:  # an internal error: the text goes to the panel, the traceback to the log
            traceback.print_exc(file=sys.stderr)
            text = str(error).strip().splitlines() or [""]
            what = f"Internal error: {type(error).__name__}: {text[0]}"
            self._end(identifier, "failed", DeSAMError(what, "The log holds the details."))

    def _end(self, identifier: Any, how: str, error: DeSAMError | None = None) -> None:
        if error and error.kind in self._remedies:
            error = DeSAMError(error.what, self._remedies[error.kind].format(**error.data))
        told = {"what": error.what, "do": error.do, "kind": error.kind, "data": error.data} if error else None
        self._ended = identifier, {"how": how, "error": told}
        self._send({"id": identifier, "end": self._ended[1]})

    def _send(self, message: Any) -> None:
        self._lines.put(protocol.to_line(message, None if self._far else self._folder))

    def _write(self) -> None:
        """A thread of its own: a parent too busy to read must not hold up the job."""
        while (line := self._lines.get()) is not None:
            try:
                self._sink.write(line)
                self._sink.flush()
            except BrokenPipeError:
                self._parent_gone()
                return


def _hashable(identifier: Any) -> Any:
    """Raises TypeError for what cannot name a job."""
    hash(identifier)
    return identifier


MEMORY_ADVICE = "Close other programs or segment fewer slices at a time, then try again."


def end_with_children() -> None:
    """Ends this process and, where the system has process groups, every process it started."""
    if hasattr(os, "killpg") and os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def _own_group() -> None:
    """A process group of one's own, so that the parent can end it with all its children."""
    if hasattr(os, "setsid"):
        with contextlib.suppress(OSError):
            os.setsid()
    if hasattr(os, "nice"):
        with contextlib.suppress(OSError):
            os.nice(NICENESS)


def _private_stdin() -> IO[bytes]:
    """The real standard input; file descriptor 0 reads nothing for everybody else.

    On Windows a library that looks at standard input while it is loaded (OpenBLAS does) would wait for the thread that
    reads it, and that thread waits for the next request.
    """
    private = os.fdopen(os.dup(0), "rb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return private


def _private_stdout() -> IO[bytes]:
    """The real standard output; file descriptor 1 is turned over to standard error for everybody else."""
    sys.stdout.flush()
    private = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return private


def main(**options: Any) -> None:
    """Entry point of ``python -m DeSAMSegmentLib.jobs.worker``, and of ``desam worker`` with options of ``Worker``."""
    _own_group()
    tune_allocator()
    Worker(_private_stdin(), _private_stdout(), **options).serve()


if __name__ == "__main__":
    main()
