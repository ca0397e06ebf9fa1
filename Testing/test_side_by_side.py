"""Slices in work side by side on a CPU: the same result, a thread each, and an end when nobody listens any more."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from DeSAMSegmentLib.engine.events import Finished, SliceDone
from DeSAMSegmentLib.engine.options import SegmentOptions
from DeSAMSegmentLib.engine.runtime import memory
from DeSAMSegmentLib.engine.runtime.session import Session
from DeSAMSegmentLib.engine.runtime.side_by_side import side_by_side
from DeSAMSegmentLib.engine.segment.segment import segment
from standin import ball_volume, stand_in_encoder
from test_engine_segment import untrained

BOX = SegmentOptions(mode="box")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_slices_side_by_side_give_what_one_after_another_gives(two_threads, monkeypatch) -> None:
    volume, model = ball_volume()[0], untrained()
    seen: list[tuple[str, int]] = []

    def run(device_threads: int) -> np.ndarray:
        encoder = stand_in_encoder()
        encode = encoder.encode

        def watched(images: np.ndarray):
            seen.append((threading.current_thread().name, torch.get_num_threads()))
            return encode(images)

        encoder.encode = watched  # type: ignore[method-assign]
        torch.set_num_threads(device_threads)
        events = list(segment(volume, model, BOX, Session(encoder=encoder)))
        assert [each.done for each in events if isinstance(each, SliceDone)] == [1, 2, 3, 4, 5]
        assert isinstance(events[-1], Finished)
        return events[-1].result.labels

    alone = run(1)
    assert len({name for name, _ in seen}) == 1
    seen.clear()
    together = run(2)
    assert {threads for _, threads in seen} == {1}
    assert len({name for name, _ in seen}) == 2
    assert torch.get_num_threads() == 2
    np.testing.assert_array_equal(together, alone)


def test_who_stops_listening_ends_the_work(two_threads) -> None:
    done: list[int] = []
    events = side_by_side(done.append, range(100), 2)
    next(events)
    events.close()
    assert len(done) < 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("desam-slice")]


def test_an_error_in_a_slice_is_raised_where_the_slice_is_due(two_threads) -> None:
    def work(item: int) -> float:
        return 1 / (2 - item)

    events = side_by_side(work, range(9), 2)
    assert [next(events), next(events)] == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(events)


def test_slices_share_the_memory_that_is_free(monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 12)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 4 * memory.GIB)
    cpu = torch.device("cpu")
    assert memory.slices_at_once(256, cpu) == 4
    assert memory.slices_at_once(1024, cpu) == 1
    assert memory.slices_at_once(256, torch.device("cuda")) == 1
