"""How good a slice's mask probably is, as a Dice, and which stretch of slices holds an organ.

The mean probability inside a mask ranks slices by their Dice, also where the organ is not (benchmarks/README.md). Which
Dice it stands for differs from label to label: validation fits a line for each, and the model's card keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

TYPICAL = (0.65, 1.0)  # mean probability that stands for a Dice of 0 and of 1: of hearts, benchmarks/README.md
WEIGHT = 2  # validation slices that each of three points of the typical line counts for
PRESENT = 0.25  # expected Dice from which a slice speaks for the organ rather than against it


@dataclass(frozen=True)
class Calibration:
    """The line from a mask's mean probability to the expected Dice of its slice.

    Attributes:
      zero, one: mean probabilities for which Dice 0 and Dice 1 are expected.
    """

    zero: float = TYPICAL[0]
    one: float = TYPICAL[1]

    def dice(self, probability: float) -> float:
        """Expected Dice, 0..1, of a mask with this mean probability."""
        return float(np.clip((probability - self.zero) / (self.one - self.zero), 0, 1))

    @classmethod
    def fit(cls, probability: Sequence[float], dice: Sequence[float]) -> Calibration:
        """The line that suits slices of which both are known; the fewer they are, the nearer to the typical one.

        A few slices move the line, for a short training is less certain of everything; only many change its slope.
        """
        zero, one = TYPICAL
        zeros = np.asarray(probability) - (one - zero) * np.asarray(dice)  # of typical lines through each slice
        zero_here = (zeros.sum() + zero) / (len(zeros) + 1)
        expected = np.repeat(np.linspace(0, 1, 3), WEIGHT)
        x = np.concatenate([probability, zero_here + (one - zero) * expected])
        y = np.concatenate([dice, expected])
        slope, offset = np.polyfit(x, y, 1)
        if slope < 1:  # a Dice that does not rise with the probability: nothing was learnt about it
            return cls()
        return cls(round(float(-offset / slope), 4), round(float((1 - offset) / slope), 4))

    @classmethod
    def of_card(cls, values: Mapping[str, Sequence[float]], label: int) -> Calibration:
        """What a card knows of a label, the typical line where it knows nothing (``ModelCard.confidence``)."""
        return cls(*values[str(label)]) if str(label) in values else cls()


def stretch(expected: Sequence[float]) -> tuple[int, int]:
    """The run of neighbouring slices that speaks most for an organ: first slice, and the one after the last.

    An organ is one stretch of slices. Each slice counts with its expected Dice above ``PRESENT``, so a doubtful slice
    between two good ones stays, and a doubtful end or a lone mask far away does not. Both are 0 where there is none.

    Arguments:
      expected: Dice of each slice of the volume in order, 0 where nothing was found.
    """
    found, first, total, top = (0, 0), 0, 0.0, 0.0
    for k, value in enumerate(expected):
        if total <= 0:
            first, total = k, 0.0
        total += value - PRESENT
        if total > top:
            top, found = total, (first, k + 1)
    return found
