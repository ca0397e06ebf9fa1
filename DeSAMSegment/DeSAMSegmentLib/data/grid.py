"""Whether two volumes have the same voxels, and labels taken from one grid to another."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TypeVar

import numpy as np

from ..errors import BadLabels
from .volume import Volume

SAME_PLACE = 0.1  # in voxels: grids whose corners agree this well are the same grid (NIfTI rounds to float32)

AnyVolume = TypeVar("AnyVolume", bound=Volume)


def corners(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(8, 3) world positions of the centres of the corner voxels of a (K, J, I) grid, RAS mm."""
    ends = np.array(list(product(*((0, n - 1) for n in shape[::-1]))))
    return np.asarray(ends @ affine[:3, :3].T + affine[:3, 3])


def displacement(a: np.ndarray, b: np.ndarray, shape: tuple[int, ...]) -> float:
    """By how many of the smallest voxel sides a corner moves at most between two IJK-to-RAS matrices."""
    moved = np.abs(corners(a, shape) - corners(b, shape)).max()
    return float(moved / np.linalg.norm(a[:3, :3], axis=0).min())


def same_grid(a: Volume, b: Volume) -> bool:
    """Whether the two have the same voxels: equal shapes, corners within a tenth of a voxel."""
    return a.array.shape == b.array.shape and displacement(a.ijk_to_ras, b.ijk_to_ras, a.array.shape) <= SAME_PLACE


def resample_labels(labels: AnyVolume, like: Volume) -> AnyVolume:
    """A label map on another volume's grid: nearest neighbour, 0 outside; the note says what fell outside.

    Returns:
      The very same label map when the grids agree.

    Raises:
      BadLabels: of the image's shape but elsewhere, as a label map that lost its geometry is; or no labelled voxel lies
        inside the image.
    """
    if same_grid(labels, like):
        return labels
    if labels.array.shape == like.array.shape and not _same_box(labels, like):
        raise BadLabels(
            f"The label map {labels.title} has as many voxels as its image {like.title}, but in another place.",
            "Save it with the image's geometry; if it was drawn on another scan, resample it to this image first.",
        )
    moved = nearest(labels.array, np.linalg.inv(labels.ijk_to_ras) @ like.ijk_to_ras, like.array.shape)
    total, inside = int(np.count_nonzero(labels.array)), _landing_inside(labels, like)
    if not inside and (total or not _overlap(labels, like)):
        raise BadLabels(
            f"The label map {labels.title} does not overlap the image {like.title}.",
            "Check that both belong to the same scan and that neither lost its position when exported.",
        )
    note = f"{labels.title} was resampled to its image's grid"
    note += f"; {total - inside:,} of {total:,} labelled voxels fell outside." if inside < total else "."
    return replace(labels, array=moved, ijk_to_ras=like.ijk_to_ras, note=f"{labels.note} {note}".strip())


def nearest(array: np.ndarray, index_from_index: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """``array`` (K, J, I) at the places of another grid of ``shape``, nearest voxel, 0 outside.

    Arguments:
      index_from_index: (4, 4) from the new grid's (i, j, k, 1) to the array's.
    """
    moved = np.zeros(shape, array.dtype)
    j, i = np.meshgrid(*(np.arange(n) for n in shape[1:]), indexing="ij")
    matrix = index_from_index[:3]
    plane = matrix[:, 0, None, None] * i + matrix[:, 1, None, None] * j + matrix[:, 3, None, None]
    size = np.array(array.shape[::-1])[:, None, None]
    for k in range(shape[0]):
        places = np.floor(plane + matrix[:, 2, None, None] * k + 0.5).astype(np.int64)
        inside = ((places >= 0) & (places < size)).all(axis=0)
        from_i, from_j, from_k = places[:, inside]
        moved[k][inside] = array[from_k, from_j, from_i]
    return moved


def _landing_inside(labels: Volume, like: Volume) -> int:
    """How many labelled voxels lie in the field of view of ``like``."""
    matrix = np.linalg.inv(like.ijk_to_ras) @ labels.ijk_to_ras
    size, inside = np.array(like.array.shape[::-1]), 0
    for k, plane in enumerate(labels.array):
        j, i = np.nonzero(plane)
        places = np.stack([i, j, np.full(len(i), k)], axis=1) @ matrix[:3, :3].T + matrix[:3, 3]
        inside += int(((places >= -0.5) & (places < size - 0.5)).all(axis=1).sum())
    return inside


def _same_box(a: Volume, b: Volume) -> bool:
    """Whether the corners of one are those of the other, whatever way its voxels are stored."""
    ours, theirs = (corners(each.ijk_to_ras, each.array.shape) for each in (a, b))
    distance = np.abs(ours[:, None] - theirs[None]).max(axis=2).min(axis=1)
    return bool(distance.max() <= SAME_PLACE * min(*a.spacing, *b.spacing))


def _overlap(a: Volume, b: Volume) -> bool:
    """Whether any voxel centre of a coarse raster of ``b`` lies inside ``a``."""
    axes = [np.linspace(-0.5, n - 0.5, 33) for n in b.array.shape[::-1]]
    points = np.array(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    matrix = np.linalg.inv(a.ijk_to_ras) @ b.ijk_to_ras
    inside = matrix[:3, :3] @ points + matrix[:3, 3:]
    size = np.array(a.array.shape[::-1])[:, None]
    return bool(((inside >= -0.5) & (inside <= size - 0.5)).all(axis=0).any())
