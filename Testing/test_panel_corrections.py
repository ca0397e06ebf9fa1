"""Correcting a result in the panel and learning from it. No worker: the runs' events are given by hand."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import host
import numpy as np
import pytest
from host import phantom
from host.desk import MODULE, Desk
from host.fixtures import *  # noqa: F403
from host.fixtures import slicer

SHAPE = (6, 32, 24)
UNSURE = {2: 0.3, 4: 0.1}  # slice -> confidence; of the others 0.9


def labelsOf(index: int) -> np.ndarray:
    labels = np.zeros(SHAPE[1:], np.uint8)
    labels[4 : 10 + index, 5:12] = 1
    return labels


@pytest.fixture
def volume(scene: Any) -> Any:
    return phantom.addVolume("head", 3, shape=SHAPE)


def segmented(desk: Desk, run: Any, mask: Any = labelsOf) -> Any:
    """A run of the Segment section as it ends, its slices made by ``mask``; the result under review."""
    from DeSAMSegmentLib.engine.events import Finished, SliceDone
    from DeSAMSegmentLib.panel.scene.results import complete

    desk.review.begin(run)
    for index in range(SHAPE[0]):
        event = SliceDone(0, index, mask(index), UNSURE.get(index, 0.9), 1.0, index + 1, SHAPE[0], 0.1)
        run.take(event)
        desk.review.add(event)
    run.take(Finished("segment", 1.0, SimpleNamespace(labels=np.stack([mask(i) for i in range(SHAPE[0])]))))
    complete(run.finish())
    run.close()
    desk.review.end(run)
    return desk.review.current


@pytest.fixture
def result(desk: Desk, volume: Any) -> Any:
    from DeSAMSegmentLib.engine.options import SegmentOptions
    from DeSAMSegmentLib.panel.segment.run import SegmentRun

    desk.chooseModel("blobs")
    return segmented(desk, SegmentRun(volume, None, desk.services.registry.find("blobs"), SegmentOptions()))


@pytest.fixture
def jobs(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The jobs that were started; none of them runs."""
    started: list[Any] = []
    monkeypatch.setattr(desk.services.jobs, "run", started.append)
    yield started
    desk.fineTune.run = desk.segment.run = None


def voxels(result: Any) -> np.ndarray:
    identifier = next(iter(result.segmentIDs.values()))
    return slicer.util.arrayFromSegmentBinaryLabelmap(result.segmentationNode, identifier, result.volumeNode)


def edit(result: Any, index: int) -> None:
    """As the Segment Editor does it: another image in the segment, of a smaller extent."""
    identifier = next(iter(result.segmentIDs.values()))
    mask = voxels(result)
    mask[index, 20, 15] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, result.segmentationNode, identifier, result.volumeNode)


def shownStates(desk: Desk) -> dict[int, str]:
    table = desk.review.ui.reviewTable
    return {int(table.item(row, 0).text()): table.item(row, 3).text() for row in range(table.rowCount)}


def test_every_slice_is_shown_as_predicted_edited_or_accepted(desk: Desk, result: Any) -> None:
    assert set(shownStates(desk).values()) == {"predicted"}
    edit(result, 3)
    desk.widget.enter()  # back from the Segment Editor
    desk.review.jumpToSlice(1)
    desk.press(desk.review.ui.acceptButton)
    assert shownStates(desk) == {i: {3: "edited", 1: "accepted"}.get(i, "predicted") for i in range(6)}
    assert result.corrected() == [1, 3]


def test_next_goes_through_the_flagged_slices_first_and_then_the_others(desk: Desk, result: Any) -> None:
    seen = []
    for _ in range(6):
        desk.press(desk.review.ui.nextButton)
        seen.append(desk.review._shownSlice)
    assert seen == [4, 2, 4, 2, 4, 2]
    desk.press(desk.review.ui.acceptButton)  # 2; goes on to 4
    desk.press(desk.review.ui.acceptButton)
    assert result.corrected() == [2, 4]
    assert desk.review._shownSlice not in (2, 4)


def test_the_slice_in_view_is_accepted_wherever_the_table_stands(desk: Desk, result: Any) -> None:
    """Someone jumped to a slice and scrolled on."""
    desk.review.jumpToSlice(1)
    red = slicer.mrmlScene.GetNodeByID("vtkMRMLSliceNodeRed")
    red.SetSliceOffset(red.GetSliceOffset() + 2 * 3.0)
    desk.press(desk.review.ui.acceptButton)
    assert result.corrected() == [3]


def test_nothing_here_empties_the_slice_of_the_result_and_nothing_else(desk: Desk, result: Any, volume: Any) -> None:
    image = slicer.util.arrayFromVolume(volume).copy()
    before = voxels(result)
    desk.review.jumpToSlice(2)
    desk.press(desk.review.ui.nothingButton)
    after = voxels(result)
    assert not after[2].any()
    assert np.array_equal(np.delete(after, 2, 0), np.delete(before, 2, 0))
    assert result.corrected() == [2]
    assert np.array_equal(slicer.util.arrayFromVolume(volume), image)


def test_edit_opens_the_segment_editor_on_the_result(desk: Desk, result: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    calls = ("setSegmentationNode", "setSourceVolumeNode", "setCurrentSegmentID")
    editor = SimpleNamespace(**{name: lambda what, name=name: done.append((name, what)) for name in calls})
    module = SimpleNamespace(widgetRepresentation=lambda: SimpleNamespace(self=lambda: SimpleNamespace(editor=editor)))
    monkeypatch.setattr(slicer.modules, "segmenteditor", module, raising=False)
    monkeypatch.setattr(slicer.util, "selectModule", lambda name: done.append(("module", name)))
    desk.press(desk.review.ui.editButton)
    wanted = (result.segmentationNode, result.volumeNode, next(iter(result.segmentIDs.values())))
    assert done == [("module", "SegmentEditor"), *zip(calls, wanted, strict=True)]


def test_learning_sends_the_corrected_slices_and_makes_the_next_version(
    desk: Desk, result: Any, jobs: list[Any], tmp_path: Path
) -> None:
    from DeSAMSegmentLib.data.labels import IGNORE
    from DeSAMSegmentLib.engine.events import EpochDone
    from DeSAMSegmentLib.jobs.client import JobEnd
    from DeSAMSegmentLib.panel.scene.results import complete

    button = desk.review.ui.learnButton
    assert not button.enabled
    assert "Edit or accept" in button.toolTip
    desk.review.jumpToSlice(2)
    desk.press(desk.review.ui.nothingButton)
    edit(result, 3)
    desk.widget.enter()
    desk.press(button)
    request = complete(jobs[0].prepare(tmp_path))
    (case,) = request.cases
    (ignored,) = case.names[IGNORE]
    assert [i for i in range(6) if not (case.labels[i] == ignored).any()] == [2, 3]
    assert not np.asarray(case.labels[2]).any()
    assert np.array_equal(case.labels[3], voxels(result)[3])
    assert list(case.names) == ["organ", IGNORE]
    options = request.options
    assert (options.profile, options.name, options.mode) == ("corrections", "blobs (v2)", "box")
    assert Path(options.base).stem == "blobs"
    # the end of the run, as the worker leaves it
    run = desk.fineTune.run
    run.folder.mkdir(parents=True)
    shutil.copy(desk.services.registry.find("blobs").path, run.folder / "best.desam")
    run.take(EpochDone(1, 1, 0.1, {}, 0.1, None, True, 1.0))
    jobs[0].onEnd(JobEnd("finished"))
    assert desk.services.parameters.get("model") == "blobs (v2)"
    assert "Model blobs (v2) is ready" in desk.review.ui.learnLabel.text
    assert desk.services.registry.nextVersion("blobs (v2)") == "blobs (v3)"
    assert desk.services.registry.find("blobs") is not None
    desk.services.registry.delete("blobs (v2)")


def test_one_click_leads_back_to_the_version_before(desk: Desk, result: Any) -> None:
    from dataclasses import replace

    from DeSAMSegmentLib.engine.runtime.loading import DeSAM

    registry, back = desk.services.registry, desk.review.ui.backButton
    assert back.isHidden()
    model = DeSAM.load(registry.find("blobs").path)
    card = replace(model.card, name="blobs (v2)", training={"base": "blobs"})
    model.save(registry.pathForNew("blobs (v2)"), card, half=True)
    registry.changed.emit()
    desk.chooseModel("blobs (v2)")
    assert back.text == "Back to blobs"
    desk.press(back)
    assert desk.services.parameters.get("model") == "blobs"
    registry.delete("blobs (v2)")


def test_what_the_model_learnt_from_is_replayed_where_it_is_at_hand(desk: Desk, result: Any) -> None:
    from DeSAMSegmentLib.panel.train.cases import SceneCase
    from DeSAMSegmentLib.panel.train.corrections import replayable

    known, other = (
        SceneCase(node, phantom.addSegmentation("truth", 4, node))
        for node in (phantom.addVolume(name, 4, shape=SHAPE) for name in ("case a", "case b"))
    )
    model: Any = SimpleNamespace(card=SimpleNamespace(training={"cases": ["case a"]}))
    assert replayable(model, [known, other]) == [known]


def test_apply_to_the_rest_keeps_what_was_edited_or_accepted(desk: Desk, result: Any, jobs: list[Any]) -> None:
    desk.review.jumpToSlice(1)
    desk.press(desk.review.ui.acceptButton)
    edit(result, 3)
    before = voxels(result)
    desk.press(desk.review.ui.restButton)
    after = segmented(desk, desk.segment.run, lambda index: 1 - labelsOf(index))
    assert after is result
    wanted = np.stack([before[i] if i in (1, 3) else 1 - labelsOf(i) for i in range(6)])
    assert np.array_equal(voxels(result), wanted)
    assert shownStates(desk) == {i: {3: "edited", 1: "accepted"}.get(i, "predicted") for i in range(6)}
    assert desk.segment.run.undo.restore()
    assert np.array_equal(voxels(result), before)


def test_slices_across_another_axis_are_kept_too(desk: Desk, volume: Any) -> None:
    from DeSAMSegmentLib.panel.scene.results import ResultWriter

    labels = desk.services.registry.find("blobs").card.labels
    first = ResultWriter(volume, None, labels, "blobs")
    list(first.writeVolume(np.ones(SHAPE, np.uint8)))
    second = ResultWriter(volume, first.segmentationNode, labels, "blobs", first.segmentIDs, (2, [5, 7]))
    second.writeSlice(2, 5, np.zeros(SHAPE[:2], np.uint8))
    list(second.writeVolume(np.zeros(SHAPE, np.uint8)))
    second.close()
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(second.segmentationNode, second.segmentIDs[1], volume)
    assert sorted(set(np.nonzero(mask)[2])) == [5, 7]
    assert mask[:, :, [5, 7]].all()


def test_a_result_that_leaves_the_scene_leaves_the_review(desk: Desk, result: Any) -> None:
    edit(result, 3)
    slicer.mrmlScene.RemoveNode(result.segmentationNode)
    desk.widget.enter()
    assert desk.review.results == []
    assert desk.review.current is None


def test_with_several_results_one_chooses_which_to_look_through(desk: Desk, result: Any) -> None:
    from DeSAMSegmentLib.engine.options import SegmentOptions
    from DeSAMSegmentLib.panel.segment.run import SegmentRun

    other = phantom.addVolume("knee", 4, shape=SHAPE)
    second = segmented(desk, SegmentRun(other, None, result.model, SegmentOptions()))
    selector = desk.review.ui.resultSelector
    assert [selector.itemText(0)[:4], selector.itemText(1)[:4]] == ["head", "knee"]
    assert desk.review.current is second
    edit(result, 3)
    selector.activated.emit(0)
    assert desk.review.current is result
    assert shownStates(desk)[3] == "edited"
    assert desk.services.parameters.getNode("reviewVolume") is result.volumeNode


@pytest.mark.parametrize("slices", [[1, 3], None])
def test_the_console_learns_from_slices_of_a_segmentation(
    home: Path, volume: Any, monkeypatch: pytest.MonkeyPatch, slices: list[int] | None
) -> None:
    from DeSAMSegmentLib.data.labels import IGNORE
    from DeSAMSegmentLib.errors import BadInput

    logic = host.loadModule(MODULE).file.DeSAMSegmentLogic()
    segmentation = phantom.addSegmentation("mine", 3, volume, segment="Organ")
    asked: list[Any] = []

    def events(request: Any) -> Iterator[Any]:
        (case,) = request.cases
        asked.append((request.options, case.names, np.asarray(case.labels).copy(), request.replay))
        return iter(())

    monkeypatch.setattr(logic._jobs, "_events", events)
    tuned = logic.learn(segmentation, volume, slices=slices, model="blobs", epochs=2)
    assert tuned.model == ""  # no epoch was finished
    ((options, names, labels, replay),) = asked
    assert (options.name, options.epochs, options.profile, replay) == ("blobs (v2)", 2, "corrections", ())
    known = [i for i in range(6) if not (labels[i] == names[IGNORE][0]).any()]
    assert known == (slices or list(range(6)))
    with pytest.raises(BadInput, match="no slice 9"):
        logic.learn(segmentation, volume, slices=[9], model="blobs")


def test_the_console_adapts_a_model_to_volumes_without_labels(
    home: Path, volume: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    logic = host.loadModule(MODULE).file.DeSAMSegmentLogic()
    asked: list[Any] = []

    def events(request: Any) -> Iterator[Any]:
        asked.append(request)
        return iter(())

    monkeypatch.setattr(logic._jobs, "_events", events)
    assert logic.adapt(volume, model="blobs").model == ""  # no epoch was finished
    (request,) = asked
    options = request.options
    assert (options.unlabelled, options.profile, options.name) == (True, "corrections", "blobs (v2)")
    assert [case.labels for case in request.cases] == [None]
    assert request.cases[0].image.array.shape == (6, 32, 24)


def test_the_panel_adapts_the_model_to_checked_volumes_and_a_folder(
    desk: Desk, result: Any, jobs: list[Any], tmp_path: Path
) -> None:
    import qt
    from DeSAMSegmentLib.panel.scene.results import complete

    many = desk.segmentMany
    assert not many.ui.adaptButton.enabled
    assert "Check volumes" in many.ui.adaptButton.toolTip
    many.ui.manySelector.setCheckState(result.volumeNode, qt.Qt.CheckState.Checked)
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "far_0000.nii.gz").touch()
    many.ui.manyFolderEdit.currentPath = str(tmp_path / "scans")
    desk.press(many.ui.adaptButton)
    request = complete(jobs[0].prepare(tmp_path))
    scene, file = request.cases
    assert (scene.labels, scene.image.array.shape) == (None, (6, 32, 24))
    assert (file.labels, file.image.name) == (None, "far_0000.nii.gz")
    assert (request.options.unlabelled, request.options.minutes, request.options.name) == (True, None, "blobs (v2)")
    assert desk.fineTune.run is not None, "the Train section follows it"
