"""Fine-tuning as a person does it: two cases, the embedded backbone, live curve, stop, kill, resume, segment, save."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import host
import numpy as np
import pytest
from host import phantom
from host.desk import Desk
from host.fixtures import *  # noqa: F403
from host.fixtures import slicer

SHAPE = (5, 64, 48)  # three labelled slices: the fewest of which one is held out for the Dice


def addCases(desk: Desk, seeds: tuple[int, ...] = (1, 2)) -> None:
    """Loads labelled volumes and puts them into the table, one press each."""
    ui = desk.fineTune.ui
    desk.fineTune.widget.collapsed = False
    for seed in seeds:
        volume = phantom.addVolume(f"case {seed}", seed, shape=SHAPE)
        ui.caseVolumeSelector.setCurrentNode(volume)
        ui.caseSegmentationSelector.setCurrentNode(phantom.addSegmentation(f"labels {seed}", seed, volume))
        desk.press(ui.addCaseButton)


def choose(desk: Desk, name: str, epochs: int) -> None:
    widgets = desk.fineTune.optionWidgets
    widgets["name"].setText(name)
    widgets["epochs"].setValue(epochs)
    widgets["styles"].setValue(0)
    widgets["mode"].setCurrentIndex(1)  # whole box: the quick one


def test_two_cases_make_a_model_that_segments_and_all_survives_save_and_load(desk: Desk, tmp_path: Path) -> None:
    addCases(desk)
    choose(desk, "ours", 2)
    assert desk.fineTune.ui.caseTable.rowCount == 2
    assert "LiteMedSAM" in desk.fineTune.ui.baseSelector.currentText
    desk.press(desk.fineTune.ui.startButton)
    assert desk.fineTune.ui.startButton.text == "Stop"
    desk.waitUntilIdle()
    assert "Model ours is ready" in desk.fineTune.ui.trainStatusLabel.text
    rows = desk.fineTune.chart.rows()
    assert [row[0] for row in rows] == [1.0, 2.0]
    assert all(row[1] > 0 and 0 <= row[2] <= 1 for row in rows)
    assert desk.services.parameters.get("model") == "ours"
    card = desk.segment.chosenModel().card
    assert [label.name for label in card.labels] == ["organ"]
    assert card.labels[0].color == pytest.approx((230, 102, 51), abs=1)
    segmentAndFindEverythingAgain(desk, tmp_path)


def test_what_is_set_in_the_panel_is_what_is_trained(desk: Desk) -> None:
    choose(desk, " ours ", 7)
    widgets = desk.fineTune.optionWidgets
    widgets["styles"].setValue(5)
    options = desk.fineTune.options()
    assert (options.name, options.epochs, options.mode, options.styles) == ("ours", 7, "box", 5)
    assert options.is_valid() == (True, "")
    widgets["profile"].setCurrentIndex(1)
    assert desk.fineTune.options().styles == 0
    assert not widgets["styles"].enabled
    assert "published recipe" in widgets["styles"].toolTip
    slicer.mrmlScene.Clear(0)
    slicer.app.processEvents()
    assert desk.fineTune.options().styles == 3, "a new scene starts from the defaults"


def test_training_has_a_slice_axis_and_an_intensity_of_its_own(desk: Desk) -> None:
    widgets, advanced = desk.fineTune.optionWidgets, desk.advanced.options
    choose(desk, "ours", 7)
    advanced["slice_axis"].setCurrentIndex(advanced["slice_axis"].findText("Coronal"))
    advanced["intensity"].setCurrentIndex(advanced["intensity"].findText("Percentiles"))
    assert (desk.segment.options().slice_axis, desk.segment.options().intensity) == ("coronal", "percentile")
    assert (desk.fineTune.options().slice_axis, desk.fineTune.options().intensity) == ("auto", "auto")
    widgets["slice_axis"].setCurrentIndex(widgets["slice_axis"].findText("Sagittal"))
    widgets["intensity"].setCurrentIndex(widgets["intensity"].findText("Window"))
    assert "window" in desk.fineTune.options().is_valid()[1]
    limit, low, high = desk.services.binder.pairs["train.window"]
    limit.setChecked(True)
    low.setValue(-100)
    high.setValue(300)
    options = desk.fineTune.options()
    assert (options.slice_axis, options.intensity, options.window) == ("sagittal", "window", (-100, 300))
    assert options.is_valid() == (True, "")
    assert (desk.segment.options().slice_axis, desk.segment.options().window) == ("coronal", None)


def segmentAndFindEverythingAgain(desk: Desk, folder: Path) -> None:
    """Segments a new volume with the new model, saves the scene, clears it, loads it, and looks."""
    volume = phantom.addVolume("new", 7, shape=SHAPE)
    desk.segment.ui.volumeSelector.setCurrentNode(volume)
    desk.press(desk.segment.ui.applyButton)
    desk.waitUntilIdle()
    assert "Finished" in desk.segment.ui.statusLabel.text
    node = desk.services.parameters.getNode("segmentation")
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, node.GetSegmentation().GetNthSegmentID(0), volume)
    points = desk.advanced.options["points"]
    points.setValue(5)
    review, curve = desk.review.chart.rows(), desk.fineTune.chart.rows()
    assert slicer.util.saveScene(str(folder / "scene.mrml"), {})
    slicer.mrmlScene.Clear(0)
    slicer.app.processEvents()
    assert desk.fineTune.ui.caseTable.rowCount == 0
    assert points.text == "As the model recommends"
    assert desk.segment.options().points is None
    slicer.util.loadScene(str(folder / "scene.mrml"), {})
    slicer.app.processEvents()
    assert desk.segment.ui.volumeSelector.currentNode().GetName() == "new"
    again = desk.segment.ui.outputSelector.currentNode()
    volume = desk.segment.ui.volumeSelector.currentNode()
    identifier = again.GetSegmentation().GetNthSegmentID(0)
    assert again.GetSegmentation().GetSegment(identifier).GetName() == "organ"
    assert np.array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(again, identifier, volume), mask)
    assert desk.segment.ui.modelList.currentItem().text().startswith("ours")
    assert points.value == 5
    assert desk.segment.options().points == 5
    assert [case.title for case in desk.fineTune.cases.read()] == ["case 1", "case 2"]
    assert desk.fineTune.ui.caseTable.rowCount == 2
    assert np.allclose(desk.review.chart.rows(), review, atol=1e-4)
    assert np.allclose(desk.fineTune.chart.rows(), curve, atol=1e-4)


def test_a_killed_training_keeps_the_scene_and_resume_goes_on_after_the_last_epoch(quickDesk: Desk) -> None:
    desk = quickDesk
    addCases(desk)
    choose(desk, "killed", 3)
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    desk.press(desk.fineTune.ui.startButton)
    desk.waitUntil(lambda: desk.fineTune.chart.rows())
    os.kill(desk.workerPid(), signal.SIGKILL)
    desk.waitUntilIdle()
    text = desk.fineTune.ui.trainStatusLabel.text
    assert "ended by the system" in text
    assert f"Resume continues after epoch {len(desk.fineTune.chart.rows())}." in text
    assert slicer.mrmlScene.GetNumberOfNodes() >= nodes
    assert len(desk.fineTune.cases.read()) == 2
    resume = desk.fineTune.ui.resumeButton
    assert resume.isVisibleTo(desk.fineTune.widget)
    desk.press(resume)
    desk.waitUntilIdle()
    assert "Model killed is ready" in desk.fineTune.ui.trainStatusLabel.text
    assert [row[0] for row in desk.fineTune.chart.rows()] == [1.0, 2.0, 3.0]
    assert not resume.isVisibleTo(desk.fineTune.widget)


def test_stop_keeps_the_best_model_so_far(quickDesk: Desk) -> None:
    desk = quickDesk
    addCases(desk)
    choose(desk, "stopped", 500)
    desk.press(desk.fineTune.ui.startButton)
    desk.waitUntil(lambda: len(desk.fineTune.chart.rows()) >= 1)
    desk.fineTune.ui.startButton.click()
    desk.waitUntilIdle()
    assert "Stopped. Model stopped is ready" in desk.fineTune.ui.trainStatusLabel.text
    assert desk.services.registry.find("stopped") is not None
    assert desk.services.parameters.get("model") == "stopped"


def test_a_start_that_is_not_possible_says_why(desk: Desk, tmp_path: Path) -> None:
    ui = desk.fineTune.ui
    assert "Add at least one case" in ui.startButton.toolTip
    assert not ui.addCaseButton.enabled
    addCases(desk, (1,))
    assert ui.startButton.enabled, ui.startButton.toolTip
    desk.fineTune.optionWidgets["name"].setText("  ")
    assert "name" in ui.startButton.toolTip
    desk.fineTune.optionWidgets["name"].setText("x")
    warp = slicer.mrmlScene.GetFirstNodeByName("labels 1")
    warp.GetSegmentation().RemoveAllSegments()
    desk.fineTune.refresh()
    assert "has no segment" in ui.startButton.toolTip
    desk.answers.nextPath = tmp_path
    desk.press(ui.addFolderButton)
    assert "dataset.json" in ui.trainStatusLabel.text


def test_cases_of_a_data_set_folder_are_added_with_their_labels(desk: Desk, dataset: Path) -> None:
    desk.answers.nextPath = dataset
    desk.press(desk.fineTune.ui.addFolderButton)
    cases = desk.fineTune.cases.read()
    assert [case.name for case in cases] == ["north_1", "south_1"]
    assert cases[0].names == {"blob": (1,)}
    desk.fineTune.ui.caseTable.cellWidget(0, 3).setCurrentIndex(1)
    assert [case.slices for case in desk.fineTune.cases.read()] == ["labelled", "all"]
    desk.fineTune.ui.caseTable.selectRow(0)
    desk.press(desk.fineTune.ui.removeCaseButton)
    assert [case.name for case in desk.fineTune.cases.read()] == ["south_1"]
    assert desk.fineTune.ui.startButton.enabled, desk.fineTune.ui.startButton.toolTip


def test_a_case_whose_node_is_deleted_leaves_the_table_and_rows_stay_true(desk: Desk) -> None:
    addCases(desk, (1, 2, 3))
    ui = desk.fineTune.ui
    slicer.mrmlScene.RemoveNode(slicer.mrmlScene.GetFirstNodeByName("case 1"))
    ui.caseTable.cellWidget(1, 3).setCurrentIndex(1)  # the row of case 2, before the table was drawn again
    assert [(case.title, case.slices) for case in desk.fineTune.cases.read()] == [
        ("case 2", "labelled"), ("case 3", "all"),
    ]  # fmt: skip
    ui.caseTable.selectRow(0)  # case 1, which is gone: nothing else may be removed in its place
    desk.fineTune.table.removeSelected()
    assert [case.title for case in desk.fineTune.cases.read()] == ["case 2", "case 3"]
    slicer.mrmlScene.RemoveNode(slicer.mrmlScene.GetFirstNodeByName("labels 2"))
    desk.waitUntil(lambda: ui.caseTable.rowCount == 1)
    assert ui.caseTable.item(0, 0).text() == "case 3"


def test_segments_made_in_another_module_are_there_when_the_panel_is_entered_again(desk: Desk) -> None:
    volume = phantom.addVolume("v", 1, shape=SHAPE)
    ui = desk.fineTune.ui
    ui.caseVolumeSelector.setCurrentNode(volume)
    segmentation = phantom.addSegmentation("s", 1, volume, "organ")
    ui.caseSegmentationSelector.setCurrentNode(segmentation)
    segmentation.GetSegmentation().AddEmptySegment("b", "second")
    desk.widget.enter()
    selector = ui.caseSegmentSelector
    assert [selector.itemText(row) for row in range(selector.count)] == ["All segments", "organ", "second"]
    selector.setCurrentIndex(2)
    desk.widget.enter()
    assert selector.currentText == "second"


@pytest.mark.parametrize("kind", ["warped", "surfaces"])
def test_labels_that_cannot_be_read_where_they_are_seen_are_refused(desk: Desk, kind: str) -> None:
    addCases(desk, (1,))
    labels = slicer.mrmlScene.GetFirstNodeByName("labels 1")
    if kind == "warped":
        labels.SetAndObserveTransformNodeID(phantom.addWarp("warp").GetID())
    else:
        labels.CreateClosedSurfaceRepresentation()
        labels.GetSegmentation().SetSourceRepresentationName("Closed surface")
        labels.GetSegmentation().RemoveRepresentation("Binary labelmap")
    desk.fineTune.refresh()
    assert {"warped": "non-linear", "surfaces": "surfaces"}[kind] in desk.fineTune.ui.startButton.toolTip
    assert not desk.fineTune.ui.startButton.enabled


def test_a_defect_while_a_job_is_prepared_ends_the_job_with_words(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    addCases(desk, (1, 2))
    choose(desk, "broken", 1)
    monkeypatch.setattr("DeSAMSegmentLib.panel.train.cases.segmentMask", lambda *_: 1 / 0)
    desk.press(desk.fineTune.ui.startButton)
    desk.waitUntilIdle()
    assert "ZeroDivisionError" in desk.fineTune.ui.trainStatusLabel.text
    assert desk.fineTune.ui.startButton.text == "Start"


def test_a_model_that_cannot_be_put_into_the_list_is_not_lost(quickDesk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = quickDesk
    from DeSAMSegmentLib.errors import DiskFull

    def full(*_: object) -> str:
        raise DiskFull("The disk is full.")

    addCases(desk, (1, 2))
    choose(desk, "kept", 1)
    monkeypatch.setattr(desk.fineTune.services.registry, "add", full)
    desk.press(desk.fineTune.ui.startButton)
    desk.waitUntilIdle()
    text = desk.fineTune.ui.trainStatusLabel.text
    assert "The disk is full" in text
    path = Path(text.split("The model is in ")[1].split(";")[0])
    assert path.exists()
    assert desk.fineTune.ui.startButton.text == "Start"


def test_segments_of_several_cases_become_labels_by_name_or_one_label(scene: Any, tmp_path: Path) -> None:
    from DeSAMSegmentLib.data.volume import Volume
    from DeSAMSegmentLib.panel.scene.results import complete
    from DeSAMSegmentLib.panel.train.cases import SceneCase, exportCases, labelsFor

    volume = phantom.addVolume("v", 1, shape=SHAPE)
    single = [SceneCase(volume, phantom.addSegmentation(f"s{n}", n, volume, name)) for n, name in enumerate("ab")]
    assert [(label.value, label.name) for label in labelsFor(single)] == [(1, "a")]
    both = phantom.addSegmentation("both", 1, volume, "b")
    both.GetSegmentation().AddEmptySegment("c", "c")
    mixed = [*single, SceneCase(volume, both)]
    assert [(label.value, label.name) for label in labelsFor(mixed)] == [(1, "a"), (2, "b"), (3, "c")]
    sources = complete(exportCases(mixed, tmp_path))
    assert [source.name for source in sources] == ["v", "v 2", "v 3"]
    assert [dict(source.names) for source in sources] == [{"a": (1,)}, {"b": (1,)}, {"b": (1,), "c": ()}]
    assert [set(np.unique(np.asarray(source.labels))) for source in sources] == [{0, 1}] * 3
    assert isinstance(sources[0].image, Volume)
    assert np.array_equal(sources[0].image.array, slicer.util.arrayFromVolume(volume))
    assert host.failures == []
