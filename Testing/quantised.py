"""How features are quantised, in plain numpy: what the product's own quantiser on tensors is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from DeSAMSegmentLib.data.feature_cache import StoredFeatures


def as_stored(arrays: Mapping[str, np.ndarray], codec: str) -> StoredFeatures:
    """Arrays as they would come back from a cache with this codec, without going through a file."""
    pairs = {name: _quantise(np.asarray(array), codec) for name, array in arrays.items()}
    return StoredFeatures(
        {name: values for name, (values, _) in pairs.items()}, {name: scale for name, (_, scale) in pairs.items()}
    )


def dense(stored: StoredFeatures, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """Plain arrays of one type."""
    found = {}
    for name, array in stored.arrays.items():
        scale = stored.scales[name]
        values = array if scale is None else array.astype(np.float32) * scale
        found[name] = values.astype(dtype, copy=False)
    return found


def _quantise(array: np.ndarray, codec: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Values as they are stored, and the scale per channel for int8. Not finite, or too large: float32.

    A single map, such as an image, stays float16: nothing averages its rounding out.
    """
    if array.size == 0 or array.ndim == 0:
        return array.astype(np.float32), None
    if array.shape[0] == 1:
        codec = "float16"
    others = tuple(range(1, array.ndim))
    low, high = array.min(axis=others, keepdims=True), array.max(axis=others, keepdims=True)
    peak = np.maximum(np.abs(low.astype(np.float32)), np.abs(high.astype(np.float32)))
    largest = peak.max()
    if not np.isfinite(largest) or (codec == "float16" and largest > np.finfo(np.float16).max):
        return array.astype(np.float32), None
    if codec == "float16":
        return array.astype(np.float16, copy=False), None
    scale = np.maximum(peak / 127.0, np.finfo(np.float32).tiny).astype(np.float32)
    return np.rint(array.astype(np.float32) / scale).astype(np.int8), scale
