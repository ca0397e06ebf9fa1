"""Features as the cache keeps them, made where the features are: a GPU need not send 67 MB to the CPU to round them.

Value by value the same as ``data.features.as_stored``, which is the definition; a test holds them together.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..data.features import DEFAULT_CODEC, StoredFeatures
from ..model.types import Features

LEVELS = ("level0", "level1", "level2")
Rounded = dict[str, tuple[Tensor, Tensor | None]]  # name -> values (C, 64, 64) as stored, scale (C, 1, 1) of int8


def to_rounded(features: Features, codec: str) -> Rounded:
    """One slice's features (B = 1) as values and scales, on their device."""
    named = dict(zip(LEVELS, features.levels, strict=True)) | {"neck": features.neck}
    return {name: _round(tensor[0].float(), codec) for name, tensor in named.items()}


def rounded(features: Features, codec: str = DEFAULT_CODEC) -> Features:
    """One slice's features as a cache would give them back, so that runs with and without one agree bit for bit."""
    return widened(to_rounded(features, codec))


def widened(parts: Rounded) -> Features:
    """Back to float32 features (B = 1)."""
    dense = {
        name: (values.float() if scale is None else values.float() * scale)[None]
        for name, (values, scale) in parts.items()
    }
    return Features([dense[name] for name in LEVELS], dense["neck"])


def to_features(stored: StoredFeatures, device: torch.device) -> Features:
    """What a cache holds as float32 features (B = 1) on ``device``, widened there: fewer bytes travel."""

    def moved(array: np.ndarray | None) -> Tensor | None:
        return None if array is None else torch.tensor(array).to(device)

    return widened({name: (moved(array), moved(stored.scales[name])) for name, array in stored.arrays.items()})  # type: ignore[misc]


def to_stored(parts: Rounded) -> StoredFeatures:
    """What a cache takes, in the CPU's memory."""
    arrays = {name: values.cpu().numpy() for name, (values, _) in parts.items()}
    scales = {name: None if scale is None else scale.cpu().numpy() for name, (_, scale) in parts.items()}
    return StoredFeatures(arrays, scales)


def _round(values: Tensor, codec: str) -> tuple[Tensor, Tensor | None]:
    peak = values.abs().amax((1, 2), keepdim=True)
    largest = float(peak.max())
    if len(values) == 1:
        codec = "float16"
    if not np.isfinite(largest) or (codec == "float16" and largest > float(np.finfo(np.float16).max)):
        return values, None
    if codec == "float16":
        return values.half(), None
    # divided by a tensor: by a number, a GPU multiplies with the inverse, which is not the same
    scale = (peak / torch.full_like(peak, 127.0)).clamp_min(float(np.finfo(np.float32).tiny))
    return (values / scale).round().to(torch.int8), scale
