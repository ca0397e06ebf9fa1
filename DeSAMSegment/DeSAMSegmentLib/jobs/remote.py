"""A worker on another computer, through the user's own OpenSSH client: the device ``ssh HOST``.

``ssh HOST desam worker`` speaks the lines of ``worker.py``, with every array in its line: no file is named that the
other side would have to see. ssh brings the account, the encryption and the way there; the worker ends with it. A
model is sent once and kept there by its digest; features stay in that computer's own cache.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from .. import __version__
from ..data.volume import Volume
from ..engine.events import Event, Finished, Log, SliceDone, Started
from ..engine.options import SegmentOptions
from ..engine.segment.files import segment_file
from ..errors import BadInput, DeSAMError
from . import protocol
from .client import KEPT, NO_WINDOW
from .requests import ModelRequest, SegmentFileRequest, SegmentRequest

COMMAND = ("desam", "worker")
OPTIONS = ("-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=5",
           "-o", "ServerAliveCountMax=3")  # fmt: skip
HOST = re.compile(r"[\w.%+-]+@[\w.:\[\]%-]+|\w[\w.:%-]*", re.ASCII)  # nothing that ssh would take for an option
FAILED = 255  # ssh's own exit code: no connection, or no longer
TELLING = 60  # lines of ssh's and the worker's errors that are kept
# What ssh says (its messages are in English everywhere) -> what happened, and what to do
REASONS = (
    ("host key verification failed", "The key of {host} is not known here, or has changed.",
     "Run `ssh {host}` once in a terminal and accept its key."),
    ("permission denied", "{host} did not accept your key.",
     "Put your public key there (`ssh-copy-id {host}`), and load it into ssh-agent if it has a passphrase."),
    ("could not resolve", "There is no computer called {host}.",
     "Check the name; what works as `ssh {host}` in a terminal works here."),
    ("", "{host} cannot be reached ({last}).", "See whether `ssh {host}` works in a terminal."),
)  # fmt: skip
INSTALL = (
    "Install it there (`pip install desam-segment`), with a link to it in a folder that is on the PATH without a "
    "login: `ssh {host} desam` has to print its help."
)


def host_of(device: str) -> str | None:
    """HOST of the device ``ssh HOST``; None for a device of this computer."""
    word, _, host = device.strip().partition(" ")
    return host.strip() if word == "ssh" else None


class RemoteWorker:
    """One connection, kept for many jobs, and made anew when one finds that it is gone.

    Arguments:
      host: as for ssh: ``host``, ``user@host``, or a name in ``~/.ssh/config``.

    Raises:
      DeSAMError: no ssh here, no way there, no ``desam`` there, or one that does not fit to this one.
    """

    def __init__(self, host: str) -> None:
        if not HOST.fullmatch(host):
            raise BadInput(f"{host!r} is no name of a computer.", "Use `ssh HOST` or `ssh USER@HOST` as the device.")
        self.host = host
        self._number = 0
        self._connect()

    def _connect(self) -> None:
        self._errors: deque[str] = deque(maxlen=TELLING)
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                ["ssh", *OPTIONS, self.host, *COMMAND],
                stdin=pipe, stdout=pipe, stderr=pipe, env=_environment(), creationflags=NO_WINDOW,
            )  # fmt: skip
        except OSError as error:
            what = f"OpenSSH's program ssh cannot be started here ({error.strerror})."
            raise BadInput(what, "Install the OpenSSH client.") from None
        self._reader = threading.Thread(target=self._note, daemon=True)
        self._reader.start()
        self._greet()

    def close(self) -> None:
        """Ends the connection, and with it the worker there."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def events(self, request: SegmentRequest | SegmentFileRequest) -> Generator[Event, None, None]:
        """The events of a job there; closing the generator cancels it. Files are read and written here.

        Raises:
          DeSAMError: what the job ends with, or that the connection was lost.
        """
        from ..store.library import Library
        from ..store.model_file import read_card

        if self._process.poll() is not None:
            self.close()
            self._connect()
        if isinstance(request, SegmentFileRequest):
            card = read_card(Library().resolve(request.model))
            begin = partial(RemoteRun, worker=self, model=request.model, options=request.options)
            return segment_file(request.target, card, begin)
        return self._segmented(request)

    def _segmented(self, request: SegmentRequest) -> Generator[Event, None, None]:
        from ..store.library import Library
        from ..store.weights import hash_file

        model = Library().resolve(request.model)
        digest = hash_file(model)
        place = self._result(ModelRequest(digest))
        place = place or self._result(ModelRequest(digest, np.fromfile(model, np.uint8)))
        if self._version != __version__:
            yield Log(f"{self.host} has DeSAM {self._version}, this computer {__version__}.", "warning")
        volume = request.volume
        whole = Volume(np.array(volume.array), volume.ijk_to_ras, volume.name)  # no file that is mapped
        for event in self._job(SegmentRequest(whole, str(place), request.options)):
            yield replace(event, device=f"{event.device} ({self.host})") if isinstance(event, Started) else event

    def _result(self, request: ModelRequest) -> Any:
        return next(event.result for event in self._job(request) if isinstance(event, Finished))

    def _job(self, request: Any) -> Iterator[Event]:
        self._number += 1
        number, has_ended = self._number, False
        self._write({"id": number, "request": request})
        try:
            for message in self._messages():
                if message.get("id") != number:
                    continue  # the rest of a job that was cancelled
                if isinstance(message.get("event"), Event):
                    yield message["event"]
                elif "end" in message:
                    has_ended = True
                    self._raise(message["end"]["error"])
                    return
            has_ended = True
            raise self._lost()
        finally:
            if not has_ended:
                self._write({"cancel": number})

    def _raise(self, told: dict[str, Any] | None) -> None:
        if told:
            raise DeSAMError(f"{self.host}: {told['what']}", told["do"], kind=told["kind"], **told["data"])

    # ---- lines ----

    def _greet(self) -> None:
        """Waits for the worker's first line; what a login prints before it is left out."""
        for message in self._messages(is_greeted=False):
            if "ready" in message:
                ready = message["ready"]
                break
        else:
            raise self._no_start()
        self._version = str(ready.get("program"))
        if ready.get("version") != protocol.VERSION:
            self.close()
            what = f"DeSAM on {self.host} ({self._version}) and here ({__version__}) do not understand each other."
            raise DeSAMError(what, "Install the same version on both.")

    def _write(self, message: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(protocol.to_line(message))
            self._process.stdin.flush()
        except (OSError, ValueError):
            pass  # the end of its output tells why

    def _messages(self, is_greeted: bool = True) -> Iterator[dict[str, Any]]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                message = protocol.from_line(line)
            except ValueError as error:
                if is_greeted:
                    self.close()
                    raise DeSAMError(f"What {self.host} sent is damaged ({error}). {KEPT}", "Try again.") from None
            else:
                if isinstance(message, dict):
                    yield message

    def _note(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            for line in stream:
                self._errors.append(line.decode("utf-8", "replace").strip())

    # ---- why there is no answer ----

    def _ending(self) -> tuple[int, str, str]:
        """Exit code, all that was said on standard error, and its last line."""
        code = self._process.wait()
        self._reader.join(2)
        said = [line for line in self._errors if line]
        return code, "\n".join(said).lower(), said[-1] if said else f"exit code {code}"

    def _no_start(self) -> DeSAMError:
        code, said, last = self._ending()
        if code == FAILED:
            what, do = next((what, do) for words, what, do in REASONS if words in said)
        elif "no such command" in said:
            what, do = "DeSAM on {host} is too old to work over ssh.", "Install the same version there as here."
        elif code == 127 or "not found" in said or "is not recognized" in said:
            what, do = "There is no program desam on {host}.", INSTALL
        else:
            what, do = "DeSAM could not start on {host} ({last}).", "See what `ssh {host} desam` says in a terminal."
        words = what.format(host=self.host, last=last), do.format(host=self.host)
        return BadInput(*words, kind="no-connection", host=self.host)

    def _lost(self) -> DeSAMError:
        code, _, last = self._ending()
        if code == FAILED:
            what, do = f"The connection to {self.host} was lost ({last}). {KEPT}", "Try again when it is there."
        else:
            what, do = f"The worker on {self.host} ended unexpectedly ({last}). {KEPT}", "Try again."
        return DeSAMError(what, do, kind="connection-lost", host=self.host)


class RemoteRun:
    """One volume that is segmented there. ``labels`` (K, J, I) holds the slices that are finished."""

    def __init__(self, volume: Volume, worker: RemoteWorker, model: str, options: SegmentOptions) -> None:
        self.labels = np.zeros(volume.array.shape, np.uint8)
        self._events = worker.events(SegmentRequest(volume, model, options))

    def events(self) -> Iterator[Event]:
        with closing(self._events):
            for event in self._events:
                if isinstance(event, SliceDone):
                    self.labels = self.labels.astype(event.labels.dtype, copy=False)
                    np.moveaxis(self.labels, event.axis, 0)[event.index] = event.labels
                yield event


def _environment() -> dict[str, str]:
    """This environment without Slicer's own libraries, which the system's ssh cannot be run with."""
    environment, slicer = dict(os.environ), os.environ.get("SLICER_HOME")
    for name in ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH") if slicer else ():
        parts = environment.get(name, "").split(os.pathsep)
        environment[name] = os.pathsep.join(part for part in parts if part and not part.startswith(str(slicer)))
    return environment
