"""A worker on another computer: the same result through a real sshd, and a reason for everything that fails."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import loopback
import numpy as np
import psutil
import pytest
from conftest import blob, write_nifti
from desam_cli import main, segment
from desam_cli.remedies import REMEDIES
from DeSAMSegmentLib import __version__
from DeSAMSegmentLib.data.reading import read_volume
from DeSAMSegmentLib.data.volume import Volume
from DeSAMSegmentLib.engine.events import Event, Finished, SliceDone, Started
from DeSAMSegmentLib.engine.options import SegmentOptions
from DeSAMSegmentLib.engine.runtime.session import Session
from DeSAMSegmentLib.engine.segment.targets import Target
from DeSAMSegmentLib.errors import BadInput, DeSAMError
from DeSAMSegmentLib.jobs import protocol
from DeSAMSegmentLib.jobs.remote import RemoteWorker, host_of
from DeSAMSegmentLib.jobs.requests import ModelRequest, SegmentFileRequest, SegmentRequest
from DeSAMSegmentLib.jobs.runner import Runner
from DeSAMSegmentLib.store.weights import hash_file
from loopback import HOST, Loopback

SLICES = 4
PATCH = """
import time
from DeSAMSegmentLib.files import home
from DeSAMSegmentLib.engine.runtime.session import Session
from DeSAMSegmentLib.engine.segment.targets import Target
from standin import stand_in_encoder
predict = Session.predict
def begin(session, backbone):
    session._encoder = stand_in_encoder()
    return session._encoder
def slowly(*arguments):
    time.sleep(0.5 if (home() / "slow").exists() else 0)
    return predict(*arguments)
Session.begin, Session.predict = begin, slowly
print("Welcome to the far side.", flush=True)
"""
needs_sshd = pytest.mark.skipif(bool(loopback.MISSING), reason=loopback.MISSING or "it is there")


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    far = Loopback(tmp_path_factory.mktemp("far"), PATCH)
    yield far
    far.stop()


@pytest.fixture(scope="module")
def runner() -> Runner:
    """One connection for all tests, as a panel has it."""
    return Runner()


@pytest.fixture
def way(far: Loopback, monkeypatch: pytest.MonkeyPatch) -> Loopback:
    monkeypatch.setenv("PATH", f"{far.near}{os.pathsep}{os.environ['PATH']}")
    return far


@pytest.fixture
def request_there(untrained_model: Path) -> SegmentRequest:
    image = blob()[0][:SLICES]
    volume = Volume(image, np.diag([1.0, 1.0, 3.0, 1.0]), "blob")
    return SegmentRequest(volume, str(untrained_model), SegmentOptions(slice_axis="acquired"), f"ssh {HOST}")


def labels(events: Iterator[Event] | list[Event]) -> np.ndarray:
    *_, last = events
    assert isinstance(last, Finished)
    return np.asarray(last.result.labels)


@needs_sshd
def test_the_result_is_the_same_and_the_model_is_sent_once(
    way, request_there, runner, quick_encoder, monkeypatch
) -> None:
    sent = []
    write = RemoteWorker._write

    def noted(worker: RemoteWorker, message: Any) -> None:
        sent.append(message)
        write(worker, message)

    monkeypatch.setattr(RemoteWorker, "_write", noted)
    there = list(runner.run(request_there))
    here = list(runner.run(replace(request_there, device="cpu")))
    assert np.array_equal(labels(there), labels(here))
    assert labels(here).any()
    slices = [[event for event in events if isinstance(event, SliceDone)] for events in (there, here)]
    assert [each.index for each in slices[0]] == [each.index for each in slices[1]]
    assert all(np.array_equal(a.labels, b.labels) for a, b in zip(*slices, strict=True))
    assert HOST in next(event.device for event in there if isinstance(event, Started))
    list(runner.run(request_there))
    models = [line["request"] for line in sent if isinstance(line.get("request"), ModelRequest)]
    assert [each.content is not None for each in models] == [False, True, False]
    assert [path.stem for path in (way.home / "received").iterdir()] == [hash_file(Path(request_there.model))]
    assert any((way.home / "cache").rglob("*.features"))


@needs_sshd
def test_a_lost_connection_is_said_the_worker_ends_and_the_next_job_connects_anew(way, request_there, runner) -> None:
    (way.home / "slow").touch()
    done, workers = [], []
    events = (event for event in runner.run(request_there) if isinstance(event, SliceDone))

    def follow() -> None:
        for event in events:
            done.append(event)
            workers.extend(way.cut())

    with pytest.raises(DeSAMError, match=rf"connection to {HOST} was lost .*finished so far is kept"):
        follow()
    assert 1 <= len(done) < SLICES
    assert not psutil.wait_procs(workers, 10)[1]
    (way.home / "slow").unlink()
    started = next(event for event in runner.run(request_there) if isinstance(event, Started))  # and then cancelled
    assert HOST in started.device
    # what still comes of the cancelled job is not taken for the next one's
    assert [event.done for event in runner.run(request_there) if isinstance(event, SliceDone)] == [
        *range(1, SLICES + 1)
    ]


def there(source: Path, output: Path, model: str, *more: str) -> list[str]:
    given = ["--model", model, "--device", f"ssh {HOST}", "--slice-axis", "acquired", *more]
    return ["segment", str(source), str(output), *given]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two small volumes."""
    for seed in range(2):
        write_nifti(tmp_path / "in" / f"blob{seed}.nii.gz", blob(seed=seed)[0])
    return tmp_path / "in"


@needs_sshd
def test_the_command_line_segments_an_archive_there(way, folder, request_there, quick_encoder, capsys) -> None:
    out = folder.parent / "out"
    more = ["--recursive", "--format", "nii.gz", "--slice-range", "0", "1"]
    assert main(there(folder, out, request_there.model, *more)) == 0
    assert f"on ssh {HOST}" in capsys.readouterr().out
    assert main([*there(folder, folder.parent / "here", request_there.model, *more), "--device", "cpu"]) == 0
    for name in ("blob0.nii.gz", "blob1.nii.gz"):
        written, local = (read_volume(folder.parent / place / name).array for place in ("out", "here"))
        assert written.any()
        assert np.array_equal(written, local)


@needs_sshd
def test_a_volume_whose_connection_is_lost_keeps_its_slices(way, folder, request_there, monkeypatch, capsys) -> None:
    (way.home / "slow").touch()
    shown = segment.shown

    @contextmanager
    def cutting(as_json: bool) -> Iterator[Any]:
        with shown(as_json) as show:

            def show_and_cut(event: Event) -> None:
                show(event)
                if isinstance(event, SliceDone):
                    way.cut()

            yield show_and_cut

    monkeypatch.setattr(segment, "shown", cutting)
    out = folder.parent / "out.nii.gz"
    assert main(there(folder / "blob0.nii.gz", out, request_there.model)) == 2
    (way.home / "slow").unlink()
    said = capsys.readouterr()
    assert re.search(rf"connection to {HOST} was lost .*same command again when {HOST} is there", said.err)
    assert re.search(r"Stopped: \d of 4 slices are in .*out.nii.gz", said.out.replace("\n", ""))
    assert read_volume(out).array.any()


@needs_sshd
def test_a_file_of_the_queue_is_segmented_there(way, folder, request_there, runner) -> None:
    target = Target("blob0", folder / "blob0.nii.gz", folder / "out.seg.nrrd")
    *_, last = runner.run(SegmentFileRequest(target, request_there.model, request_there.options, f"ssh {HOST}"))
    assert isinstance(last, Finished)
    assert last.result == target.path
    assert read_volume(target.path).array.any()


@needs_sshd
def test_an_unknown_host_key_and_a_refused_key_are_told_apart(way) -> None:
    way.known_hosts.write_text("")
    with pytest.raises(BadInput, match=f"key of {HOST} is not known.*`ssh {HOST}`"):
        RemoteWorker(HOST)
    way.trust()
    way.use_key("stranger")
    try:
        with pytest.raises(BadInput, match=f"{HOST} did not accept your key.*ssh-copy-id {HOST}"):
            RemoteWorker(HOST)
    finally:
        way.use_key("user")


@needs_sshd
def test_a_computer_without_desam_is_named(way) -> None:
    hidden = way.desam.rename(way.desam.with_name("hidden"))
    try:
        with pytest.raises(BadInput, match=f"no program desam on {HOST}.*pip install desam-segment"):
            RemoteWorker(HOST)
    finally:
        hidden.rename(way.desam)


# ---- without a server: what ssh or the far side would say ----------------------------------------------------------


@pytest.fixture
def saying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes an ``ssh`` that prints to standard output and error, waits for its input to end if asked, and exits."""

    def make(output: bytes = b"", errors: str = "", code: int = 0) -> None:
        (tmp_path / "output").write_bytes(output)
        (tmp_path / "errors").write_text(errors)
        (tmp_path / "ssh").write_text(f"#!/bin/sh\ncat {tmp_path}/output; cat {tmp_path}/errors >&2; exit {code}\n")
        (tmp_path / "ssh").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return make


@pytest.mark.parametrize(
    ("errors", "code", "words"),
    [
        ("ssh: Could not resolve hostname far: Name or service not known", 255, "no computer called far"),
        ("ssh: connect to host far port 22: Connection refused", 255, r"cannot be reached \(ssh: connect .* refused"),
        ("", 255, "cannot be reached"),
        ("bash: line 1: desam: command not found", 127, "no program desam on far.*pip install"),
        ("'desam' is not recognized as an internal or external command", 1, "no program desam on far"),
        ("desam: No such command 'worker'. 'desam --help' lists the options.", 2, "too old"),
        ("ModuleNotFoundError: No module named 'torch'", 1, r"could not start on far \(ModuleNotFoundError.*torch"),
    ],
)
def test_each_failure_has_a_message_with_a_remedy(errors: str, code: int, words: str, saying) -> None:
    saying(errors=errors, code=code)
    with pytest.raises(BadInput, match=words) as caught:
        RemoteWorker("far")
    assert caught.value.do


@pytest.mark.parametrize(
    ("output", "errors", "code", "more", "words"),
    [
        (b"", "ssh: connect to host far port 22: Connection refused", 255, [], "far cannot be reached"),
        (b"", "bash: line 1: desam: command not found", 127, ["--recursive"], "no program desam on far"),
        (protocol.to_line({"ready": {"version": 0, "program": "0.0.9"}}), "", 0, [], "do not understand each other"),
        (b"", "", 0, ["--no-cache"], "Leave out --no-cache"),
    ],
)
def test_the_command_line_says_it_in_the_same_words(
    output, errors, code, more, words, saying, folder, untrained_model, capfd
) -> None:
    saying(output, errors, code)
    assert main(there(folder, folder.parent / "out", str(untrained_model), *more)) == 2
    assert words in capfd.readouterr().err


def test_another_protocol_is_refused_before_the_work(saying) -> None:
    saying(protocol.to_line({"ready": {"pid": 1, "version": protocol.VERSION - 1, "program": "0.0.9"}}))
    with pytest.raises(
        DeSAMError, match=rf"far \(0\.0\.9\) and here \({__version__}\) do not understand.*same version"
    ):
        RemoteWorker("far")


def test_a_damaged_line_ends_the_job(saying, request_there) -> None:
    ready = protocol.to_line({"ready": {"pid": 1, "version": protocol.VERSION, "program": __version__}})
    array = protocol.to_line({"id": 1, "event": np.zeros(3)}).replace(b'sha256":"', b'sha256":"f')
    saying(ready + array)
    with pytest.raises(DeSAMError, match=r"sent is damaged .*digest"):
        list(RemoteWorker("far").events(request_there))


@pytest.mark.parametrize("device", ["ssh", "ssh ", "ssh -oProxyCommand=true", "ssh a b", "ssh a;b", "ssh @a"])
def test_what_is_no_host_never_reaches_ssh(device: str, request_there, monkeypatch) -> None:
    monkeypatch.setattr("subprocess.Popen", lambda *given, **more: pytest.fail("ssh was started"))
    with pytest.raises(BadInput, match="no name of a computer"):
        list(Runner().run(replace(request_there, device=device)))


def test_devices_of_this_computer_are_no_hosts() -> None:
    assert [host_of(device) for device in ("auto", "cpu", "cuda:1", "sshd")] == [None] * 4
    assert host_of("ssh me@gpu.example.org") == "me@gpu.example.org"


def test_only_segmenting_goes_over_ssh() -> None:
    with pytest.raises(BadInput, match="Over ssh volumes are segmented, but nothing is trained") as caught:
        _ = Session(f"ssh {HOST}").chosen_device
    assert f"`ssh {HOST}`" in caught.value.remedy(REMEDIES)


def test_without_an_ssh_client_it_is_named(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput, match="Install the OpenSSH client"):
        RemoteWorker("far")


@pytest.mark.parametrize("name", ["../../x", "", "g" * 64])
def test_a_model_is_kept_under_its_own_digest_alone(name: str) -> None:
    with pytest.raises(BadInput, match="no SHA-256"):
        list(ModelRequest(name, np.zeros(3, np.uint8)).events(None))
    (event,) = ModelRequest("0" * 64, np.zeros(3, np.uint8)).events(None)
    assert isinstance(event, Finished)
    assert event.result is None
