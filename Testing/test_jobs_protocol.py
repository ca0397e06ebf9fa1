"""Every event and request survives the trip through a JSON line unchanged."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from DeSAMSegmentLib.data.cases import Case
from DeSAMSegmentLib.data.volume import Volume
from DeSAMSegmentLib.engine import events
from DeSAMSegmentLib.engine.options import SegmentOptions, TrainOptions
from DeSAMSegmentLib.jobs import protocol, requests
from DeSAMSegmentLib.store.card import LabelInfo

MASK = (np.arange(35).reshape(5, 7) % 3).astype(np.uint8)
VOLUME = Volume(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.diag([0.5, 0.6, 3.0, 1.0]), "tête", note="a note")
LABELS = np.ones((2, 3, 4), np.uint8)
MESSAGES = [
    events.Started("segment", "Prostate", 12, "slice", "CPU, 2 threads"),
    events.Log("a word\nand another", "warning"),
    events.Progress("features", 3, 9),
    events.SliceDone(1, 4, MASK, 0.93, 1.0, 5, 12, 0.25, (events.PointScore(1.5, 2.5, 0.7, True),)),
    events.EpochDone(1, 5, 0.5, {"dice": 0.4}, 1e-4, None, True, 3.0),
    events.CaseDone("c", "siteA", {"organ": {"dice": 0.9}}, 1, 2),
    events.CaseFailed("c", "unreadable", 2, 2),
    events.Saved(Path("folder") / "best.desam", "model"),
    events.Finished("segment", 3.0, None, {"slices": 12}),
    requests.SegmentRequest(VOLUME, "model", SegmentOptions(slice_range=(2, 5), window=(0.0, 1.0))),
    requests.TrainRequest(
        (
            Case("x", VOLUME, LABELS, "siteA", "labelled", names={"organ": (1,)}),
            Case("y", Path("image.nii.gz"), Path("labels.nii.gz")),
        ),
        {1: "organ"},
        Path("runs"),
        TrainOptions(),
    ),
    requests.TrainRequest((), (LabelInfo(1, "organ", (200, 80, 60)),), Path("runs"), TrainOptions(), "cuda:1", True),
    requests.EvaluateRequest((), {1: "a", 2: "b"}, Path("out"), "model"),
    requests.ImportRequest(Path("published.pth"), Path("model.desam")),
    requests.DownloadRequest("medsam"),
]


def same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
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


def test_an_array_mapped_from_a_file_travels_as_its_path(tmp_path: Path) -> None:
    path, label_path = tmp_path / "volume.npy", tmp_path / "labels.npy"
    np.save(path, VOLUME.array)
    np.save(label_path, LABELS)
    mapped = Volume(np.load(path, mmap_mode="r"), VOLUME.ijk_to_ras, "mapped")
    line = protocol.to_line(
        requests.TrainRequest((Case("x", mapped, np.load(label_path, mmap_mode="r")),), {}, tmp_path)
    )
    assert line.count(b'"~":"npy"') == 2
    assert b'"~":"array","shape":[2,3,4]' not in line
    back = protocol.from_line(line).cases[0]
    assert isinstance(back.image.array, np.memmap)
    assert isinstance(back.labels, np.memmap)
    assert same(back.image.array, VOLUME.array)
    assert same(back.labels, LABELS)


def test_a_part_of_a_mapped_array_travels_as_that_part(tmp_path: Path) -> None:
    np.save(tmp_path / "volume.npy", VOLUME.array)
    mapped = np.load(tmp_path / "volume.npy", mmap_mode="r")
    for part in (mapped[1:], mapped.transpose(2, 0, 1)):
        assert np.array_equal(protocol.unpack(protocol.pack(part)), part)


@dataclasses.dataclass
class SimpleResult:
    labels: np.ndarray


def test_a_result_whose_class_the_client_does_not_know_arrives_as_a_namespace() -> None:
    back = protocol.from_line(protocol.to_line(events.Finished("segment", 1.0, SimpleResult(MASK))))
    assert isinstance(back.result, SimpleNamespace)
    assert np.array_equal(back.result.labels, MASK)


@pytest.mark.parametrize("line", [b"", b"hello", b'{"~":"array"}', b'{"~":"Started","fields":{"no":1}}', b"[1,"])
def test_a_malformed_line_is_refused_with_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        protocol.from_line(line)
