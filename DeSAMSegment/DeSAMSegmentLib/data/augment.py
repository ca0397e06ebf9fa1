"""Other looks of a training slice: turned, scaled, re-exposed; so that a decoder over frozen features meets more
than the few scanners and poses it was given.

The encoder is frozen and its features are computed beforehand, so augmentation happens before it: every slice gets
a few views once, and training draws among them. A view is a function of its seed alone, which makes it cacheable.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

VERSION = 1  # part of the cache key; to be raised when a view changes

ROTATION = 20.0  # degrees, either way
SCALE = 0.25  # up to 1.25 times larger or smaller
SHIFT = 0.08  # of the side
ANISOTROPY = 0.08
GAMMA = 0.5  # exponent between 1/1.5 and 1.5
BIAS = 0.35  # of the intensity, at the ends of a slow ramp
NOISE = 6.0  # grey levels, standard deviation at most


def view(image: np.ndarray, truth: np.ndarray, seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """One other look of a slice and its truth.

    Arguments:
      image: (S, S) uint8. truth: (S, S) uint8 label values. seed: any integers; the same give the same view.

    Returns:
      image (S, S) uint8 and truth (S, S) uint8, moved alike; labels stay labels.
    """
    rng = np.random.default_rng([VERSION, *seed])
    matrix, offset = _pose(rng, image.shape[0])
    moved = ndimage.affine_transform(image.astype(np.float32), matrix, offset, order=1, mode="constant")
    labels = ndimage.affine_transform(truth, matrix, offset, order=0, mode="constant")
    return _expose(moved, rng), labels


def _pose(rng: np.random.Generator, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Matrix and offset from output to input pixels: rotation, scale and shift about the centre."""
    angle = np.deg2rad(rng.uniform(-ROTATION, ROTATION))
    scale = (1 + SCALE) ** rng.uniform(-1, 1)
    stretch = 1 + rng.uniform(-ANISOTROPY, ANISOTROPY)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.diag([scale * stretch, scale / stretch])
    centre = np.full(2, (side - 1) / 2)
    shift = rng.uniform(-SHIFT, SHIFT, 2) * side
    return matrix, centre + shift - matrix @ centre


def _expose(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Contrast curve, slow brightness ramp and noise, as between scanners and coils."""
    grey = np.clip(image / 255, 0, 1) ** ((1 + GAMMA) ** rng.uniform(-1, 1))
    rows, columns = np.meshgrid(*(np.linspace(-1, 1, side) for side in image.shape), indexing="ij")
    direction = rng.uniform(-np.pi, np.pi)
    ramp = np.cos(direction) * rows + np.sin(direction) * columns
    grey *= np.exp(BIAS * rng.uniform(0, 1) * ramp)
    grey += rng.normal(0, NOISE / 255 * rng.uniform(0, 1), image.shape)
    return np.clip(grey * 255, 0, 255).astype(np.uint8)
