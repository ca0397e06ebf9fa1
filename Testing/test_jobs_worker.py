"""The worker: in process over byte streams, and as a real child that is killed, orphaned and fed nonsense."""

from __future__ import annotations

import gc
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from DeSAMSegmentLib.engine.events import Event, Progress
from DeSAMSegmentLib.errors import BadVolume
from DeSAMSegmentLib.jobs import protocol
from DeSAMSegmentLib.jobs.client import WORKER_ARGUMENTS, Client, JobEnd, worker_environment
from DeSAMSegmentLib.jobs.requests import DownloadRequest
from DeSAMSegmentLib.jobs.runner import Runner
from DeSAMSegmentLib.jobs.worker import Worker
from DeSAMSegmentLib.model.registry import BACKBONES
from subprocess_worker import SubprocessProcess


class Counting:
    """A runner that counts to what its request says, or fails in the way it says."""

    def run(self, request: Any) -> Iterator[Event]:
        if request == "bad volume":
            raise BadVolume("The volume is flat.", "Choose a 3-D volume.")
        if request == "defect":
            raise KeyError("level4")
        if request == "no memory":
            raise MemoryError
        for number in range(int(request)):
            yield Progress("counting", number + 1, int(request))


def replies(*lines: bytes) -> list[Any]:
    """What a worker in this process answers to these lines."""
    sink, gone = io.BytesIO(), threading.Event()
    Worker(io.BytesIO(b"".join(lines)), sink, Counting(), gone.set).serve()
    assert gone.is_set()
    return [protocol.from_line(line) for line in sink.getvalue().splitlines()]


def ask(identifier: int, request: str) -> bytes:
    return protocol.to_line({"id": identifier, "request": request})


def test_requests_are_answered_in_order_with_one_end_each() -> None:
    messages = replies(ask(1, "2"), ask(2, "1"))
    assert "ready" in messages[0]
    assert sorted(m["id"] for m in messages if "taken" in m) == [1, 2]
    assert [m["id"] for m in messages[1:] if "taken" not in m] == [1, 1, 1, 2, 2]
    assert [m["end"]["how"] for m in messages if "end" in m] == ["finished", "finished"]


@pytest.mark.parametrize(
    ("request_text", "what"),
    [("bad volume", "The volume is flat."), ("defect", "KeyError: 'level4'"), ("no memory", "memory")],
)
def test_a_request_that_fails_says_why_and_the_next_one_is_served(request_text: str, what: str) -> None:
    messages = replies(ask(1, request_text), ask(2, "1"))
    ends = [m["end"] for m in messages if "end" in m]
    assert what in ends[0]["error"]["what"]
    assert ends[0]["error"]["do"]
    assert ends[1]["how"] == "finished"


@pytest.mark.parametrize("line", [b"hello\n", b"[]\n", b'{"id": 7}\n', b'{"id": 7, "request": {"~": "no"}}\n'])
def test_a_malformed_line_is_answered_and_the_next_request_is_served(line: bytes) -> None:
    messages = replies(line, ask(1, "1"))
    ends = [m["end"]["how"] for m in messages if "end" in m]
    assert sorted(ends) == ["failed", "finished"]


def test_a_cancelled_request_ends_as_cancelled() -> None:
    messages = replies(protocol.to_line({"cancel": 1}), ask(1, "1000000"))
    assert [m["end"]["how"] for m in messages if "end" in m] == ["cancelled"]


def test_a_request_still_waiting_when_standard_input_ends_is_answered_with_its_array() -> None:
    gone, messages = threading.Event(), []
    shape = (protocol.INLINE_BYTES + 1,)

    class Late:
        """A runner that begins only after standard input has ended, and ends only when it has been heard."""

        def run(self, request: Any) -> Iterator[Any]:
            assert gone.wait(30)
            if request == "array":
                yield np.full(shape, 3, dtype=np.uint8)

    class Parent(io.BytesIO):
        """Reads every message as it comes, with the file of its array."""

        def write(self, line: Any) -> int:
            messages.append(protocol.from_line(line))
            return len(line)

    Worker(io.BytesIO(ask(1, "nothing") + ask(2, "array")), Parent(), Late(), gone.set).serve()
    assert [m["end"]["how"] for m in messages if "end" in m] == ["finished", "finished"]
    assert [int(m["event"].max()) for m in messages if "event" in m] == [3]


def test_the_arrays_of_a_job_are_gone_when_the_next_one_begins() -> None:
    class Large:
        """A runner that counts the files that are there, and then adds one."""

        def run(self, request: Any) -> Iterator[Any]:
            yield len(list(worker._folder.glob("*.npy")))
            yield np.zeros(protocol.INLINE_BYTES + 1, np.uint8)

    lines = io.BytesIO()
    worker = Worker(io.BytesIO(ask(1, "") + ask(2, "") + ask(3, "")), lines, Large(), lambda: None)
    worker.serve()
    events = [m["event"] for m in map(json.loads, lines.getvalue().splitlines()) if "event" in m]
    assert [event for event in events if isinstance(event, int)] == [0, 0, 0]
    assert [event["~"] for event in events if isinstance(event, dict)] == ["npy"] * 3


class NamedBackbone(torch.nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.spec = BACKBONES[name]


def test_one_encoder_is_kept_warm_and_no_second_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[NamedBackbone]] = []

    def build(name: str, tensors: object) -> NamedBackbone:
        gc.collect()
        assert not [each for each in made if each() is not None], "the encoder before is still in memory"
        backbone = NamedBackbone(name)
        made.append(weakref.ref(backbone))
        return backbone

    monkeypatch.setattr("DeSAMSegmentLib.engine.runtime.session._backbone_tensors", lambda name: (None, name))
    monkeypatch.setattr("DeSAMSegmentLib.engine.runtime.session.build_backbone", build)
    runner = Runner()
    session = runner.session("cpu")
    first = session.begin("vit_h")
    assert runner.session("cpu") is session
    assert session.begin("vit_h") is first
    del first
    second = session.begin("vit_l")
    assert session.encoder is second
    assert (len(made), made[0](), made[1]()) == (2, None, second.backbone)


def test_another_device_ends_the_session_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner()
    session = runner.session("auto")
    ended = weakref.ref(session)
    del session
    assert runner.session("cpu").chosen_device == torch.device("cpu")
    gc.collect()
    assert ended() is None


def is_gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_for(condition: Any, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.02)


def test_a_real_child_answers_a_bad_request_and_lives_on() -> None:
    process = SubprocessProcess()
    client = Client(process)
    ends: list[JobEnd] = []
    for _ in range(2):
        client.submit("no such job", lambda event: None, ends.append)
        while client.busy:
            process.poll(0.05)
            client.drain()
    assert [end.how for end in ends] == ["failed", "failed"]
    assert process.running()
    folder = client._worker_folder
    assert folder.is_dir()
    client.stop()
    assert not process.running()
    assert not folder.exists()


def test_a_child_killed_in_the_middle_ends_the_job_with_words() -> None:
    process = SubprocessProcess()
    client = Client(process)
    ends: list[JobEnd] = []
    client.submit(DownloadRequest("none"), lambda event: None, ends.append)
    os.kill(process.pid or 0, signal.SIGKILL)
    until = time.monotonic() + 20
    while not ends and time.monotonic() < until:
        process.poll(0.05)
        client.drain()
    assert ends[0].failed
    assert "kept" in str(ends[0].error) or "start" in str(ends[0].error)


def test_what_prints_does_not_disturb_the_messages() -> None:
    code = (
        "import os, sys; from DeSAMSegmentLib.jobs import worker as w; sink = w._private_stdout();"
        "print('from python'); os.system('echo from a child'); os.write(1, b'from C'); sink.write(b'clean\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=worker_environment(), check=True)
    assert done.stdout == b"clean\n"
    assert all(text in done.stderr for text in (b"from python", b"from a child", b"from C"))


def test_code_that_reads_standard_input_finds_nothing_and_steals_no_request() -> None:
    code = (
        "import os, sys; from DeSAMSegmentLib.jobs import worker as w; source = w._private_stdin();"
        "print(repr(sys.stdin.read()), os.read(0, 10), source.readline())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=b"request\n", capture_output=True, env=worker_environment(), check=True
    )
    assert done.stdout.split() == [b"''", b"b''", b"b'request\\n'"]


@pytest.mark.skipif(sys.platform == "win32", reason="process groups")
def test_the_worker_dies_with_its_parent_and_takes_its_children_along() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess, sys, time; c = subprocess.Popen([sys.executable] + "
         f"{WORKER_ARGUMENTS!r}, stdin=subprocess.PIPE); print(c.pid, flush=True); time.sleep(60)"],
        stdout=subprocess.PIPE, env=worker_environment(),
    )  # fmt: skip
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    wait_for(lambda: b"ready" in (parent.stdout.readline() if parent.stdout else b""))
    parent.kill()
    parent.wait()
    wait_for(lambda: is_gone(worker))
