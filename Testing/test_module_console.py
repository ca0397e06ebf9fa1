"""The Python console: the same jobs in process, with results, progress and cancel."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import host
import numpy as np
import pytest
from DeSAMSegmentLib.engine.events import EpochDone, SliceDone
from DeSAMSegmentLib.errors import BadInput, BadVolume
from host import phantom
from host.desk import MODULE
from host.fixtures import *  # noqa: F403
from host.fixtures import slicer
from host.models import RECOMMENDED, writeModel

SHAPE = (4, 64, 48)


@pytest.fixture
def logic(home: Path, scene: Any) -> Any:
    return host.loadModule(MODULE).file.DeSAMSegmentLogic()


def test_segment_returns_node_confidence_and_words(logic: Any) -> None:
    volume = phantom.addVolume("head", 3, shape=SHAPE)
    events: list[Any] = []
    result = logic.segment(volume, model="blobs", mode="box", progress=events.append)
    assert result.text.startswith("Finished: 4 slices")
    assert sorted(result.confidence) == [0, 1, 2, 3]
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(result.segmentationNode, result.segmentIDs[1], volume)
    for event in events:
        if isinstance(event, SliceDone):
            assert np.array_equal(mask[event.index], event.labels)


def test_without_options_the_console_segments_as_the_models_card_recommends(
    logic: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from DeSAMSegmentLib.engine import options
    from DeSAMSegmentLib.engine.segment import segment as engine

    resolved: list[Any] = []

    def resolve(*arguments: Any) -> Any:
        resolved.append(options.resolve(*arguments))
        return resolved[-1]

    monkeypatch.setattr(engine, "resolve", resolve)
    writeModel("fine grid", inference=RECOMMENDED | {"mode": "grid", "points": 16, "iou_threshold": 0.8})
    volume = phantom.addVolume("head", 3, shape=(3, 64, 48))
    events: list[Any] = []
    logic.segment(volume, model="fine grid", slice_range=(1, 1), keep_points=True, progress=events.append)
    logic.segment(volume, model="fine grid", slice_range=(1, 1), points=4, iou_threshold=0.6)
    recommended, chosen = (options for options, _spec in resolved)
    assert (recommended.mode, recommended.points, recommended.iou_threshold) == ("grid", 16, 0.8)
    assert [len(event.points) for event in events if isinstance(event, SliceDone)] == [16 * 16]
    assert (chosen.mode, chosen.points, chosen.iou_threshold) == ("grid", 4, 0.6)
    logic._jobs.registry.delete("fine grid")


def test_a_callback_that_returns_false_cancels_and_keeps_the_slice(logic: Any) -> None:
    volume = phantom.addVolume("head", 3, shape=SHAPE)
    result = logic.segment(volume, model="blobs", progress=lambda event: not isinstance(event, SliceDone))
    assert result.cancelled
    assert len(result.confidence) == 1


def test_fine_tune_then_evaluate_gives_model_and_report(logic: Any, quick_encoder: None, tmp_path: Path) -> None:
    volumes = [phantom.addVolume(f"case {seed}", seed, shape=SHAPE) for seed in (1, 2)]
    cases = [(volume, phantom.addSegmentation(f"s{n}", n, volume)) for n, volume in enumerate(volumes, 1)]
    tuned = logic.fineTune(
        cases, labels="organ", name="console", mode="box", folder=tmp_path / "run", epochs=4, styles=0,
        progress=lambda event: not (isinstance(event, EpochDone) and event.epoch == 2),
    )  # fmt: skip
    assert tuned.cancelled
    assert tuned.model == "console"
    assert [epoch.epoch for epoch in tuned.epochs] == [1, 2]
    assert "console" in [model.name for model in logic.models()]
    report = logic.evaluate(cases[:1], "console", tmp_path / "report", mode="box")
    assert (report.folder / "report.md").exists()
    assert [case.case for case in report.cases] == ["case 1"]
    logic._jobs.registry.delete("console")


def test_a_model_trained_in_slicer_records_the_version_of_the_program(
    logic: Any, quick_encoder: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slicer's Python holds the extension's folder, but no installed distribution of that name."""
    import DeSAMSegmentLib

    version = metadata.version

    def withoutUs(package: str) -> str:
        if package == "desam-segment":
            raise metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(metadata, "version", withoutUs)
    volume = phantom.addVolume("head", 3, shape=SHAPE)
    cases = [(volume, phantom.addSegmentation("s", 3, volume))]
    tuned = logic.fineTune(cases, name="versioned", mode="box", epochs=1, styles=0)
    software = logic._jobs.registry.find(tuned.model).card.software
    assert software["desam-segment"] == DeSAMSegmentLib.__version__
    assert software["torch"] == version("torch")
    logic._jobs.registry.delete(tuned.model)


def test_an_evaluation_compares_the_segment_that_the_model_was_trained_for(
    logic: Any, quick_encoder: None, tmp_path: Path
) -> None:
    volume = phantom.addVolume("head", 3, shape=SHAPE)
    both = phantom.addSegmentation("both", 17, volume, segment="bladder")
    whole = phantom.addSegmentation("whole", 3, volume)
    both.GetSegmentation().CopySegmentFromSegmentation(whole.GetSegmentation(), "organ")
    tuned = logic.fineTune([(volume, both)], labels="organ", name="second", mode="box", epochs=1, styles=0)
    alone = logic.evaluate([(volume, whole)], tuned.model, tmp_path / "alone")
    among = logic.evaluate([(volume, both)], tuned.model, tmp_path / "among")
    assert [list(case.metrics) for case in among.cases] == [["organ"]]
    assert among.summary == alone.summary
    both.GetSegmentation().GetSegment("organ").SetName("liver")
    with pytest.raises(BadInput, match="head has no segment that the model knows; it knows organ"):
        logic.evaluate([(volume, both)], tuned.model, tmp_path / "none")
    logic._jobs.registry.delete(tuned.model)


def test_a_second_training_of_the_same_name_starts_over_and_both_models_stay(logic: Any, quick_encoder: None) -> None:
    volume = phantom.addVolume("head", 3, shape=SHAPE)
    cases = [(volume, phantom.addSegmentation("s", 3, volume))]
    first, second = (logic.fineTune(cases, name="again", mode="box", epochs=1, styles=0) for _ in range(2))
    assert (first.model, second.model) == ("again", "again 2")
    logic.fineTune(
        cases, name="again", mode="box", epochs=2, styles=0, progress=lambda event: not isinstance(event, EpochDone)
    )
    with pytest.raises(BadInput, match="resume=True"):
        logic.fineTune(cases, name="again", mode="box", epochs=2, styles=0)
    resumed = logic.fineTune(cases, name="again", mode="box", epochs=2, styles=0, resume=True)
    assert [epoch.epoch for epoch in resumed.epochs] == [2]
    for model in ("again", "again 2", "again 3", "again 4"):
        logic._jobs.registry.delete(model)


def test_what_is_not_possible_is_refused_in_words(logic: Any) -> None:
    volume = phantom.addVolume("head", 3, shape=SHAPE)
    with pytest.raises(BadInput, match=r"no model named nothing.*blobs"):
        logic.segment(volume, model="nothing")
    with pytest.raises(BadVolume, match="Choose a volume"):
        logic.segment(None, model="blobs")
    with pytest.raises(BadInput, match="at least one case"):
        logic.fineTune([])
    with pytest.raises(BadInput, match="Points per side"):
        logic.segment(volume, model="blobs", points=0)
