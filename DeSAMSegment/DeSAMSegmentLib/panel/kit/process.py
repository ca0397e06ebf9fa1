"""The worker as a QProcess: output arrives through Qt's event loop, so no Python thread has to wait for the GIL."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from typing import Any

import qt

from ...jobs.client import WORKER_ARGUMENTS, worker_environment


def pythonProgram() -> str:
    """Slicer's PythonSlicer where there is one, else the Python that is running."""
    return shutil.which("PythonSlicer") or sys.executable


class QtProcess:
    """Fits ``jobs.client.Process``."""

    def __init__(self) -> None:
        self._process: Any = None
        self._ended: Any = None  # a process that ended is kept until the next one: it may be in the middle of a signal
        self.on_output: Callable[[bytes], None] = lambda data: None
        self.on_errors: Callable[[bytes], None] = lambda data: None
        self.on_exit: Callable[[int, int], None] = lambda code, signalNumber: None

    def start(self) -> None:
        process = qt.QProcess()
        environment = qt.QProcessEnvironment.systemEnvironment()
        environment.insert("PYTHONPATH", worker_environment()["PYTHONPATH"])
        process.setProcessEnvironment(environment)
        process.connect("readyReadStandardOutput()", self._readOutput)
        process.connect("readyReadStandardError()", self._readErrors)
        process.connect("finished(int,QProcess::ExitStatus)", self._finished)
        process.connect("errorOccurred(QProcess::ProcessError)", self._failed)
        self._process = process
        process.start(pythonProgram(), WORKER_ARGUMENTS)

    def write(self, data: bytes) -> None:
        if self._process is not None:
            self._process.write(qt.QByteArray(data))

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.blockSignals(True)
            process.kill()
            process.waitForFinished(2000)

    def running(self) -> bool:
        return self._process is not None

    def processId(self) -> int:
        """Of the program that was started; the worker may be its child (PythonSlicer is a launcher)."""
        return int(self._process.processId()) if self._process is not None else 0

    def _readOutput(self) -> None:
        if self._process is not None:
            self.on_output(bytes(self._process.readAllStandardOutput().data()))

    def _readErrors(self) -> None:
        if self._process is not None:
            self.on_errors(bytes(self._process.readAllStandardError().data()))

    def _finished(self, code: int, status: Any) -> None:
        self._readOutput()
        self._readErrors()
        self._ended, self._process = self._process, None
        crashed = status == qt.QProcess.CrashExit
        self.on_exit(0 if crashed else code, code if crashed else 0)  # for a crash, Qt gives the signal's number

    def _failed(self, error: Any) -> None:
        if error == qt.QProcess.FailedToStart:
            self.on_errors(f"OSError: {pythonProgram()} cannot be started".encode())
            self._ended, self._process = self._process, None
            self.on_exit(1, 0)
