"""Cleaning masks: small holes and islands of a slice, stray components of a volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

EIGHT = np.ones((3, 3), dtype=bool)  # 8-connectivity in a slice, as published


def clean_small_regions(mask: np.ndarray, min_area: int) -> tuple[np.ndarray, bool]:
    """Fills holes, then drops islands, smaller than ``min_area`` pixels; keeps the largest island if all are small.

    Arguments:
      mask: (H, W) bool.

    Returns:
      the cleaned mask and whether anything changed. The input is not modified.
    """
    if min_area <= 0 or not mask.any():
        return mask, False
    filled = mask | _small_components(~mask, min_area)
    islands, count = ndimage.label(filled, structure=EIGHT)
    sizes = np.bincount(islands.ravel(), minlength=count + 1)[1:]
    keep = np.flatnonzero(sizes >= min_area) + 1
    if keep.size == 0:
        keep = np.array([np.argmax(sizes) + 1])
    cleaned = np.isin(islands, keep)
    return cleaned, not np.array_equal(cleaned, mask)


def _small_components(region: np.ndarray, min_area: int) -> np.ndarray:
    components, count = ndimage.label(region, structure=EIGHT)
    sizes = np.bincount(components.ravel(), minlength=count + 1)
    small = np.flatnonzero(sizes < min_area)
    return np.isin(components, small[small > 0])


def largest_share(mask: np.ndarray) -> float:
    """Share of a bool mask (K, J, I) that lies in its largest 26-connected part; 1 where it is empty."""
    parts, _ = ndimage.label(mask, structure=np.ones((3, 3, 3), dtype=bool))
    sizes = np.bincount(parts[mask])
    return float(sizes.max() / sizes.sum()) if sizes.size else 1.0


def largest_component(labels: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Keeps only the largest 26-connected 3-D component of every label value.

    Arguments:
      labels: (K, J, I) uint8 label map.

    Returns:
      a new array of the same shape.
    """
    cleaned = labels.copy()
    boxes = ndimage.find_objects(labels, max(values, default=0))
    for value in values:
        box = boxes[value - 1]
        if box is None:
            continue
        part = cleaned[box]  # a view: the numbers of components take four bytes a voxel, and an organ is small
        components, count = ndimage.label(part == value, structure=np.ones((3, 3, 3), dtype=bool))
        if count > 1:
            sizes = np.bincount(components[components > 0])
            part[(components > 0) & (components != sizes.argmax())] = 0
    return cleaned


def smooth_like_reference(logits: np.ndarray) -> np.ndarray:
    """The published 256 -> 1024 -> 256 bilinear double resize of logits (..., 256, 256) as the 3-tap filter it is."""
    padded = np.pad(logits, [(0, 0)] * (logits.ndim - 2) + [(1, 1), (1, 1)], mode="edge")
    rows = (padded[..., :-2, :] + 14 * padded[..., 1:-1, :] + padded[..., 2:, :]) / 16
    return (rows[..., :-2] + 14 * rows[..., 1:-1] + rows[..., 2:]) / 16
