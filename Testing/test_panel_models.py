"""The sections Models and Advanced, and the small parts that need no worker."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from DeSAMSegmentLib.engine.pace import Pace
from host import phantom
from host.desk import Desk
from host.fixtures import *  # noqa: F403
from host.fixtures import slicer

words = importlib.import_module("DeSAMSegmentLib.panel.kit.words")
background = importlib.import_module("DeSAMSegmentLib.panel.kit.background")


def select(desk: Desk, name: str) -> None:
    table = desk.models.ui.modelTable
    rows = [row for row in range(table.rowCount) if table.item(row, 0).text() == name]
    table.selectRow(rows[0])


def names(desk: Desk) -> list[str]:
    return [model.name for model in desk.services.registry.models()]


def test_a_model_is_exported_deleted_imported_and_renamed(desk: Desk, tmp_path: Path) -> None:
    ui = desk.models.ui
    assert not ui.exportButton.enabled
    assert "Select a model" in ui.exportButton.toolTip
    select(desk, "blobs")
    desk.answers.nextPath = tmp_path / "copy.desam"
    desk.press(ui.exportButton)
    assert (tmp_path / "copy.desam").exists()
    desk.press(ui.importButton)
    assert names(desk) == ["blobs", "copy"]
    assert desk.services.parameters.get("model") == "copy"
    select(desk, "copy")
    desk.answers.nextText = "renamed"
    desk.press(ui.renameButton)
    assert names(desk) == ["blobs", "renamed"]
    assert desk.services.parameters.get("model") == "renamed"
    select(desk, "renamed")
    desk.answers.agrees = False
    desk.press(ui.deleteButton)
    assert "cannot be undone" in desk.answers.asked[-1]
    assert "renamed" in names(desk)
    desk.answers.agrees = True
    desk.press(ui.deleteButton)
    assert names(desk) == ["blobs"]


def test_shipped_models_stand_first_and_stay_as_they_are(desk: Desk, own_home: Path, blobs: Path) -> None:
    (own_home / "shipped").mkdir()
    (own_home / "shipped" / "organ.desam").write_bytes(blobs.read_bytes())
    desk.services.registry.changed.emit()
    ui = desk.models.ui
    assert names(desk) == ["organ", "blobs"]
    select(desk, "organ")
    assert ui.exportButton.enabled
    assert not ui.renameButton.enabled
    assert not ui.deleteButton.enabled
    assert "comes with DeSAM" in ui.deleteButton.toolTip
    select(desk, "blobs")
    assert ui.deleteButton.enabled


def test_a_file_that_is_no_model_is_refused_in_words(desk: Desk, tmp_path: Path) -> None:
    desk.answers.nextPath = tmp_path / "bad.desam"
    desk.answers.nextPath.write_bytes(b"not a model")
    desk.press(desk.models.ui.importButton)
    assert "bad.desam" in desk.models.ui.modelsStatusLabel.text
    assert names(desk) == ["blobs"]


def test_a_damaged_model_is_listed_with_its_problem_and_cannot_be_applied(desk: Desk, home: Path) -> None:
    damaged = home / "models" / "damaged.desam"
    damaged.write_bytes(b"\0" * 64)
    desk.services.registry.changed.emit()
    phantom.addVolume("head", 3, shape=(4, 64, 48))
    desk.chooseModel("damaged")
    assert not desk.segment.ui.applyButton.enabled
    assert "damaged.desam" in desk.segment.ui.applyButton.toolTip
    damaged.unlink()


def test_a_download_asks_first_with_size_and_licence(desk: Desk) -> None:
    ui = desk.models.ui
    rows = {ui.weightsTable.item(row, 0).text(): row for row in range(ui.weightsTable.rowCount)}
    ui.weightsTable.selectRow(rows["lite_medsam"])
    assert "already installed" in ui.downloadButton.toolTip
    ui.weightsTable.selectRow(rows["medsam"])
    assert "cannot be downloaded" in ui.downloadButton.toolTip
    ui.weightsTable.selectRow(rows["vit_b"])
    desk.answers.agrees = False
    desk.press(ui.downloadButton)
    assert "375 MB" in desk.answers.asked[-1]
    assert "Apache-2.0" in desk.answers.asked[-1]
    assert not desk.services.jobs.busy


def test_settings_of_this_computer_are_not_saved_with_the_scene(desk: Desk) -> None:
    ui = desk.advanced.ui
    ui.deviceSelector.setCurrentIndex(ui.deviceSelector.findData("cpu"))
    ui.cacheSpinBox.setValue(5)
    slicer.mrmlScene.Clear(0)
    assert ui.deviceSelector.itemData(ui.deviceSelector.currentIndex) == "cpu"
    assert desk.services.settings.get("device") == "cpu"
    assert ui.cacheSpinBox.value == 5
    assert desk.services.registry.cacheLimit() == 5e9
    assert "CPU" in desk.segment.ui.deviceLabel.text


def test_another_computer_is_a_device_and_its_name_is_remembered(desk: Desk) -> None:
    ui, settings = desk.advanced.ui, desk.services.settings
    for word, device in (("ssh", "ssh me@gpu"), ("cpu", "cpu"), ("ssh", "ssh me@gpu")):
        ui.deviceSelector.setCurrentIndex(ui.deviceSelector.findData(word))
        if not settings.get("sshHost"):
            ui.hostEdit.setText(" me@gpu ")
        assert settings.get("device") == device
        assert ui.hostEdit.enabled == (word == "ssh")
    assert "ssh me@gpu" in desk.segment.ui.deviceLabel.text


def test_the_limit_of_the_cache_set_in_the_panel_holds_for_the_console_and_every_new_cache(desk: Desk) -> None:
    from DeSAMSegmentLib.data.feature_cache import DEFAULT_LIMIT, FeatureCache, store_limit

    desk.services.registry.setCacheLimit(DEFAULT_LIMIT)
    assert FeatureCache().limit_bytes == DEFAULT_LIMIT
    desk.advanced.ui.cacheSpinBox.setValue(3)
    assert FeatureCache().limit_bytes == 3e9
    assert FeatureCache(limit_bytes=1e9).limit_bytes == 1e9
    console = desk.widget.logic._jobs._runner
    assert console.session("cpu").cache.limit_bytes == 3e9
    desk.advanced.ui.cacheSpinBox.setValue(4)
    assert console.session("cpu").cache.limit_bytes == 4e9, "of a session that is there already, too"
    store_limit(6e9)  # as the command line does
    desk.advanced.widget.collapsed = False
    assert desk.advanced.ui.cacheSpinBox.value == 6
    assert desk.services.registry.cacheLimit() == 6e9
    store_limit(DEFAULT_LIMIT)


def test_a_parameter_of_another_type_in_a_foreign_scene_counts_as_absent(desk: Desk) -> None:
    parameters = desk.services.parameters
    for text in ('"nine"', "[9]", "nine"):
        parameters.node.SetParameter("DeSAM.segment.points", text)
        assert parameters.get("segment.points") is None
        parameters.node.SetParameter("DeSAM.train.epochs", text)
        assert parameters.get("train.epochs") == 30
        parameters.node.SetParameter("DeSAM.segment.slice_range", text)
        assert parameters.get("segment.slice_range") is None


def test_the_cache_is_measured_when_the_section_is_opened_and_cleared_on_demand(desk: Desk, home: Path) -> None:
    import numpy as np
    from DeSAMSegmentLib.data.feature_cache import DEFAULT_CODEC, FeatureCache
    from quantised import as_stored

    FeatureCache().put("x.0.y", as_stored({"neck": np.ones((512, 64, 64), np.float16)}, DEFAULT_CODEC))
    desk.advanced.widget.collapsed = False
    assert "2 MB used" in desk.advanced.ui.cacheLabel.text
    desk.press(desk.advanced.ui.clearCacheButton)
    assert "0 MB used" in desk.advanced.ui.cacheLabel.text


def test_a_job_whose_preparation_fails_says_so_and_frees_the_panel(desk: Desk) -> None:
    from DeSAMSegmentLib.errors import BadVolume

    ends: list[Any] = []

    def prepare(folder: Path) -> Any:
        yield
        raise BadVolume("The volume is gone.")

    desk.services.jobs.run(background.Job(prepare, lambda event: None, ends.append))
    desk.waitUntilIdle()
    assert ends[0].failed
    assert str(ends[0].error) == "The volume is gone."


def test_a_job_can_be_cancelled_while_it_is_prepared(desk: Desk) -> None:
    ends: list[Any] = []

    def prepare(folder: Path) -> Any:
        while True:
            yield

    desk.services.jobs.run(background.Job(prepare, lambda event: None, ends.append))
    slicer.app.processEvents()
    desk.services.jobs.cancel()
    assert [end.how for end in ends] == ["cancelled"]
    assert not desk.services.jobs.busy


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3599, "59 min 59 s"), (7500, "2 h 5 min")]
)
def test_times_are_put_as_people_say_them(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


def test_the_pace_gives_count_rate_and_time_left() -> None:
    pace = Pace()
    for second in range(11):
        pace.note(100.0 + second, 5 * second)
    assert words.paceText(pace, "slice", 50, 150) == "Slice 50 of 150 · 5.0 slices/s · 20 s left"
    assert words.paceText(Pace(), "epoch", 0, 3) == "Epoch 0 of 3"


def test_a_card_becomes_a_tooltip_without_markup_of_its_own() -> None:
    label = SimpleNamespace(name="<b>organ</b>")
    card = SimpleNamespace(
        title="T", name="n", labels=[label], backbone="lite_medsam", inference={}, slices={"axis": "axial"},
        training={"cases": ["a", "b"], "mean_validation_dice": 0.8765}, created="2026-01-01T00", licence="CC0",
        description="",
    )  # fmt: skip
    text = words.cardText("n", card)
    assert "&lt;b&gt;organ" in text
    assert "2 cases" in text
    assert "0.876" in text or "0.877" in text


def test_the_new_name_of_a_model_is_what_was_typed(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """QInputDialog has no property textValue in Qt 5.15, which official Slicer builds have."""
    qt = importlib.import_module("qt")
    monkeypatch.setattr(slicer.util, "mainWindow", lambda: None)
    monkeypatch.setattr(qt.QInputDialog, "getText", lambda *arguments: f" {arguments[-1]} 2 ")
    questions = importlib.import_module("DeSAMSegmentLib.panel.kit.questions").Questions()
    assert questions.text("Rename the model", "New name:", "prostate") == "prostate 2"


def test_grid_points_leave_the_users_list_of_points_active(scene: Any) -> None:
    gridpoints = importlib.import_module("DeSAMSegmentLib.panel.scene.gridpoints")
    selection = slicer.app.applicationLogic().GetSelectionNode()
    mine = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "mine")
    selection.SetActivePlaceNodeID(mine.GetID())
    points = gridpoints.GridPoints()
    points.show(phantom.addVolume("v", 1, shape=(4, 16, 16)), 0, 1, [])
    assert selection.GetActivePlaceNodeID() == mine.GetID()
    points.hide()


def test_a_chart_of_the_panel_is_no_chart_of_the_layout(desk: Desk) -> None:
    desk.review.chart.start("a run")
    view = scene_view()
    assert not view.GetDoPropagatePlotChartSelection()
    assert view.GetLayoutName()
    assert view.GetParentLayoutNode() is desk.services.parameters.node
    assert desk.review.chart.chart.GetTitleFontSize() <= 12


def scene_view() -> Any:
    return slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLPlotViewNode")


def test_a_panel_that_was_left_writes_nothing_any_more(desk: Desk) -> None:
    widget = desk.fineTune.optionWidgets["epochs"]
    node = desk.services.parameters.node
    desk.widget.panel.cleanup()
    before = node.GetParameter("DeSAM.train.epochs")
    widget.setValue(77)
    assert node.GetParameter("DeSAM.train.epochs") == before


def test_a_full_disk_while_the_limit_is_changed_is_a_message(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from DeSAMSegmentLib.errors import DiskFull

    def full(limit: float) -> None:
        raise DiskFull("The disk is full.")

    monkeypatch.setattr(desk.services.registry, "setCacheLimit", full)
    desk.advanced.ui.cacheSpinBox.setValue(7)
    assert "The disk is full" in desk.advanced.ui.cacheLabel.text


def test_many_nodes_that_leave_the_scene_draw_the_table_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(desk.fineTune.table, "refresh", lambda: drawn.append(1))
    for number in range(5):
        scene_volume = phantom.addVolume(f"v{number}", number, shape=(4, 16, 16))
        slicer.mrmlScene.RemoveNode(scene_volume)
    slicer.app.processEvents()
    assert len(drawn) == 1
