"""One-dimensional resampling operators: a 2-D resize is one of them along the rows and one along the columns.

All follow the pixel-centre convention (``align_corners=False``): output pixel o looks at input
(o + 0.5) * in / out - 0.5.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import ndimage

BLOCK = 16  # output pixels per block of the smoothing band
NEGLIGIBLE = 1e-6  # weights below this are left out of the band
SINGLE_THREAD = 250_000  # multiplications up to which OpenBLAS keeps to one thread


@lru_cache(maxsize=32)
def smooth_matrix(size: int, target: int) -> np.ndarray:
    """The anti-aliased cubic resize of the published preprocessing as a matrix, (target, size) float32.

    Gaussian of (factor - 1) / 2 pixels, then a cubic spline, both mirrored at the edge: what
    ``skimage.transform.resize(order=3, anti_aliasing=True)`` does along one axis. It is linear
    and separable, so that a slice costs two small matrix products.
    """
    if size == 1:
        return _frozen(np.ones((target, 1)))
    operator = np.eye(size)
    factor = size / target
    if factor > 1:
        operator = ndimage.gaussian_filter1d(operator, (factor - 1) / 2, axis=0, mode="mirror")
    if size != target:
        operator = ndimage.spline_filter1d(operator, order=3, axis=0, mode="mirror")
        at = _positions(size, target)
        base = np.floor(at).astype(int)
        t = (at - base)[:, None]
        weights = ((1 - t) ** 3, 4 - 6 * t**2 + 3 * t**3, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3)
        operator = sum(w / 6 * operator[_mirrored(base + k, size)] for k, w in zip((-1, 0, 1, 2), weights, strict=True))
    # Symmetric by construction: a flipped slice gives the flipped result to the last bit of the matrix.
    return _frozen((operator + operator[::-1, ::-1]) / 2)


Block = tuple[slice, slice, np.ndarray]


@lru_cache(maxsize=32)
def smooth_blocks(size: int, target: int) -> tuple[Block, ...]:
    """``smooth_matrix`` as the blocks of its band: (outputs, inputs they look at, weights)."""
    matrix, blocks = smooth_matrix(size, target), []
    for start in range(0, target, BLOCK):
        rows = matrix[start : start + BLOCK]
        used = np.flatnonzero(np.abs(rows).max(axis=0) > NEGLIGIBLE)
        band = slice(int(used[0]), int(used[-1]) + 1)
        weights = rows[:, band] / rows[:, band].sum(axis=1, keepdims=True)
        blocks.append((slice(start, start + len(rows)), band, weights))
    return tuple(blocks)


def smooth(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """An image (h, w) to (rows, columns), anti-aliased cubic, float32.

    In products so small that no BLAS wakes its threads for them: images are prepared beside a network that has all
    cores, and threads that wait for one another there took 50 times as long as the work.
    """
    image = _smooth_rows(np.asarray(image, dtype=np.float32), rows)
    return np.ascontiguousarray(_smooth_rows(image.T, columns).T)


def _smooth_rows(image: np.ndarray, rows: int) -> np.ndarray:
    result = np.empty((rows, image.shape[1]), np.float32)
    for outputs, inputs, weights in smooth_blocks(image.shape[0], rows):
        step = max(1, SINGLE_THREAD // weights.size)
        for start in range(0, image.shape[1], step):
            chunk = slice(start, start + step)
            result[outputs, chunk] = weights @ image[inputs, chunk]
    return result


@lru_cache(maxsize=32)
def linear_taps(size: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bilinear interpolation along one axis: lower and upper index and the upper one's weight, (target,) each."""
    at = np.clip(_positions(size, target), 0, size - 1)
    lower = np.minimum(np.floor(at).astype(np.intp), max(size - 2, 0))
    upper = np.minimum(lower + 1, size - 1)
    return lower, upper, (at - lower).astype(np.float32)


@lru_cache(maxsize=32)
def nearest_taps(size: int, target: int) -> np.ndarray:
    """The nearest input pixel of each output pixel, (target,).

    Half-way cases go down and up in turn. Always up, as rounding does, would move every 512-pixel label map half a
    pixel against its image.
    """
    at = _positions(size, target)
    down, up = np.ceil(at - 0.5), np.floor(at + 0.5)
    return np.clip(np.where(np.arange(target) % 2 == 0, down, up), 0, size - 1).astype(np.intp)


def bilinear(maps: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Maps (..., h, w) to (..., rows, columns), float32; a fresh array unless nothing changes."""
    maps = np.asarray(maps, dtype=np.float32)
    if maps.shape[-1] != columns:
        maps = _interpolated(maps, -1, columns)
    if maps.shape[-2] != rows:
        maps = _interpolated(maps, -2, rows)
    return maps


def _interpolated(maps: np.ndarray, axis: int, target: int) -> np.ndarray:
    """Along one axis: low + weight * (high - low), in two temporary arrays (np.take is 4 times an index)."""
    lower, upper, weight = linear_taps(maps.shape[axis], target)
    low, high = np.take(maps, lower, axis=axis), np.take(maps, upper, axis=axis)
    high -= low
    high *= weight if axis == -1 else weight[:, None]
    low += high
    return low


def _positions(size: int, target: int) -> np.ndarray:
    return (np.arange(target) + 0.5) * (size / target) - 0.5


def _mirrored(index: np.ndarray, size: int) -> np.ndarray:
    """Indices reflected at the centres of the first and last pixel."""
    period = 2 * (size - 1)
    index = np.abs(index) % period
    return np.minimum(index, period - index)


def _frozen(matrix: np.ndarray) -> np.ndarray:
    matrix = matrix.astype(np.float32)
    matrix.flags.writeable = False
    return matrix
