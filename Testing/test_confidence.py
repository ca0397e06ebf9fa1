"""The confidence of a slice is what the mean probability in its mask is worth; an organ is one stretch of slices."""

from __future__ import annotations

import numpy as np
import pytest
from DeSAMSegmentLib.engine.segment.confidence import Calibration, stretch
from DeSAMSegmentLib.model.prediction import LabelPrediction, averaged, mean_probability


def disc(inside: float, outside: float, radius: float = 20) -> np.ndarray:
    """Logits (256, 256) of a disc with these probabilities."""
    rows, columns = np.mgrid[:256, :256]
    probability = np.where((rows - 128) ** 2 + (columns - 128) ** 2 < radius**2, inside, outside)
    return np.log(probability / (1 - probability))


def test_only_what_is_inside_the_mask_counts() -> None:
    assert mean_probability(disc(0.9, 0.01)) == pytest.approx(0.9)


@pytest.mark.parametrize("radius", [6, 40])
def test_a_haze_over_the_slice_sinks_no_mask_however_small(radius: float) -> None:
    """Short trainings leave one: the Dice that all pixels expect of the smaller disc was 0.1, and it was flagged."""
    assert Calibration().dice(mean_probability(disc(0.95, 0.16, radius))) > 0.8


def test_an_empty_mask_is_as_sure_as_its_likeliest_pixel_is_unlikely() -> None:
    assert mean_probability(disc(0.3, 0.01)) == pytest.approx(0.7)


def test_a_calibration_finds_the_line_of_many_slices_and_keeps_the_typical_one_without_any() -> None:
    probability = np.linspace(0.8, 1.0, 200)
    found = Calibration.fit(probability.tolist(), ((probability - 0.8) / 0.2).tolist())
    assert (found.zero, found.one) == (pytest.approx(0.8, abs=0.02), pytest.approx(1.0, abs=0.02))
    none = Calibration.fit([], [])
    assert (none.zero, none.one) == (pytest.approx(Calibration().zero), pytest.approx(Calibration().one))


def test_two_slices_tell_that_a_short_training_is_less_certain_of_everything() -> None:
    """Good slices of a model after three epochs had a mean probability of 0.76: all of them were flagged."""
    found = Calibration.fit([0.76, 0.77], [0.9, 0.92])
    assert found.dice(0.76) > 0.65
    assert found.dice(0.6) < 0.4


def test_a_dice_that_falls_with_the_probability_teaches_nothing() -> None:
    probability = np.linspace(0.6, 1.0, 100)
    assert Calibration.fit(probability.tolist(), (1 - probability).tolist()) == Calibration()


@pytest.mark.parametrize(
    ("expected", "kept"),
    [
        ([0.1, 0.8, 0.9, 0.7, 0.1], (1, 4)),  # doubtful ends
        ([0.9, 0.0, 0.9], (0, 3)),  # a gap between sure slices stays
        ([0.9, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5], (0, 2)),  # a lone mask far away
        ([0.2, 0.1, 0.0], (0, 0)),
        ([], (0, 0)),
    ],
)
def test_an_organ_is_one_stretch_of_slices(expected: list[float], kept: tuple[int, int]) -> None:
    assert stretch(expected) == kept


def test_answers_in_several_contrasts_are_averaged_and_nothing_found_counts_against() -> None:
    def said(logit: float | None) -> list[LabelPrediction]:
        logits = None if logit is None else np.full((4, 4), logit, np.float32)
        return [LabelPrediction(logits, 0.5, 1.0, np.ones(1, np.float32))]

    assert averaged([said(3.0)])[0].certainty == 0.5, "one contrast stays as it is"
    (mean,) = averaged([said(3.0), said(1.0)])
    assert mean.logits == pytest.approx(np.full((4, 4), 2.0))
    assert mean.certainty == pytest.approx(1 / (1 + np.exp(-2.0)))
    assert not averaged([said(3.0), said(None)])[0].found
    assert averaged([said(None), said(None)])[0].logits is None
