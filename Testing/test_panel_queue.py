"""Many volumes in one go: nodes, frames of a sequence, files; failures, a kill, a cancel; in panel and console."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import host
import numpy as np
import pytest
from conftest import write_nifti
from DeSAMSegmentLib.engine.events import CaseDone, CaseFailed, SliceDone
from DeSAMSegmentLib.errors import BadInput, BadVolume
from host import phantom
from host.desk import MODULE, Desk
from host.fixtures import *  # noqa: F403
from host.fixtures import slicer
from queue_of_twenty import KILLED, SHAPE, addSequence, addVolumes, breakVolume, check, column, runTwenty


@pytest.fixture
def logic(quickHome: Path, scene: Any, quick_encoder: None) -> Any:
    return host.loadModule(MODULE).file.DeSAMSegmentLogic()


def maskOf(node: Any, volume: Any) -> np.ndarray:
    identifier = node.GetSegmentation().GetNthSegmentID(0)
    return np.asarray(slicer.util.arrayFromSegmentBinaryLabelmap(node, identifier, volume))


# ---- console --------------------------------------------------------------------------------------------------------


def test_the_console_segments_many_volumes_and_goes_on_after_one_that_fails(logic: Any) -> None:
    volumes = addVolumes(3)
    breakVolume(volumes[1])
    events: list[Any] = []
    queue = logic.segmentMany(volumes, "blobs", mode="box", progress=events.append)
    assert [item.state for item in queue.items] == ["done", "failed", "done"]
    assert queue.items[1].text.startswith("volume 1 is constant")
    assert queue.items[1].result is None
    assert [type(event) for event in events if isinstance(event, CaseDone | CaseFailed)] == [
        CaseDone, CaseFailed, CaseDone,
    ]  # fmt: skip
    assert queue.endText() == "2 of 3 volumes segmented, 1 failed."
    alone = logic.segment(volumes[2], "blobs", mode="box")
    assert np.array_equal(maskOf(queue.items[2].result, volumes[2]), maskOf(alone.segmentationNode, volumes[2]))


def test_a_callback_that_returns_false_ends_the_queue_and_what_is_finished_stays(logic: Any) -> None:
    slices: list[Any] = []

    def stop(event: Any) -> bool:
        slices.extend([event] if isinstance(event, SliceDone) else [])
        return len(slices) < 3

    queue = logic.segmentMany(addVolumes(3), "blobs", progress=stop)
    assert [item.state for item in queue.items] == ["done", "stopped", "waiting"]
    assert queue.isCancelled
    assert queue.items[1].text == "Stopped. 1 of 2 slices are kept."
    assert queue.items[0].result.GetName() == "volume 0 segmentation"


def test_frames_of_a_sequence_become_a_sequence_of_segmentations_in_its_browser(logic: Any) -> None:
    cine = addSequence(3)
    slicer.modules.sequences.logic().UpdateAllProxyNodes()
    browser = slicer.modules.sequences.logic().GetFirstBrowserNodeForSequenceNode(cine)
    shown = browser.GetProxyNode(cine)
    phantom.addTransform(shown)
    breakVolume(cine.GetNthDataNode(1))
    before = {node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")}
    queue = logic.segmentMany(cine, "blobs", mode="box")
    assert [(item.title, item.state) for item in queue.items] == [
        ("cine, time 0.0 s", "done"), ("cine, time 0.5 s", "failed"), ("cine, time 1.0 s", "done"),
    ]  # fmt: skip
    results = queue.items[0].result
    assert results.GetName() == "cine segmentation"
    assert [results.GetNthIndexValue(n) for n in range(results.GetNumberOfDataNodes())] == ["0.0", "1.0"]
    found = browser.GetProxyNode(results)
    assert found.GetTransformNodeID() == shown.GetTransformNodeID()
    for number in (0, 2):
        browser.SetSelectedItemNumber(number)
        alone = logic.segment(shown, "blobs", mode="box")
        assert maskOf(found, shown).any()
        assert np.array_equal(maskOf(found, shown), maskOf(alone.segmentationNode, shown))
        slicer.mrmlScene.RemoveNode(alone.segmentationNode)
    browser.SetSelectedItemNumber(1)
    assert found.GetSegmentation().GetNumberOfSegments() == 0, "a frame that failed has no segmentation"
    assert {node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")} == before
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == [found]


def test_a_sequence_without_a_browser_gets_one(logic: Any) -> None:
    cine = addSequence(2, browsed=False)
    queue = logic.segmentMany([cine], "blobs")
    browser = slicer.modules.sequences.logic().GetFirstBrowserNodeForSequenceNode(cine)
    assert browser.IsSynchronizedSequenceNodeID(queue.items[0].result.GetID())
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "nothing")
    with pytest.raises(BadVolume, match="nothing holds no frames"):
        logic.segmentMany(empty, "blobs")


def test_a_folder_becomes_files_as_on_the_command_line(logic: Any, tmp_path: Path) -> None:
    for seed in (1, 2):
        write_nifti(tmp_path / "in" / f"case{seed}.nii.gz", phantom.image(phantom.ellipsoid(SHAPE, seed), seed))
    (tmp_path / "in" / "broken.nii.gz").write_text("no image")
    queue = logic.segmentMany(tmp_path / "in", "blobs", tmp_path / "out")
    assert [(item.title, item.state) for item in queue.items] == [
        ("broken", "failed"), ("case1", "done"), ("case2", "done"),
    ]  # fmt: skip
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["case1.seg.nrrd", "case2.seg.nrrd"]
    node = slicer.util.loadSegmentation(str(queue.items[1].result))
    assert node.GetSegmentation().GetNthSegment(0).GetName() == "blob"
    with pytest.raises(BadInput, match="no folder for the results"):
        logic.segmentMany(tmp_path / "in", "blobs")
    with pytest.raises(BadInput, match="would both become"):
        logic.segmentMany([tmp_path / "in", tmp_path / "in" / "case1.nii.gz", write_nifti(
            tmp_path / "other" / "case1.nii.gz", phantom.image(phantom.ellipsoid(SHAPE, 1), 1)
        )], "blobs", tmp_path / "out")  # fmt: skip


# ---- panel ----------------------------------------------------------------------------------------------------------


def waitUntilOver(desk: Desk) -> None:
    desk.waitUntil(lambda: desk.segmentMany.queue is None)


def test_twenty_volumes_of_which_three_are_broken_and_one_kills_the_worker(quickDesk: Desk, tmp_path: Path) -> None:
    items, workers = runTwenty(quickDesk, tmp_path)
    many = quickDesk.segmentMany
    assert len(workers) == 2, "one worker for all, and one more for the one that was killed"
    states = dict(zip(column(quickDesk, 0), column(quickDesk, 1), strict=True))
    assert len(states) == 20
    broken = {"volume 3", "cine, time 0.5 s", "case2"}
    assert states == {name: "failed" if name in broken else "done" for name in states}
    assert many.ui.manyStatusLabel.text == "17 of 20 volumes segmented, 3 failed."
    said = {item.title: item.text for item in items if item.state == "failed"}
    assert said["volume 3"].startswith("volume 3 is constant: all voxels are 7.")
    assert said["case2"].startswith("case2.nii.gz")
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == [
        f"case{seed}.seg.nrrd" for seed in (0, 1, 3, 4)
    ]
    assert items[12].result.GetNumberOfDataNodes() == 2
    for number, item in enumerate(items[:12]):
        if item.state == "done":
            assert item.text.startswith("The second try" if number == KILLED else "Finished: 2 slices")
            assert item.result.GetSegmentation().GetNumberOfSegments() == 1, "the second try replaces the first"
    assert quickDesk.services.parameters.getNode("reviewVolume").GetName() == "volume 11"


def test_cancel_keeps_what_is_finished_and_begins_nothing_more(quickDesk: Desk) -> None:
    volumes = addVolumes(4)
    check(quickDesk, *volumes)
    button = quickDesk.segmentMany.ui.segmentManyButton
    quickDesk.press(button)
    assert button.text == "Cancel"
    assert quickDesk.segment.ui.applyButton.toolTip == "Another job is running. Wait for it, or stop it first."
    items = quickDesk.segmentMany.queue.items
    quickDesk.waitUntil(lambda: items[1].state == "running")
    quickDesk.press(button)
    waitUntilOver(quickDesk)
    assert column(quickDesk, 1) == ["done", "stopped", "not begun", "not begun"]
    assert quickDesk.segmentMany.ui.manyStatusLabel.text == "Stopped. 1 of 4 volumes segmented, 0 failed."
    assert maskOf(items[0].result, volumes[0]).shape == SHAPE
    assert button.text == "Segment a&ll"


def test_a_closed_scene_ends_the_queue_and_its_worker(quickDesk: Desk) -> None:
    check(quickDesk, *addVolumes(2), addSequence(2))
    quickDesk.press(quickDesk.segmentMany.ui.segmentManyButton)
    quickDesk.waitUntil(lambda: quickDesk.segmentMany.queue.items[2].state == "running")
    slicer.mrmlScene.Clear(0)
    slicer.app.processEvents()
    assert quickDesk.segmentMany.queue is None
    assert not quickDesk.services.jobs.busy
    assert quickDesk.segmentMany.ui.segmentManyButton.toolTip == "Check volumes of the scene, or choose a folder."
