"""What the device ``ssh HOST`` costs beside the same job in this process, and whether the result is equal.

    python benchmarks/ssh_worker.py MODEL VOLUME [--host HOST] [--slices 3] [--output benchmarks/results/ssh.md]

Without ``--host``, the other computer is this one: OpenSSH's server on the loopback (Testing/loopback.py), with a home
folder of its own, so that features and models are not shared.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from DeSAMSegmentLib.data.reading import read_volume
from DeSAMSegmentLib.engine.events import Finished
from DeSAMSegmentLib.engine.options import SegmentOptions
from DeSAMSegmentLib.files import write_text
from DeSAMSegmentLib.jobs import protocol
from DeSAMSegmentLib.jobs.remote import RemoteWorker
from DeSAMSegmentLib.jobs.requests import SegmentRequest
from DeSAMSegmentLib.jobs.runner import Runner

sys.path.append(str(Path(__file__).resolve().parents[1] / "Testing"))
import loopback


class Counting(RemoteWorker):
    """Counts the bytes of its lines, before ssh's own."""

    sent = received = 0

    def _write(self, message: Any) -> None:
        self.sent += len(protocol.to_line(message))
        super()._write(message)

    def _messages(self, is_greeted: bool = True) -> Iterator[dict[str, Any]]:
        for message in super()._messages(is_greeted):
            self.received += len(protocol.to_line(message))
            yield message


def rows(request: SegmentRequest, host: str, slices: int) -> list[str]:
    """One line of the table per run."""
    lines, results = [], []

    def note(name: str, events: Any, worker: Counting | None) -> None:
        before = (worker.sent, worker.received) if worker else (0, 0)
        begun = time.perf_counter()
        *_, last = events
        seconds = (time.perf_counter() - begun) / slices
        assert isinstance(last, Finished)
        results.append(last.result.labels)
        equal = "yes" if np.array_equal(results[0], results[-1]) else "NO"
        counts = (worker.sent - before[0], worker.received - before[1]) if worker else (0, 0)
        kilobytes = " | ".join(f"{count / slices / 1000:,.1f}" for count in counts)
        lines.append(f"| {name} | {seconds:.2f} | {kilobytes} | {equal} |")

    runner = Runner()
    note("here, first run", runner.run(request), None)
    note("here, features cached", runner.run(request), None)
    begun = time.perf_counter()
    worker = Counting(host)
    connected = time.perf_counter() - begun
    note("ssh, first run: the model is sent", worker.events(request), worker)
    note("ssh, again: features cached there", worker.events(request), worker)
    note("ssh, once more", worker.events(request), worker)
    worker.close()
    return [*lines, "", f"Connecting and starting the worker: {connected:.1f} s, once."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("volume", type=Path)
    parser.add_argument("--host", default="")
    parser.add_argument("--slices", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "ssh.md")
    arguments = parser.parse_args()
    volume = read_volume(arguments.volume)
    request = SegmentRequest(volume, str(arguments.model), SegmentOptions(slice_range=(0, arguments.slices - 1)))
    far = None
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DESAM_HOME"] = f"{folder}/here"
        if not arguments.host:
            far = loopback.Loopback(Path(folder) / "far")
            os.environ["PATH"] = f"{far.near}{os.pathsep}{os.environ['PATH']}"
        try:
            table = rows(request, arguments.host or loopback.HOST, arguments.slices)
        finally:
            if far:
                far.stop()
    shape = " x ".join(map(str, volume.array.shape[::-1]))
    text = [
        "# The device `ssh HOST`", "", "    python benchmarks/ssh_worker.py MODEL VOLUME", "",
        f"{arguments.slices} slices of a volume of {shape} voxels ({volume.array.dtype}, "
        f"{volume.array.nbytes / 1e6:.1f} MB), a model of {arguments.model.stat().st_size / 1e6:.1f} MB; "
        f"{'the loopback of one computer, CPU' if not arguments.host else 'another computer'}. Bytes are those of the "
        "lines, before ssh's own; a run sends the whole volume, whichever slices it segments.", "",
        "| Run | s per slice | kB sent per slice | kB received per slice | equal to here |", "|---|---|---|---|---|",
        *table,
    ]  # fmt: skip
    write_text(arguments.output, "\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
