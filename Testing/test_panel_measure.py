"""Measuring in the panel: a result or a model against ground truth; a fine-tuned model against its base."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from DeSAMSegmentLib.data.cases import Case
from DeSAMSegmentLib.data.volume import Volume
from DeSAMSegmentLib.engine.evaluate.evaluate import evaluate, held_out
from DeSAMSegmentLib.engine.events import Finished
from DeSAMSegmentLib.errors import BadInput
from host import phantom
from host.desk import Desk
from host.fixtures import *  # noqa: F403
from host.fixtures import slicer

SHAPE = (4, 48, 40)


def cells(desk: Desk) -> list[list[str]]:
    table = desk.measure.ui.measureTable
    return [[table.item(row, column).text() for column in range(table.columnCount)] for row in range(table.rowCount)]


def choose(desk: Desk, volume: Any, groundTruth: Any, result: Any = None) -> None:
    ui = desk.measure.ui
    ui.measureVolumeSelector.setCurrentNode(volume)
    ui.groundTruthSelector.setCurrentNode(groundTruth)
    ui.resultSelector.setCurrentNode(result)


def measure(desk: Desk, button: str = "measureButton") -> None:
    desk.press(getattr(desk.measure.ui, button))
    desk.waitUntil(lambda: desk.measure.run is None)


def test_a_result_in_the_scene_is_measured_shown_and_saved(quickDesk: Desk, tmp_path: Path) -> None:
    volume = phantom.addVolume("head", 1, shape=SHAPE)
    truth = phantom.addSegmentation("by hand", 1, volume, segment="liver")
    result = phantom.addSegmentation("found", 2, volume, segment="Liver")
    choose(quickDesk, volume, truth, truth)
    assert quickDesk.measure.ui.measureButton.toolTip == "Ground truth and result are the same segmentation."
    choose(quickDesk, volume, truth, result)
    measure(quickDesk)
    a, b = (phantom.ellipsoid(SHAPE, seed) for seed in (1, 2))
    row = cells(quickDesk)[0]
    assert row[:3] == ["liver", "found", f"{2 * (a & b).sum() / (a.sum() + b.sum()):.3f}"]
    assert float(row[5]) == pytest.approx(100 * (b.sum() / a.sum() - 1), abs=0.05)
    assert row[6:] == ["0.000", "0.000"]
    ui = quickDesk.measure.ui
    assert not ui.pictureLabel.pixmap.isNull()
    assert (quickDesk.measure.last.folder / "report.md").is_file()
    quickDesk.answers.nextPath = tmp_path / "table.csv"
    quickDesk.press(ui.saveTableButton)
    with (tmp_path / "table.csv").open(newline="") as file:
        saved = list(csv.DictReader(file))
    assert [(each["label"], each["of"]) for each in saved] == [("liver", "found")]
    assert float(saved[0]["dice"]) == pytest.approx(float(row[2]), abs=5e-4)


def test_a_model_is_measured_by_segmenting_now_and_an_empty_result_has_a_dice_of_zero(quickDesk: Desk) -> None:
    volume = phantom.addVolume("head", 1, shape=SHAPE)
    truth = phantom.addSegmentation("by hand", 1, volume, segment="blob")
    choose(quickDesk, volume, truth)
    measure(quickDesk)
    assert cells(quickDesk)[0][:2] == ["blob", "blobs"]
    assert (quickDesk.measure.last.folder / "predictions" / "head.nii.gz").is_file()
    nothing = phantom.addSegmentation("nothing", 1, volume, segment="blob")
    empty = np.zeros(SHAPE, np.uint8)
    identifier = nothing.GetSegmentation().GetNthSegmentID(0)
    slicer.util.updateSegmentBinaryLabelmapFromArray(empty, nothing, identifier, volume)
    choose(quickDesk, volume, truth, nothing)
    measure(quickDesk)
    assert cells(quickDesk)[0] == ["blob", "nothing", "0.000", "-", "-", "-100.0", "0.000", "100.0"]


def test_a_fine_tuned_model_is_compared_with_its_base_on_what_was_held_out(quickDesk: Desk, tmp_path: Path) -> None:
    from DeSAMSegmentLib.engine.runtime.loading import DeSAM
    from DeSAMSegmentLib.panel.train.cases import SceneCase

    button = quickDesk.measure.ui.compareButton
    assert button.toolTip == "The chosen model was not fine-tuned from another one."
    model = DeSAM.load(quickDesk.services.registry.find("blobs").path)
    training = {"cases": ["a", "b"], "base": "blobs", "held_out": {"a": [1], "b": [2]}}
    model.save(tmp_path / "tuned.desam", replace(model.card, name="tuned", training=training))
    quickDesk.services.registry.add(tmp_path / "tuned.desam", "tuned")
    quickDesk.chooseModel("tuned")
    assert button.toolTip == "Its held-out cases (a, b) are not in the table of the Fine-tune section."
    for seed, name in enumerate("abc"):
        volume = phantom.addVolume(name, seed, shape=SHAPE)
        case = SceneCase(volume, phantom.addSegmentation(f"{name} by hand", seed, volume, segment="blob"))
        quickDesk.fineTune.table.add([case])
    measure(quickDesk, "compareButton")
    rows = cells(quickDesk)
    assert [row[:2] for row in rows] == [["blob", "tuned"], ["blob", "blobs"]]
    assert rows[0][2:] == rows[1][2:], "its weights are those of its base"
    said = quickDesk.measure.ui.measureStatusLabel.text
    assert said.startswith(f"Mean Dice on what was held out: tuned {rows[0][2]}, its base blobs {rows[1][2]}.")
    folders = {path.parent.parent.name for path in quickDesk.measure.last.pictures()}
    assert folders == {"tuned", "blobs"}


def test_only_the_slices_that_were_held_out_count(tmp_path: Path, quickHome: Path) -> None:
    from DeSAMSegmentLib.store.model_file import read_card

    card = replace(read_card(quickHome / "models" / "blobs.desam"), training={"held_out": {"head": [1], "whole": None}})
    truth = phantom.ellipsoid(SHAPE, 1)
    found = truth.copy()
    found[2] = 0  # wrong where the training has looked
    volume = Volume(phantom.image(truth, 1), np.diag([1.0, 1.0, 3.0, 1.0]), "head")
    for name, dice in (("head", 1.0), ("whole", 2 * found.sum() / (found.sum() + truth.sum()))):
        case = Case(name, volume, truth, names={"blob": (1,)})
        predicted = [replace(case, labels=found)]
        *_, last = evaluate([held_out(case, card)], {1: "blob"}, tmp_path / name, predictions=predicted)
        assert isinstance(last, Finished)
        assert last.summary["blob"]["all"]["dice"]["mean"] == pytest.approx(dice)
    with pytest.raises(BadInput, match="Nothing of other was held out"):
        held_out(replace(case, name="other"), card)
