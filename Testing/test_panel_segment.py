"""Segmenting as a person does it: load, choose, Apply, watch, cancel, undo, review. Real worker, real weights."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from host import phantom
from host.desk import Desk, Pulse
from host.fixtures import *  # noqa: F403
from host.fixtures import slicer
from host.models import RECOMMENDED, writeModel

SHAPE = (5, 64, 48)


def geometry(kind: str) -> np.ndarray:
    """(4, 4) index to world."""
    a, b = np.cos(0.3), np.sin(0.3)
    spacing = np.diag([1.2, 1.0, 3.0])
    m = np.eye(4)
    m[:3, :3] = {
        "plain": spacing,
        "oblique": np.array([[a, -b, 0], [b, a, 0], [0, 0, 1]]) @ spacing,
        "flipped": np.diag([-1, -1, 1]) @ spacing,
        "upside down": np.diag([1, 1, -1]) @ spacing,
    }[kind]
    m[:3, 3] = 5, -40, 12
    return m


def engineMask(volume: Any, mode: str = "box", model: str = "blobs", **options: Any) -> np.ndarray:
    """What the engine itself says about the node's voxels, without panel, worker or scene."""
    from DeSAMSegmentLib.data.feature_cache import FeatureCache
    from DeSAMSegmentLib.data.volume import Volume
    from DeSAMSegmentLib.engine.events import Finished
    from DeSAMSegmentLib.engine.options import SegmentOptions
    from DeSAMSegmentLib.engine.runtime.session import Session
    from DeSAMSegmentLib.engine.segment.segment import segment
    from DeSAMSegmentLib.panel.scene.geometry import ijkToWorld

    array = slicer.util.arrayFromVolume(volume).copy()
    given = Volume.checked(array, ijkToWorld(volume), volume.GetName())
    *_, last = segment(given, model, SegmentOptions(mode=mode, **options), Session(cache=FeatureCache()))
    assert isinstance(last, Finished)
    return np.asarray(last.result.labels)


def segmentMask(desk: Desk, volume: Any) -> np.ndarray:
    """The first segment of the output, as Slicer resamples it onto the volume."""
    node = desk.services.parameters.getNode("segmentation")
    identifier = node.GetSegmentation().GetNthSegmentID(0)
    return np.asarray(slicer.util.arrayFromSegmentBinaryLabelmap(node, identifier, volume))


def shownMask(volume: Any) -> np.ndarray:
    """The first segment of the newest segmentation while the run is going on."""
    nodes = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    if not nodes:
        return np.zeros(SHAPE, np.uint8)
    identifier = nodes[-1].GetSegmentation().GetNthSegmentID(0)
    return np.asarray(slicer.util.arrayFromSegmentInternalBinaryLabelmap(nodes[-1], identifier))


def slicesWith(mask: np.ndarray) -> int:
    return int(mask.any(axis=(1, 2)).sum())


def test_from_volume_to_segmentation_in_three_actions_while_the_panel_answers(desk: Desk) -> None:
    volume = phantom.addVolume("head", 3, geometry("plain"), SHAPE)
    ui = desk.segment.ui
    # 1 choose volume, 2 choose model, 3 Apply
    ui.volumeSelector.setCurrentNode(volume)
    desk.chooseModel("blobs")
    watched = set()
    with Pulse() as pulse:
        desk.press(ui.applyButton)
        assert ui.applyButton.text == "Cancel"
        while desk.services.jobs.busy:
            slicer.app.processEvents()
            time.sleep(0.002)
            watched.add(slicesWith(shownMask(volume)))
    assert ui.applyButton.text == "Apply"
    assert len(watched) >= 4, f"slices should appear one after another, seen: {watched}"
    assert np.array_equal(segmentMask(desk, volume), engineMask(volume))
    assert segmentMask(desk, volume).any()
    assert "Finished: 5 slices" in ui.statusLabel.text
    assert "CPU" in ui.deviceLabel.text or "GB" in ui.deviceLabel.text
    print(f"longest wait for the interface: {pulse.longest * 1000:.0f} ms, seen {pulse.longestSeen * 1000:.0f} ms")
    assert pulse.longest < 0.1, f"the interface did not answer for {pulse.longest * 1000:.0f} ms"


def test_the_segment_lands_on_the_right_voxels_whatever_the_geometry(quickDesk: Desk, quick_encoder: None) -> None:
    desk = quickDesk
    for number, kind in enumerate(["oblique", "flipped", "upside down"] * 2):
        volume = phantom.addVolume(f"{kind} {number}", 4, geometry(kind), (3, 64, 48))
        if number >= 3:
            phantom.addTransform(volume)
        desk.segment.ui.volumeSelector.setCurrentNode(volume)
        desk.segment.ui.outputSelector.setCurrentNode(None)
        desk.chooseModel("blobs")
        desk.press(desk.segment.ui.applyButton)
        desk.waitUntilIdle()
        expected = engineMask(volume)
        assert expected.any()
        assert np.array_equal(segmentMask(desk, volume), expected), kind
        node = desk.services.parameters.getNode("segmentation")
        assert node.GetTransformNodeID() == volume.GetTransformNodeID()


def test_what_the_models_card_recommends_is_what_is_segmented_with(desk: Desk) -> None:
    from DeSAMSegmentLib.engine.options import resolve

    writeModel("fine grid", inference=RECOMMENDED | {"mode": "grid", "points": 16, "iou_threshold": 0.8})
    desk.services.registry.changed.emit()
    volume = phantom.addVolume("head", 3, geometry("plain"), (3, 64, 48))
    desk.chooseModel("fine grid")
    assert desk.advanced.options["points"].text == "As the model recommends"
    assert desk.advanced.options["iou_threshold"].text == "As the model recommends"
    options, _spec = resolve(desk.segment.chosenModel().card, desk.segment.options())
    assert (options.mode, options.points, options.iou_threshold) == ("grid", 16, 0.8)
    limit, first, last = desk.services.binder.pairs["segment.slice_range"]  # one slice is enough, and quick
    limit.setChecked(True)
    last.setValue(1)
    first.setValue(1)
    desk.press(desk.segment.ui.applyButton)
    desk.waitUntilIdle()
    assert [(index, len(points)) for index, points in desk.review._points.items()] == [(1, 16 * 16)]
    assert all(point.iou > 0.8 for point in desk.review._points[1] if point.chosen)
    expected = engineMask(volume, "grid", "fine grid", points=16, iou_threshold=0.8, slice_range=(1, 1))
    assert np.array_equal(segmentMask(desk, volume), expected)
    desk.advanced.options["points"].setValue(4)  # what the user chooses holds over the card
    desk.advanced.options["iou_threshold"].setValue(0.6)
    options, _spec = resolve(desk.segment.chosenModel().card, desk.segment.options())
    assert (options.mode, options.points, options.iou_threshold) == ("grid", 4, 0.6)
    box = desk.advanced.options["points"]
    box.setValue(0)  # as recommended; a step from there led to a grid of a single point
    box.stepUp()
    assert box.value == 9
    box.stepDown()
    assert box.value == 8
    desk.services.registry.delete("fine grid")


def test_what_is_set_in_the_panel_is_what_is_segmented(desk: Desk) -> None:
    from DeSAMSegmentLib.engine.options import SegmentOptions

    phantom.addVolume("head", 3, geometry("plain"), SHAPE)
    assert desk.segment.options() == SegmentOptions(keep_points=True)
    widgets, pairs = desk.advanced.options, desk.services.binder.pairs
    desk.segment.modeSelector.setCurrentIndex(1)
    widgets["points"].setValue(5)
    widgets["iou_threshold"].setValue(0.0)
    widgets["min_area_mm2"].setValue(12.5)
    for name, text in (("largest_component", "No"), ("slice_axis", "Coronal"), ("intensity", "Window")):
        widgets[name].setCurrentIndex(widgets[name].findText(text))
    for name, numbers in (("slice_range", (1, 3)), ("window", (-100, 300))):
        check, *boxes = pairs[f"segment.{name}"]
        assert not boxes[0].enabled
        check.setChecked(True)
        assert boxes[0].enabled
        for box, number in zip(boxes, numbers, strict=True):
            box.setValue(number)
    options = desk.segment.options()
    assert options == SegmentOptions(
        mode="grid", points=5, iou_threshold=0.0, min_area_mm2=12.5, largest_component=False, slice_range=(1, 3),
        slice_axis="coronal", intensity="window", window=(-100, 300), keep_points=True,
    )  # fmt: skip
    assert options.is_valid() == (True, "")
    slicer.mrmlScene.Clear(0)
    slicer.app.processEvents()
    assert desk.segment.options() == SegmentOptions(keep_points=True), "a new scene starts from the defaults"
    assert desk.advanced.options["points"].text == "As the model recommends"


def startLongRun(desk: Desk, seed: int = 5, slices: int = 40) -> Any:
    """A run in grid mode that will not end by itself soon."""
    volume = phantom.addVolume("long", seed, geometry("plain"), (slices, 64, 48))
    desk.segment.ui.volumeSelector.setCurrentNode(volume)
    desk.chooseModel("blobs")
    desk.press(desk.segment.ui.applyButton)
    return volume


def test_cancel_keeps_the_finished_slices_and_nothing_else(desk: Desk) -> None:
    volume = startLongRun(desk)
    desk.waitUntil(lambda: desk.segment.run.done >= 2)
    button = desk.segment.ui.applyButton
    button.click()
    assert button.text == "Cancelling..."
    assert not button.enabled
    assert button.toolTip
    desk.waitUntilIdle()
    done = len(desk.review.chart.rows())
    assert 2 <= done < 40
    assert f"Stopped. {done} of 40 slices are kept." in desk.segment.ui.statusLabel.text
    mask = segmentMask(desk, volume)
    finished = sorted(int(row[0]) for row in desk.review.chart.rows())
    expected = engineMask(volume, slice_range=(finished[0], finished[-1]))
    assert np.array_equal(mask, expected)
    assert slicesWith(mask) == done


def test_a_worker_killed_in_the_middle_leaves_the_scene_intact_and_apply_works_again(desk: Desk) -> None:
    volume = startLongRun(desk, seed=6)
    before = slicer.util.arrayFromVolume(volume).copy()
    desk.waitUntil(lambda: desk.segment.run.done >= 2)
    os.kill(desk.workerPid(), signal.SIGKILL)
    desk.waitUntilIdle()
    assert "ended by the system" in desk.segment.ui.statusLabel.text
    assert "slices are kept" in desk.segment.ui.statusLabel.text
    assert slicesWith(segmentMask(desk, volume)) >= 2
    assert np.array_equal(slicer.util.arrayFromVolume(volume), before)
    short = phantom.addVolume("short", 3, geometry("plain"), SHAPE)
    desk.segment.ui.volumeSelector.setCurrentNode(short)
    desk.segment.ui.outputSelector.setCurrentNode(None)
    desk.press(desk.segment.ui.applyButton)
    desk.waitUntilIdle()
    assert "Finished" in desk.segment.ui.statusLabel.text
    assert np.array_equal(segmentMask(desk, short), engineMask(short))


def test_closing_the_scene_or_the_panel_ends_the_worker_and_its_children(desk: Desk) -> None:
    startLongRun(desk, seed=8)
    desk.waitUntil(lambda: desk.segment.run.done >= 1)
    worker = psutil.Process(desk.workerPid())
    slicer.mrmlScene.Clear(0)
    slicer.app.processEvents()
    assert not desk.services.jobs.busy
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    assert desk.segment.ui.applyButton.text == "Apply"
    assert not slicer.util.getNodesByClass("vtkMRMLSegmentationNode")


def test_undo_takes_the_run_back_in_one_step(desk: Desk) -> None:
    volume = phantom.addVolume("head", 3, geometry("plain"), SHAPE)
    mine = phantom.addSegmentation("mine", 3, volume, "drawn by hand")
    desk.segment.ui.outputSelector.setCurrentNode(mine)
    desk.chooseModel("blobs")
    assert desk.segment.ui.undoButton.toolTip == "Nothing to undo."
    desk.press(desk.segment.ui.applyButton)
    desk.waitUntilIdle()
    assert mine.GetSegmentation().GetNumberOfSegments() == 2
    desk.press(desk.segment.ui.undoButton)
    assert mine.GetSegmentation().GetNumberOfSegments() == 1
    assert np.array_equal(segmentMask(desk, volume), phantom.ellipsoid(SHAPE, 3))


def test_review_shows_the_doubtful_slices_and_jumps_there(desk: Desk) -> None:
    volume = phantom.addVolume("head", 3, geometry("plain"), SHAPE)
    desk.segment.modeSelector.setCurrentIndex(1)
    desk.advanced.options["points"].setValue(4)
    desk.advanced.options["iou_threshold"].setValue(0.0)
    desk.chooseModel("blobs")
    desk.press(desk.segment.ui.applyButton)
    desk.waitUntilIdle()
    rows = desk.review.ranked()
    assert sorted(row[0] for row in rows) == list(range(5))
    table = desk.review.ui.reviewTable
    assert table.rowCount == 5
    index = int(table.item(0, 0).text())
    desk.review.ui.pointsCheckBox.setChecked(True)
    table.cellClicked.emit(0, 0)
    red = slicer.mrmlScene.GetSingletonNode("Red", "vtkMRMLSliceNode")
    expected = (geometry("plain") @ [0, 0, index, 1])[2]
    assert red.GetSliceOffset() == pytest.approx(expected)
    points = slicer.mrmlScene.GetFirstNodeByName("DeSAM grid points")
    assert points.GetNumberOfControlPoints() == 16
    world = [[*points.GetNthControlPointPositionVector(n), 1.0] for n in range(16)]
    i, j, k, _ = np.linalg.inv(geometry("plain")) @ np.array(world).T
    assert sorted(set(i.round())) == pytest.approx([5.5, 17.5, 29.5, 41.5], abs=0.51)
    assert sorted(set(j.round())) == pytest.approx([7.5, 23.5, 39.5, 55.5], abs=0.51)
    assert k == pytest.approx(index)
    desk.review.ui.pointsCheckBox.setChecked(False)
    assert slicer.mrmlScene.GetFirstNodeByName("DeSAM grid points") is None
    desk.review.chart._widget.dataSelected.emit(*clickOnRow(desk, 3))
    assert red.GetSliceOffset() == pytest.approx((geometry("plain") @ [0, 0, desk.review.chart.rows()[3][0], 1])[2])
    assert volume is desk.services.parameters.getNode("reviewVolume")


def clickOnRow(desk: Desk, row: int) -> tuple[Any, Any]:
    """What Slicer's plot view emits for a click on a point."""
    import vtk

    names, indices, selection = vtk.vtkStringArray(), vtk.vtkIdTypeArray(), vtk.vtkCollection()
    names.InsertNextValue(desk.review.chart.chart.GetNthPlotSeriesNodeID(0))
    indices.InsertNextValue(row)
    selection.AddItem(indices)
    return names, selection


def test_a_cleaner_of_temporary_files_does_not_stop_the_next_run(desk: Desk) -> None:
    volume = phantom.addVolume("head", 3, geometry("plain"), SHAPE)
    desk.segment.ui.volumeSelector.setCurrentNode(volume)
    desk.chooseModel("blobs")
    shutil.rmtree(slicer.app.temporaryPath)
    desk.press(desk.segment.ui.applyButton)
    desk.waitUntilIdle()
    assert "Finished: 5 slices" in desk.segment.ui.statusLabel.text


def test_no_room_for_temporary_files_is_said_and_the_panel_is_free_again(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    volume = phantom.addVolume("head", 3, geometry("plain"), SHAPE)
    desk.segment.ui.volumeSelector.setCurrentNode(volume)
    desk.chooseModel("blobs")
    monkeypatch.setattr(slicer.app, "temporaryPath", str(tmp_path / "file" / "temporary"))
    desk.press(desk.segment.ui.applyButton)
    desk.waitUntilIdle()
    assert str(tmp_path) in desk.segment.ui.statusLabel.text
    assert desk.segment.ui.applyButton.enabled
    assert desk.segment.ui.applyButton.text == "Apply"


def test_a_disabled_apply_says_why(desk: Desk) -> None:
    button = desk.segment.ui.applyButton
    assert not button.enabled
    assert "Choose a volume" in button.toolTip
    volume = phantom.addVolume("head", 3, geometry("plain"), SHAPE)
    assert button.enabled, button.toolTip
    desk.segment.ui.modelSearch.setText("nothing like this")
    assert desk.segment.ui.modelList.count == 0
    desk.segment.ui.modelSearch.setText("organ")
    assert desk.segment.ui.modelList.count == 1
    desk.services.parameters.set("model", "")
    assert "Choose a model" in button.toolTip
    desk.chooseModel("blobs")
    limit, first, last = desk.services.binder.pairs["segment.slice_range"]
    limit.setChecked(True)
    first.setValue(4)
    last.setValue(2)
    assert "range" in button.toolTip
    limit.setChecked(False)
    desk.advanced.options["intensity"].setCurrentIndex(3)
    assert "needs a window" in button.toolTip
    assert not button.enabled
    assert volume is not None
