"""What is held out, how it is scored, and which epoch is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from DeSAMSegmentLib.data.cases import Case, CaseStore
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.data.labels import Matcher
from DeSAMSegmentLib.data.slices import Slices
from DeSAMSegmentLib.engine.options import TrainOptions
from DeSAMSegmentLib.engine.runtime.session import Session
from DeSAMSegmentLib.engine.train.training_set import TrainingSet, common_spec
from DeSAMSegmentLib.engine.train.validation import ValidationScore, dice, hold_out, not_worse
from standin import ball_volume, stand_in_encoder


def cases(names: list[str]) -> list[Case]:
    return [Case(name, *ball_volume(seed)) for seed, name in enumerate(names)]


def held(some: list[Case], options: TrainOptions):
    store = CaseStore(Matcher(["organ"], [1]), Path("nowhere"))  # the balls are in memory already
    spec = common_spec([case.image for case in some], options)  # type: ignore[misc]
    return hold_out(some, store, spec, options)


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


def test_every_fifth_labelled_slice_is_held_out_from_the_third_on() -> None:
    volume, _ = ball_volume(shape=(20, 48, 40))
    labels = np.zeros((20, 48, 40), np.uint8)
    labels[4:16, 10:20, 10:20] = 1
    _, (case,), _ = held([Case("many", volume, labels)], TrainOptions())
    assert case.positions == {6, 11}
    labels[6:] = 0
    assert held([Case("two", volume, labels)], TrainOptions())[1:] == ([], {}), "of two drawn slices none can be spared"


def test_held_out_slices_are_never_trained_on(tmp_path: Path) -> None:
    volume, labels = ball_volume(ijk_to_ras=np.diag([0.8, 0.7, -4.0, 1.0]))  # stored from the head to the feet
    some, options = [Case("only", volume, labels)], TrainOptions()
    training, _, excluded = held(some, options)
    spec = common_spec([volume], options)
    session = Session(cache=FeatureCache(tmp_path / "cache"), encoder=stand_in_encoder())
    data = TrainingSet(
        training, CaseStore(Matcher(["organ"], [1]), tmp_path / "cases"), spec, options, session, excluded
    )
    list(data.survey())
    trained = {Slices(volume, spec).index(number) for _, number in data.slices}
    assert excluded["only"]
    assert trained == set(range(len(labels))) - excluded["only"]


def test_of_a_partly_drawn_case_only_the_drawn_slices_are_validated() -> None:
    some = [replace(case, slices="labelled") for case in cases(["a", "b", "c", "d"])]
    _, (case,), _ = held(some, TrainOptions())
    assert case.positions == set(np.flatnonzero(case.members.any(axis=(1, 2))).tolist())
    assert case.slices == len(case.positions) < len(case.members)


def test_nothing_is_held_out_when_that_is_asked_for() -> None:
    training, held_out, excluded = held(cases(["a", "b"]), TrainOptions(validation_fraction=0))
    assert len(training) == 2
    assert not held_out
    assert not excluded


def test_a_later_epoch_is_kept_unless_it_is_worse_by_more_than_the_standard_error() -> None:
    assert not_worse([0.90, 0.80], [0.88, 0.81])
    assert not_worse([0.87, 0.82, 0.85], [0.90, 0.80, 0.86]), "a difference within the noise"
    assert not not_worse([0.80, 0.79, 0.81], [0.88, 0.87, 0.88]), "worse on every case"
    assert not not_worse([0.86, 0.80, 0.84], [0.88, 0.80, 0.86]), "worse by two standard errors"


def test_with_a_single_value_only_a_higher_dice_counts() -> None:
    assert not_worse([0.9], [0.9])
    assert not not_worse([0.899], [0.9])


@pytest.mark.parametrize(("predicted", "target", "expected"), [(2, 2, 1.0), (0, 3, 0.0), (3, 0, 0.0)])
def test_dice_of_simple_masks(predicted: int, target: int, expected: float) -> None:
    assert dice(np.arange(5) < predicted, np.arange(5) < target) == expected


def test_dice_of_two_empty_masks_is_undefined_and_not_counted() -> None:
    assert np.isnan(dice(np.zeros(4, bool), np.zeros(4, bool)))


def test_a_label_that_is_rightly_absent_counts_as_found() -> None:
    assert ValidationScore(0.5, {"a": {1: 0.5, 2: float("nan")}}).values == [0.5, 1.0]


def test_validation_calibrates_what_a_mask_s_certainty_is_worth(monkeypatch) -> None:
    """Slices with a mask where nothing is count with a Dice of 0: an empty slice that is painted teaches doubt."""
    from DeSAMSegmentLib.engine.segment.segment import SegmentResult
    from DeSAMSegmentLib.engine.train.validation import _pair

    truth = np.zeros((4, 8, 8), np.uint8)
    truth[:2, 2:6, 2:6] = 1  # memberships: the first label
    labels = np.zeros_like(truth)
    labels[:3, 2:6, 2:6] = 7
    certainty = {(7, 0): 0.95, (7, 1): 0.9, (7, 2): 0.6}
    result = SegmentResult(labels, 0, {}, {}, certainty, None)  # type: ignore[arg-type]
    pairs: dict = {}
    _pair(pairs, result, truth, [7])
    assert sorted(pairs[7]) == [(0.6, 0.0), (0.9, 1.0), (0.95, 1.0)]
