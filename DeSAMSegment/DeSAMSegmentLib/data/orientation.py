"""Which way a volume's array lies in the patient, and the slice that a radiologist would see.

Nothing is interpolated: the canonical orientation is a permutation and flips of the array's own axes, so an oblique
volume is sliced along its own planes. A slice is cut in an anatomical plane, or as the volume was acquired: across its
thickest slices, whatever way they lie in the patient.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product

import numpy as np

from .volume import LPS_FROM_RAS

# World axis (0 left, 1 posterior, 2 superior) that slices are perpendicular to; then where rows and columns run:
# patient right at the image's left, anterior or superior at its top.
PLANES = {
    "axial": (2, (1, +1), (0, +1)),
    "coronal": (1, (2, -1), (0, +1)),
    "sagittal": (0, (2, -1), (1, +1)),
}


@dataclass(frozen=True)
class Layout:
    """Array axes (of K, J, I) that slices, rows and columns run along, and which of them run backwards."""

    axis: int
    row_axis: int
    column_axis: int
    flip_axis: bool
    flip_rows: bool
    flip_columns: bool

    def index(self, number: int, count: int) -> int:
        """The array index of canonical slice ``number`` of ``count``, and the other way round."""
        return count - 1 - number if self.flip_axis else number

    def to_canonical(self, plane: np.ndarray) -> np.ndarray:
        """A view of ``array.take(index, axis)`` with canonical rows and columns."""
        if self.row_axis > self.column_axis:
            plane = plane.T
        return plane[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]

    def to_array(self, plane: np.ndarray) -> np.ndarray:
        """The inverse of ``to_canonical``."""
        plane = plane[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]
        return plane.T if self.row_axis > self.column_axis else plane


def world_axes(ijk_to_ras: np.ndarray) -> tuple[tuple[int, int], ...]:
    """For left, posterior, superior: the array axis (0 = K) nearest to it, and its sign.

    Every axis is used once. At exactly 45 degrees the choice depends on where the axes point in the patient and not on
    the order they are stored in, so that two storages of one scan agree.
    """
    directions = _directions(ijk_to_ras)

    def merit(order: tuple[int, ...]) -> tuple:
        chosen = directions[:, order]
        chosen = chosen * np.where(np.diag(chosen) < 0, -1.0, 1.0)
        return (round(float(np.trace(chosen)), 6), *np.round(chosen.ravel() + 0.0, 6))

    best = max(permutations(range(3)), key=merit)
    return tuple((axis, -1 if directions[world, axis] < 0 else 1) for world, axis in enumerate(best))


def layout(ijk_to_ras: np.ndarray, plane: str) -> Layout:
    """The layout for "axial", "coronal" or "sagittal" slices."""
    axes = world_axes(ijk_to_ras)
    normal, (row, row_sign), (column, column_sign) = PLANES[plane]
    return Layout(
        axis=axes[normal][0],
        row_axis=axes[row][0],
        column_axis=axes[column][0],
        flip_axis=axes[normal][1] < 0,
        flip_rows=axes[row][1] * row_sign < 0,
        flip_columns=axes[column][1] * column_sign < 0,
    )


def acquired_layout(ijk_to_ras: np.ndarray) -> Layout:
    """The layout across the thickest slices; axial where no axis is 1 % thicker than the others.

    In the slice, columns run to the patient's left rather than backwards, rows down rather than backwards: the
    conventions of the three anatomical planes as one rule, so that two oblique scans of an organ are shown alike.
    """
    spacing = np.linalg.norm(ijk_to_ras[:3, :3], axis=0)[::-1]
    # in doubt axial, then coronal: where two are alike, the order they are stored in must not decide
    ranked = [axis for axis, _ in world_axes(ijk_to_ras)]
    axis = ranked[int(np.argmax(spacing[ranked] * (1.0, 1.005, 1.01)))]
    left, back, head = _directions(ijk_to_ras)
    others = [each for each in range(3) if each != axis]

    def merit(choice: tuple[tuple[int, int], int, int]) -> float:
        (row, column), down, right = choice
        return right * (left[column] + 0.5 * back[column]) + down * (0.5 * back[row] - head[row])

    choices = product([(others[0], others[1]), (others[1], others[0])], (1, -1), (1, -1))
    (row, column), down, right = max(choices, key=lambda choice: round(merit(choice), 6))
    backwards = left[axis] + back[axis] + head[axis] < 0
    return Layout(axis, row, column, bool(backwards), down < 0, right < 0)


def _directions(ijk_to_ras: np.ndarray) -> np.ndarray:
    """(3, 3): how far the array axes K, J, I (columns) run to the left, back and head (rows), unit vectors."""
    directions = (LPS_FROM_RAS @ ijk_to_ras[:3, :3])[:, ::-1]
    return np.asarray(directions / np.linalg.norm(directions, axis=0))


def is_oblique(ijk_to_ras: np.ndarray, axis: int) -> bool:
    """Whether slices perpendicular to an array axis lie more than 20 degrees off every anatomical plane."""
    return bool(np.abs(_directions(ijk_to_ras)[:, axis]).max() < np.cos(np.deg2rad(20)))
