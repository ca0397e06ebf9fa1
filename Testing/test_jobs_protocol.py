"""Every event and request survives the trip through a JSON line unchanged."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from DeSAMSegmentLib.engine import events
from DeSAMSegmentLib.engine.options import SegmentOptions, TrainOptions
from DeSAMSegmentLib.jobs import protocol, requests

MASK = (np.arange(35).reshape(5, 7) % 3).astype(np.uint8)
EYE = tuple(map(tuple, np.eye(4).tolist()))
VOLUME = requests.VolumeSource(Path("a.npy"), EYE, "tête")
MESSAGES = [
    events.Started("segment", "Prostate", 12, "slice", "CPU, 2 threads"),
    events.Log("a word\nand another", "warning"),
    events.Progress("features", 3, 9),
    events.SliceDone(1, 4, MASK, 0.93, 1.0, 5, 12, 0.25, (events.PointScore(1.5, 2.5, 0.7, True),)),
    events.EpochDone(1, 5, 0.5, {"dice": 0.4}, 1e-4, None, None, True, 3.0),
    events.CaseDone("c", "siteA", {"organ": {"dice": 0.9}}, 1, 2),
    events.CaseFailed("c", "unreadable", 2, 2),
    events.Saved(Path("folder") / "best.desam", "model"),
    events.Finished("segment", 3.0, None, {"slices": 12}),
    requests.SegmentRequest(VOLUME, "model", SegmentOptions(slice_range=(2, 5), window=(0.0, 1.0))),
    requests.TrainRequest(
        (requests.CaseSource("x", VOLUME, Path("l.npy"), "labelled"),), {1: "organ"}, Path("runs"), TrainOptions()
    ),
    requests.EvaluateRequest((), {1: "a", 2: "b"}, Path("out"), "model"),
    requests.DownloadRequest("medsam"),
]


def same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_a_message_comes_back_equal_and_of_the_same_type(message: object) -> None:
    line = protocol.to_line(message)
    assert line.count(b"\n") == 1
    assert same(message, protocol.from_line(line))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", ">i4", "bool"])
def test_arrays_keep_shape_and_type_even_when_they_are_a_view(dtype: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype).transpose(2, 0, 1)[::-1]
    back = protocol.unpack(protocol.pack(array))
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)


def test_an_array_too_large_for_a_line_goes_to_a_file(tmp_path: Path) -> None:
    array = np.ones((2, 1500, 1500), np.uint8)
    line = protocol.to_line(events.Finished("segment", 1.0, SimpleResult(array)), tmp_path)
    assert len(line) < 1000
    assert np.array_equal(protocol.from_line(line).result.labels, array)


@dataclasses.dataclass
class SimpleResult:
    labels: np.ndarray


def test_a_result_whose_class_the_client_does_not_know_arrives_as_a_namespace() -> None:
    back = protocol.from_line(protocol.to_line(events.Finished("segment", 1.0, SimpleResult(MASK))))
    assert isinstance(back.result, SimpleNamespace)
    assert np.array_equal(back.result.labels, MASK)


@pytest.mark.parametrize("line", [b"", b"hello", b'{"~":"array"}', b'{"~":"Started","fields":{"no":1}}', b"[1,"])
def test_nonsense_is_refused_with_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        protocol.from_line(line)
