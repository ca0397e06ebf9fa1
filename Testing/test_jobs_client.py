"""The client's states and words, with a process that does exactly what the test says."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from DeSAMSegmentLib.engine.events import Progress
from DeSAMSegmentLib.jobs import protocol
from DeSAMSegmentLib.jobs.client import ANSWER_SECONDS, CANCEL_SECONDS, Client, JobEnd, error_of_death, no_answer
from DeSAMSegmentLib.jobs.requests import DownloadRequest

REQUEST = DownloadRequest("medsam")


class ScriptedProcess:
    def __init__(self) -> None:
        self.on_output = self.on_errors = self.on_exit = lambda *_: None
        self.written: list[Any] = []
        self.alive = False
        self.starts = self.kills = 0

    def start(self) -> None:
        self.starts, self.alive = self.starts + 1, True

    def write(self, data: bytes) -> None:
        self.written.append(protocol.from_line(data))

    def kill(self) -> None:
        self.kills, self.alive = self.kills + 1, False

    def running(self) -> bool:
        return self.alive

    def says(self, message: Any) -> None:
        self.on_output(protocol.to_line(message))


class Desk:
    """A client with its process, a clock turned by hand, and what was reported."""

    def __init__(self) -> None:
        self.process, self.now = ScriptedProcess(), 0.0
        self.events: list[Any] = []
        self.ends: list[JobEnd] = []
        self.killed: list[int] = []
        self.client = Client(self.process, clock=lambda: self.now, kill_tree=self.killed.append)

    def submit(self) -> int:
        identifier = self.client.submit(REQUEST, self.events.append, self.ends.append)
        self.process.says({"ready": {"pid": 4711, "version": 1}})
        self.client.drain()
        return identifier


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_the_process_starts_with_the_first_request_and_stays_for_the_second(desk: Desk) -> None:
    assert desk.process.starts == 0
    for _ in range(2):
        identifier = desk.submit()
        desk.process.says({"id": identifier, "end": {"how": "finished", "error": None}})
        desk.client.drain()
    assert desk.process.starts == 1
    assert [end.how for end in desk.ends] == ["finished", "finished"]


def test_lines_may_arrive_in_pieces_of_any_size(desk: Desk) -> None:
    identifier = desk.submit()
    for byte in protocol.to_line({"id": identifier, "event": Progress("é", 1, 2)}):
        desk.client.feed(bytes([byte]))
    desk.client.drain()
    assert desk.events == [Progress("é", 1, 2)]


def test_what_a_previous_job_still_says_is_ignored(desk: Desk) -> None:
    identifier = desk.submit()
    desk.process.says({"id": identifier - 1, "event": Progress("old", 1, 2)})
    desk.client.drain()
    assert desk.events == []


def test_drain_keeps_to_its_time_and_says_that_more_is_waiting(desk: Desk) -> None:
    identifier = desk.submit()
    for number in range(5):
        desk.process.says({"id": identifier, "event": Progress("", number, 5)})
    assert desk.client.drain(seconds=0.0) is True
    assert len(desk.events) == 1


def test_a_worker_that_ignores_a_cancel_is_killed_with_its_children(desk: Desk) -> None:
    desk.submit()
    desk.client.cancel()
    assert desk.process.written[-1] == {"cancel": 1}
    desk.client.tick()
    assert desk.client.cancelling
    desk.now += CANCEL_SECONDS + 1
    desk.client.tick()
    assert desk.killed == [4711]
    assert [end.how for end in desk.ends] == ["cancelled"]
    assert not desk.client.busy


def test_a_worker_that_never_takes_its_request_is_given_up_with_words(desk: Desk) -> None:
    desk.submit()
    desk.now += ANSWER_SECONDS - 1
    desk.client.tick()
    assert desk.client.busy
    desk.now += 2
    desk.client.tick()
    assert desk.killed == [4711]
    assert [end.how for end in desk.ends] == ["failed"]
    assert "does not answer" in desk.ends[0].error.what
    assert "Try again" in desk.ends[0].error.do
    assert not desk.process.alive


def test_a_request_that_was_taken_may_compute_for_as_long_as_it_likes(desk: Desk) -> None:
    identifier = desk.submit()
    desk.process.says({"id": identifier, "taken": True})
    desk.client.drain()
    desk.now += 100 * ANSWER_SECONDS
    desk.client.tick()
    assert desk.client.busy
    assert desk.ends == []


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_the_folder_of_a_worker_goes_with_it(desk: Desk, tmp_path: Path, how: str) -> None:
    folder = tmp_path / "desam-worker-1"
    folder.mkdir()
    (folder / "result.npy").write_bytes(b"large")
    desk.submit()
    desk.process.says({"ready": {"pid": 4711, "folder": folder, "version": 1}})
    desk.client.drain()
    if how == "stopped":
        desk.client.stop()
    else:
        desk.process.on_exit(0, 9)
    assert not folder.exists()


def test_a_killed_worker_fails_the_job_once_and_the_next_one_starts_a_new_process(desk: Desk) -> None:
    desk.submit()
    desk.process.alive = False
    desk.process.on_exit(0, 9)
    assert len(desk.ends) == 1
    assert "memory" in str(desk.ends[0].error)
    assert "try again" in str(desk.ends[0].error)
    desk.submit()
    assert desk.process.starts == 2


def test_events_that_arrived_before_the_death_are_delivered_first(desk: Desk) -> None:
    identifier = desk.submit()
    desk.process.says({"id": identifier, "event": Progress("last words", 1, 2)})
    desk.process.on_exit(0, 9)
    assert desk.events == [Progress("last words", 1, 2)]


def test_a_worker_that_dies_while_it_is_being_cancelled_ends_as_cancelled(desk: Desk) -> None:
    desk.submit()
    desk.client.cancel()
    desk.process.on_exit(0, 9)
    assert desk.ends == [JobEnd("cancelled")]


def test_what_one_worker_wrote_before_it_died_explains_that_death_and_no_later_one(desk: Desk) -> None:
    desk.submit()
    desk.process.on_errors(b"ModuleNotFoundError: No module named 'torch'\n")
    desk.process.on_output(b'{"id": 1, "eve')
    desk.process.alive = False
    desk.process.on_exit(1, 0)
    assert "No module named 'torch'" in str(desk.ends[0].error)
    identifier = desk.submit()
    desk.process.says({"id": identifier, "event": Progress("whole", 1, 2)})
    desk.process.on_exit(0, 9)
    assert desk.events == [Progress("whole", 1, 2)]
    assert "memory ran out" in str(desk.ends[1].error)


def test_half_a_line_of_a_dead_worker_does_not_spoil_the_first_of_the_next(desk: Desk) -> None:
    desk.submit()
    desk.process.on_output(b'{"id": 1, "eve')
    desk.process.alive = False
    desk.process.on_exit(0, 9)
    desk.submit()
    assert desk.client.worker_pid == 4711


def test_a_second_request_while_busy_is_a_mistake_of_the_caller(desk: Desk) -> None:
    desk.submit()
    with pytest.raises(RuntimeError, match="busy"):
        desk.submit()


DEATHS = [
    (0, 9, [], True, "memory ran out"),
    (137, 0, [], True, "memory ran out"),
    (0, 11, [], True, "crashed (signal 11)"),
    (1, 0, ["error: [python-real] exit abnormally - Report the problem."], True, "memory ran out"),
    (1, 0, ["error: [python-real] exit abnormally - Report the problem."], False, "memory ran out"),
    (1, 0, ["ModuleNotFoundError: No module named 'torch'"], False, "Install"),
    (1, 0, ["ImportError: DLL load failed while importing _C"], False, "cannot be loaded"),
    (1, 0, ["Traceback", "OSError: bad"], False, "could not start (OSError: bad)"),
    (3, 0, [], True, "exit code 3"),
]


@pytest.mark.parametrize(("code", "signal_number", "errors", "started", "expected"), DEATHS)
def test_every_death_is_put_into_words_with_something_to_try(
    code: int, signal_number: int, errors: list[str], started: bool, expected: str
) -> None:
    error = error_of_death(code, signal_number, errors, started)
    assert expected in str(error)
    assert any(word in error.do for word in ("again", "Install"))
    assert error.kind


def test_the_panel_says_where_to_find_what_a_death_asks_for() -> None:
    """The panel's own remedies, by the errors' kinds."""
    import host

    host.start()
    remedies = importlib.import_module("DeSAMSegmentLib.panel.kit.remedies")
    for *death, expected in DEATHS:
        text = remedies.inWords(error_of_death(*death))
        assert expected in text
        assert any(word in text for word in ("again", "Install"))
    in_words = {error.kind: remedies.inWords(error) for error in (error_of_death(*death) for *death, _ in DEATHS)}
    assert "Install the packages in the Advanced section, then try again." in in_words["package-missing"]
    assert "Install the packages again in the Advanced section." in in_words["package-broken"]
    assert "choose the CPU as device in the Advanced section, then try again." in in_words["worker-lost"]
    assert "choose the CPU as device in the Advanced section" in in_words["worker-crashed"]
    assert "Install the packages again in the Advanced section." in in_words["worker-no-start"]
    assert "restart Slicer, and see whether a virus scanner" in remedies.inWords(no_answer())


def test_the_error_of_a_failed_job_arrives_with_its_kind_and_data(desk: Desk) -> None:
    identifier = desk.submit()
    told = {
        "what": "There are no weights.",
        "do": "Get them.",
        "kind": "weights-url",
        "data": {"size": "3 MB"},
    }
    desk.process.says({"id": identifier, "end": {"how": "failed", "error": told}})
    desk.client.drain()
    error = desk.ends[0].error
    assert desk.ends[0].failed
    assert (error.what, error.do, error.kind, error.data) == (told["what"], told["do"], told["kind"], told["data"])
    assert error.in_words({"weights-url": "Fetch {size}."}) == "There are no weights. Fetch 3 MB."
