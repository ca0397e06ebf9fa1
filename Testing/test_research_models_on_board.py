"""What the shipped models are trained and measured on, and what their cards say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import write_nifti
from desam_research import models_on_board as board
from DeSAMSegmentLib.data.slices import Slices, SliceSpec
from DeSAMSegmentLib.data.volume import Volume
from DeSAMSegmentLib.engine.runtime.loading import DeSAM


def test_sulci_become_brain_and_right_becomes_left(tmp_path: Path) -> None:
    head = np.zeros((30, 30, 30), np.uint16)
    head[5:25, 5:25, 5:25] = 24
    head[5:25, 5:25, 6:13] = 3  # two folds with four millimetres of fluid between them
    head[5:25, 5:25, 17:24] = 42
    (tmp_path / "maps" / "labels").mkdir(parents=True)
    write_nifti(tmp_path / "maps" / "labels" / "head.nii.gz", head, (1.0, 1.0, 1.0))
    board.head_label_maps(tmp_path / "maps", tmp_path / "heads", parts=True)
    array = board.read_labels(tmp_path / "heads" / "labelsTr" / "head.nii.gz").array
    assert 42 not in array
    assert array[15, 15, 15] == board.TISSUE + board.CSF
    described = json.loads((tmp_path / "heads" / "dataset.json").read_text())
    assert described["labels"]["cerebrum"] == list(board.PARTS["cerebrum"])
    board.head_label_maps(tmp_path / "maps", tmp_path / "whole")
    described = json.loads((tmp_path / "whole" / "dataset.json").read_text())
    assert described["labels"]["brain"] == [value for values in board.PARTS.values() for value in values]


def test_every_fourth_slice_keeps_its_place() -> None:
    array = np.arange(12, dtype=np.int16)[:, None, None] * np.ones((12, 3, 3), np.int16)
    image = board.every(board.Unseen("ramp", Volume(array, np.eye(4)), {"all": array > 0}), 4)
    assert image.volume.array[:, 0, 0].tolist() == [2, 6, 10]
    assert (image.volume.ijk_to_ras @ [0, 0, 1, 1])[2] == 6


def test_scores_of_wholes_thresholds_and_tumours() -> None:
    array = np.zeros((4, 12, 12), np.int16)
    array[1:3, 2:10, 2:10] = 100
    array[1:3, 4:6, 4:6] = 20
    truth = {"brain": array > 0, "ventricles": array == 20, "tumour": array == 100}
    image = board.Unseen("box", Volume(array, np.eye(4)), truth)
    slices = Slices(image.volume, SliceSpec.for_volume(image.volume))
    rows = {row[1]: row[3] for row in board.scores(image, "threshold", board.found_by_threshold(image), slices)}
    assert rows == {"brain": 1.0, "ventricles": 1.0, "tumour, share within the brain": 1.0}


def test_the_final_card_says_what_the_model_is_worth_and_not_for(untrained_model: Path) -> None:
    rows = [{"method": "brain-mr", "image": name, "structure": "brain", "dice": dice} for name, dice in
            (("A", "0.9"), ("B", "0.8"))]  # fmt: skip
    card = board.final_card("brain-mr", DeSAM.load(untrained_model), rows)
    assert "brain 0.85" in card.description
    assert "Not for clinical use" in card.description
    assert card.training["unseen_dice"] == {"brain": {"A": 0.9, "B": 0.8}}
    assert card.licence
    assert pytest.approx(0.85) == np.mean(list(card.training["unseen_dice"]["brain"].values()))
