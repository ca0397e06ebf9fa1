"""The confidence of a slice: the Dice that the mask's own probabilities expect of it."""

from __future__ import annotations

import numpy as np
import pytest
from DeSAMSegmentLib.model.prediction import expected_dice


def disc(inside: float, outside: float, radius: float = 20) -> np.ndarray:
    """Logits (256, 256) of a disc with these probabilities."""
    rows, columns = np.mgrid[:256, :256]
    probability = np.where((rows - 128) ** 2 + (columns - 128) ** 2 < radius**2, inside, outside)
    return np.log(probability / (1 - probability))


def test_a_mask_that_has_no_doubt_has_full_confidence() -> None:
    assert expected_dice(disc(1 - 1e-9, 1e-9)) == pytest.approx(1.0, abs=1e-6)


def test_a_doubtful_mask_has_less_and_a_doubtful_surrounding_takes_it_all() -> None:
    sure, doubtful, lost = (expected_dice(disc(*pair)) for pair in ((0.99, 0.01), (0.6, 0.01), (0.6, 0.4)))
    assert sure > 0.98
    assert 0.8 < doubtful < 0.9
    assert lost < 0.2


def test_a_faint_haze_over_the_slice_does_not_sink_a_good_mask() -> None:
    """Short trainings leave one; without the squares this disc had 0.27."""
    assert expected_dice(disc(0.95, 0.1)) > 0.75


def test_an_empty_mask_is_as_sure_as_its_likeliest_pixel_is_unlikely() -> None:
    assert expected_dice(disc(0.3, 0.01)) == pytest.approx(0.7)
