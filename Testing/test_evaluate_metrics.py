"""The measures against values worked out by hand, and their conventions where a label is absent."""

from __future__ import annotations

import math

import numpy as np
import pytest
from DeSAMSegmentLib.data.slices import Slices, SliceSpec
from DeSAMSegmentLib.data.volume import Volume
from DeSAMSegmentLib.engine.evaluate.metrics import bounding_box, measure, score_label

SPACING = (4.0, 0.5, 2.0)  # mm along K, J, I


def cube(first: tuple[int, int, int], last: tuple[int, int, int], shape=(8, 24, 24)) -> np.ndarray:
    """A block of True from ``first`` to ``last``, both included."""
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))] = True
    return mask


def sliced(array: np.ndarray) -> Slices:
    volume = Volume(array.astype(np.int16), np.diag([2.0, 0.5, 4.0, 1.0]), name="made")
    return Slices(volume, SliceSpec.for_volume(volume, axis="axial"))


def test_identical_masks_are_perfect() -> None:
    mask = cube((1, 4, 4), (6, 15, 15))
    found = measure(mask, mask, SPACING)
    assert (found.dice, found.hd95_mm, found.assd_mm, found.volume_error_percent) == (1.0, 0.0, 0.0, 0.0)
    assert found.ground_truth_ml == pytest.approx(mask.sum() * 4.0 / 1000)


def test_dice_and_volume_error_are_those_of_voxel_counts() -> None:
    target, prediction = cube((2, 4, 4), (5, 11, 11)), cube((2, 4, 4), (5, 11, 7))
    found = measure(prediction, target, SPACING)
    assert found.dice == pytest.approx(2 * 4 * 8 * 4 / (4 * 8 * 8 + 4 * 8 * 4))
    assert found.volume_error_percent == pytest.approx(-50.0)


@pytest.mark.parametrize(("axis", "voxels"), [(0, 1), (1, 3), (2, 2)])
def test_a_plate_moved_along_an_axis_is_as_far_away_as_its_spacing_says(axis: int, voxels: int) -> None:
    first, last = [1, 2, 2], [6, 21, 21]
    first[axis] = last[axis] = 3
    target = cube(tuple(first), tuple(last))
    moved = np.roll(target, voxels, axis)
    found = measure(moved, target, SPACING)
    assert found.hd95_mm == pytest.approx(voxels * SPACING[axis])
    assert found.assd_mm == pytest.approx(voxels * SPACING[axis])
    assert found.dice == 0.0


def test_distances_do_not_depend_on_where_in_the_volume_the_masks_lie() -> None:
    target, prediction = cube((2, 6, 6), (4, 12, 12)), cube((2, 6, 8), (4, 12, 14))
    middle = measure(prediction, target, SPACING)
    # the same pair in the corner of a volume: its surface at the border must count as well
    corner = measure(prediction[2:, 6:, 6:], target[2:, 6:, 6:], SPACING)
    assert corner == middle
    assert middle.hd95_mm == pytest.approx(4.0)


def test_one_voxel_against_another_is_measured() -> None:
    found = measure(cube((3, 5, 5), (3, 5, 5)), cube((4, 5, 5), (4, 5, 5)), SPACING)
    assert (found.dice, found.hd95_mm, found.assd_mm) == (0.0, 4.0, 4.0)


def test_absent_in_both_is_nothing_to_measure() -> None:
    nothing = np.zeros((4, 8, 8), bool)
    found = measure(nothing, nothing, SPACING)
    assert (found.dice, found.hd95_mm, found.assd_mm, found.volume_error_percent) == (None, None, None, None)


def test_absent_in_one_is_dice_zero_without_distances() -> None:
    nothing, something = np.zeros((8, 24, 24), bool), cube((2, 4, 4), (5, 11, 11))
    missed, invented = measure(nothing, something, SPACING), measure(something, nothing, SPACING)
    assert (missed.dice, missed.hd95_mm, missed.volume_error_percent) == (0.0, None, -100.0)
    assert (invented.dice, invented.assd_mm, invented.volume_error_percent) == (0.0, None, None)
    assert invented.predicted_ml > 0


def test_the_labelled_protocol_does_not_see_what_is_segmented_on_background_slices() -> None:
    target, prediction = cube((3, 4, 4), (4, 11, 11)), cube((1, 4, 4), (6, 11, 11))
    scores = score_label(prediction, target, sliced(target))
    assert scores["labelled"].dice == 1.0
    assert scores["labelled"].slices == 2
    assert scores["all"].dice == pytest.approx(2 * 2 / (2 + 6))
    assert scores["all"].slices == 8


def test_presence_counts_painted_and_missed_slices_whatever_their_size() -> None:
    target, prediction = cube((3, 4, 4), (6, 11, 11)), cube((1, 4, 4), (4, 11, 11))
    scores = score_label(prediction, target, sliced(target))
    assert (scores["all"].painted_percent, scores["all"].missed_percent) == (50.0, 50.0)
    assert (scores["labelled"].painted_percent, scores["labelled"].missed_percent) == (None, 50.0)
    nowhere = score_label(prediction, target & False, sliced(target))["all"]
    assert (nowhere.painted_percent, nowhere.missed_percent) == (50.0, None)


def test_slices_without_ground_truth_are_left_out_of_all_where_the_user_drew_only_some() -> None:
    target, prediction = cube((3, 4, 4), (4, 11, 11)), cube((1, 4, 4), (6, 11, 11))
    known = np.zeros(8, bool)
    known[2:5] = True
    scores = score_label(prediction, target, sliced(target), known)
    assert scores["all"].dice == pytest.approx(2 * 2 / (2 + 3))
    assert scores["all"].slices == 3


def test_the_published_dice_forgets_the_last_labelled_slice() -> None:
    target = cube((2, 4, 4), (5, 11, 11))
    good = target.copy()
    good[5] = False  # wrong on the last labelled slice only: unseen by the published code
    bad = target.copy()
    bad[2] = False
    spoiled = score_label(bad, target, sliced(target))
    forgiven = score_label(good, target, sliced(target))
    assert forgiven["reference"].dice == 1.0
    assert forgiven["reference"].slices == 3
    assert spoiled["reference"].dice == pytest.approx(0.8, abs=0.01)


def test_the_published_dice_does_not_copy_the_volume_for_every_slice(monkeypatch) -> None:
    target = cube((2, 4, 4), (5, 11, 11))
    seen, original = [], Slices.label_map

    def noted(self, labels, index):
        seen.append(labels)
        return original(self, labels, index)

    monkeypatch.setattr(Slices, "label_map", noted)
    score_label(target, target, sliced(target))
    assert len({id(labels) for labels in seen}) == 2, "the ground truth's and the prediction's"


def test_a_single_stray_voxel_does_not_decide_the_95th_percentile() -> None:
    target = cube((1, 4, 4), (6, 15, 15))
    stray = target.copy()
    stray[3, 23, 23] = True
    found = measure(stray, target, SPACING)
    assert found.hd95_mm == 0.0
    assert found.assd_mm is not None
    assert 0 < found.assd_mm < 0.1


def test_the_surface_distance_is_the_same_both_ways() -> None:
    small, large = cube((2, 8, 8), (4, 10, 10)), cube((2, 4, 4), (4, 18, 18))
    assert measure(small, large, SPACING).assd_mm == pytest.approx(measure(large, small, SPACING).assd_mm)


def test_the_bounding_box_is_tight() -> None:
    assert bounding_box(cube((1, 5, 9), (2, 7, 9))) == (slice(1, 3), slice(5, 8), slice(9, 10))


def test_a_shifted_ball_has_the_distance_of_its_shift() -> None:
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in (40, 40, 40)), indexing="ij")).astype(float)
    ball = ((grid - 18.0) ** 2).sum(0) < 100.0
    found = measure(np.roll(ball, 4, 2), ball, (1.0, 1.0, 1.0))
    assert found.hd95_mm is not None
    assert found.assd_mm is not None
    assert 3.0 < found.hd95_mm <= 4.0
    # surface points see on average |cos| = 1/2 of the shift, a little less where the balls cross
    assert math.isclose(found.assd_mm, 2.0, abs_tol=0.4)
