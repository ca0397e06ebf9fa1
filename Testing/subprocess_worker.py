"""The worker as a ``subprocess`` child, for tests; the panel uses QProcess (``panel/kit/process.py``)."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

from DeSAMSegmentLib.jobs.client import WORKER_ARGUMENTS, worker_environment


class SubprocessProcess:
    """Fits ``client.Process``. Output is collected by two small threads and handed over in ``poll``."""

    def __init__(self, program: str = sys.executable, arguments: list[str] | None = None) -> None:
        self._command = [program, *(arguments or WORKER_ARGUMENTS)]
        self._child: subprocess.Popen[bytes] | None = None
        self._chunks: SimpleQueue[tuple[bool, bytes]] = SimpleQueue()
        self._readers: list[threading.Thread] = []
        self.on_output: Callable[[bytes], None] = lambda data: None
        self.on_errors: Callable[[bytes], None] = lambda data: None
        self.on_exit: Callable[[int, int], None] = lambda code, signal_number: None

    def start(self) -> None:
        pipe = subprocess.PIPE
        self._child = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=pipe, env=worker_environment())
        streams = ((self._child.stdout, False), (self._child.stderr, True))
        self._readers = [threading.Thread(target=self._read, args=stream, daemon=True) for stream in streams]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: object, is_error: bool) -> None:
        while data := os.read(stream.fileno(), 1 << 16):  # type: ignore[attr-defined]
            self._chunks.put((is_error, data))

    def write(self, data: bytes) -> None:
        if self._child is not None and self._child.stdin is not None:
            try:
                self._child.stdin.write(data)
                self._child.stdin.flush()
            except BrokenPipeError:
                pass  # on_exit tells

    def poll(self, seconds: float = 0.0) -> None:
        """Hands over what has arrived, waiting for the first piece at most ``seconds``; then tells of an exit."""
        ended = self._child is not None and self._child.poll() is not None
        if ended:
            for reader in self._readers:
                reader.join(2)
        try:
            while True:
                is_error, data = self._chunks.get(timeout=seconds) if seconds else self._chunks.get_nowait()
                seconds = 0.0
                (self.on_errors if is_error else self.on_output)(data)
        except Empty:
            pass
        if ended and self._child is not None:
            code, self._child = self._child.returncode, None
            self.on_exit(max(code, 0), max(-code, 0))

    def kill(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait(5)
            for reader in self._readers:
                reader.join(2)
            for stream in (child.stdin, child.stdout, child.stderr):
                if stream is not None:
                    stream.close()

    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None
