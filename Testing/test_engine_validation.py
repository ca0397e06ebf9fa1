"""What is held out, how it is scored, and which epoch is kept."""

from __future__ import annotations

import numpy as np
import pytest
from DeSAMSegmentLib.data.cases import Case
from DeSAMSegmentLib.engine.options import TrainOptions
from DeSAMSegmentLib.engine.training_set import common_spec
from DeSAMSegmentLib.engine.validation import dice, hold_out, not_worse
from standin import ball_volume


def cases(names: list[str]) -> list[Case]:
    return [Case(name, *ball_volume(seed)) for seed, name in enumerate(names)]


def held(some: list[Case], options: TrainOptions):
    return hold_out(some, [1], common_spec([case.image for case in some], options), options)


def test_whole_patients_are_held_out_never_one_scan_of_them() -> None:
    some = cases(["p1_a", "p1_b", "p2_a", "p2_b", "p3_a", "p3_b"])
    training, held_out, excluded = held(some, TrainOptions(patient_pattern=r"(p\d)", validation_fraction=0.3))
    patients = {case.name[:2] for case in training}
    assert {case.name[:2] for case in held_out}.isdisjoint(patients)
    assert len(held_out) == 2
    assert all(case.positions is None for case in held_out)
    assert not excluded


def test_a_single_volume_gives_some_of_its_labelled_slices() -> None:
    some = cases(["only"])
    training, held_out, excluded = held(some, TrainOptions())
    assert training == some
    (case,) = held_out
    assert case.positions
    assert excluded == {"only": set(case.positions)}
    labelled = set(np.flatnonzero(some[0].labels.any(axis=(1, 2))).tolist())
    assert case.positions < labelled


def test_nothing_is_held_out_when_that_is_asked_for() -> None:
    training, held_out, excluded = held(cases(["a", "b"]), TrainOptions(validation_fraction=0))
    assert len(training) == 2
    assert not held_out
    assert not excluded


def test_a_later_epoch_is_kept_unless_it_is_worse_by_more_than_the_standard_error() -> None:
    assert not_worse([0.90, 0.80], [0.88, 0.81])
    assert not_worse([0.87, 0.82, 0.85], [0.90, 0.80, 0.86]), "a difference within the noise"
    assert not not_worse([0.80, 0.79, 0.81], [0.88, 0.87, 0.88]), "worse on every case"


def test_with_a_single_value_only_a_higher_dice_counts() -> None:
    assert not_worse([0.9], [0.9])
    assert not not_worse([0.899], [0.9])


@pytest.mark.parametrize(("predicted", "truth", "expected"), [(2, 2, 1.0), (0, 3, 0.0), (3, 0, 0.0)])
def test_dice_of_simple_masks(predicted: int, truth: int, expected: float) -> None:
    assert dice(np.arange(5) < predicted, np.arange(5) < truth) == expected


def test_dice_of_two_empty_masks_is_undefined_and_not_counted() -> None:
    assert np.isnan(dice(np.zeros(4, bool), np.zeros(4, bool)))
