"""Damaged lines between panel and worker: every job ends once, in words; nothing hangs."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from DeSAMSegmentLib.engine.events import Event, Finished, Progress, SliceDone, Started
from DeSAMSegmentLib.errors import DeSAMError
from DeSAMSegmentLib.jobs import protocol
from DeSAMSegmentLib.jobs.client import GARBLED, PATIENCE
from DeSAMSegmentLib.jobs.requests import SegmentRequest
from DeSAMSegmentLib.jobs.worker import Worker
from test_jobs_client import Desk
from test_jobs_protocol import VOLUME

ROUNDS = 400


def damaged(line: bytes, rng: np.random.Generator) -> bytes:
    """A line with a changed byte, a missing or repeated stretch, or bytes of any kind in between."""
    start = int(rng.integers(len(line)))
    stop = start + int(rng.integers(1, 12))
    return (
        line[:start] + bytes([int(rng.integers(256))]) + line[start + 1 :],
        line[:start] + line[stop:],
        line[:stop] + line[start:],
        line[:start] + rng.bytes(4) + line[start:],
    )[int(rng.integers(4))]


@pytest.fixture
def job_lines(tmp_path) -> list[bytes]:
    (tmp_path / "desam-1").mkdir()
    events: list[Event] = [
        Started("segment", "Prostate", 1, "slice", "CPU"),
        SliceDone(0, 1, np.eye(5, dtype=np.uint8), 0.9, 1.0, 1, 1, 0.2),
        Finished("segment", 1.0, None, {"slices": 1}),
    ]
    error = {"what": "It broke.", "do": "Mend it.", "kind": "worker-lost", "data": {"size": "3 MB"}}
    messages: list[Any] = [{"ready": {"pid": 4711, "folder": tmp_path / "desam-1", "version": 1}}]
    messages += [{"id": 1, "taken": True}, *({"id": 1, "event": event} for event in events)]
    messages += [{"id": 1, "end": {"how": "failed", "error": error}}]
    return [protocol.to_line(message) for message in messages]


class Repeating(Desk):
    """Its process repeats the end of the job when it is asked, as a worker does."""

    def __init__(self, end: bytes) -> None:
        super().__init__()
        self.end = end
        write = self.process.write

        def answer(data: bytes) -> None:
            write(data)
            if b'"again"' in data:
                self.process.on_output(self.end)

        self.process.write = answer  # type: ignore[method-assign]


def test_a_job_ends_once_whatever_line_of_it_is_damaged(job_lines: list[bytes]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(ROUNDS):
        desk = Repeating(job_lines[-1])
        desk.client.submit("anything", desk.events.append, desk.ends.append)
        which = int(rng.integers(len(job_lines)))
        for number, line in enumerate(job_lines):
            desk.process.on_output(damaged(line, rng) if number == which else line)
            desk.client.drain()
        desk.now += PATIENCE + 1  # the last line may have lost its end
        desk.client.tick()
        desk.client.drain()
        assert len(desk.ends) == 1
        assert desk.ends[0].failed
        assert all(isinstance(event, Event) for event in desk.events)
        assert all(pid == 4711 or str(pid).isdigit() for pid in desk.killed)


@pytest.mark.parametrize("end", [None, 5, {"how": "finishee", "error": None}, {"how": "failed", "error": {"what": 1}}])
def test_an_end_that_never_makes_sense_fails_the_job(end: Any) -> None:
    desk = Repeating(protocol.to_line({"id": 1, "end": end}))
    desk.submit()
    desk.process.on_output(desk.end)
    desk.client.drain()
    assert [each.how for each in desk.ends] == ["failed"]
    assert desk.ends[0].error is not None
    assert desk.process.kills == 1
    assert sum("again" in each for each in desk.process.written) == GARBLED - 1


@pytest.mark.parametrize("ready", [{"pid": 1}, {"pid": 0}, {"pid": "4711"}, {"pid": 4711, "folder": "/home/me"}])
def test_no_process_and_no_folder_but_the_workers_is_ever_ended(ready: dict[str, Any]) -> None:
    desk = Desk()
    desk.client.submit("anything", desk.events.append, desk.ends.append)
    desk.process.says({"ready": ready})
    desk.client.drain()
    desk.client.stop()
    assert desk.killed == []
    assert desk.client._worker_folder is None


def test_an_event_that_cannot_be_used_fails_the_job_in_words() -> None:
    desk = Desk()

    def refuse(event: Event) -> None:
        raise IndexError("index 92 is out of bounds")

    desk.client.submit("anything", refuse, desk.ends.append)
    desk.process.says({"id": 1, "event": Progress("", 1, 2)})
    desk.client.drain()
    assert [end.how for end in desk.ends] == ["failed"]
    assert "index 92" in str(desk.ends[0].error)


class Counting:
    def run(self, request: Any) -> Iterator[Event]:
        if not isinstance(request, SegmentRequest):
            raise DeSAMError("There is no such job.")
        yield Progress("counting", 1, 1)


def test_a_worker_answers_every_damaged_line_and_serves_the_next_request(capfd) -> None:
    rng = np.random.default_rng(1)
    good = protocol.to_line({"id": 1, "request": SegmentRequest(VOLUME, "model")})
    lines = [damaged(good, rng).replace(b"\n", b"") + b"\n" for _ in range(ROUNDS)]
    last = [protocol.to_line(each) for each in ({"id": "last", "request": SegmentRequest(VOLUME, "model")},)]
    sink, gone = io.BytesIO(), threading.Event()
    Worker(io.BytesIO(b"".join(lines + last)), sink, Counting(), gone.set).serve()
    messages = [protocol.from_line(line) for line in sink.getvalue().splitlines()]
    ends = [message["end"] for message in messages if "end" in message]
    assert len(ends) == len([line for line in lines if line.strip()]) + 1
    assert all(end["how"] == "finished" or end["error"]["what"] for end in ends)
    assert [message["end"]["how"] for message in messages if message.get("id") == "last" and "end" in message] == [
        "finished"
    ]
    assert "Traceback" not in capfd.readouterr().err


def test_a_worker_repeats_the_end_of_the_job_that_ended_last() -> None:
    lines = [protocol.to_line(each) for each in ({"id": 1, "request": SegmentRequest(VOLUME, "m")}, {"again": 2})]
    sink, done = io.BytesIO(), threading.Event()

    class Late(io.BytesIO):
        """Hands out its last line when the job has ended."""

        def __iter__(self) -> Iterator[bytes]:
            yield from lines
            while b'"end"' not in sink.getvalue():
                threading.Event().wait(0.01)
            yield protocol.to_line({"again": 1})

    Worker(Late(), sink, Counting(), done.set).serve()
    messages = [protocol.from_line(line) for line in sink.getvalue().splitlines()]
    ends = [message for message in messages if "end" in message]
    assert len(ends) == 2
    assert ends[0] == ends[1]
