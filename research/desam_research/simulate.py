"""Simulated hospitals: a real MR volume as another scanner might have shown it, with a knob for how far away that is.

Four effects, each of a kind that real sites differ in, and all of them together:

- ``bias``: a smooth multiplicative field (products of low cosines, as of a surface coil), a factor of up to e^0.8
  brighter and darker at strength 1;
- ``contrast``: grey levels through a rising curve that keeps black and white where they are: an exponent of 2.2 or
  1 / 2.2 at strength 1, with ripples of a tenth of the range, as other echo and repetition times give;
- ``noise``: Rician, with a standard deviation of 8 % of the range at strength 1;
- ``resolution``: an in-plane matrix 1 + 2 strength times coarser, interpolated back: a third of the pixels at 1;
- ``mixed``: contrast, bias, resolution and noise in this order, each with the given strength times 0.7.

Strength 0 changes nothing. The field's shape and the curve belong to the site (``site_seed``), small deviations and the
noise to the case, so that a simulated site is consistent in itself. They are other functions than those of the
augmentations of training (``engine/train/augmentation.py``), though some are of the same kind.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
from DeSAMSegmentLib.data.volume import Volume
from DeSAMSegmentLib.errors import BadInput
from scipy import ndimage
from scipy.interpolate import PchipInterpolator

EFFECTS = ("bias", "contrast", "noise", "resolution", "mixed")
BIAS, EXPONENT, RIPPLE, NOISE, COARSE, MIXED = 0.8, 2.2, 0.1, 0.08, 2.0, 0.7
PERCENTILES = (0.5, 99.5)


def simulate(volume: Volume, effect: str, strength: float, site_seed: int = 0, name: str = "") -> Volume:
    """``volume`` at a simulated site; the same arguments give the same voxels.

    Arguments:
      effect: one of EFFECTS. strength: 0 changes nothing, 1 is a clearly different scanner.
      site_seed: which of the sites with this effect. name: of the case, for its own deviations.
    """
    check_site(effect, strength)
    if strength == 0:
        return volume
    site = np.random.default_rng([site_seed, zlib.crc32(effect.encode())])
    case = np.random.default_rng([site_seed, zlib.crc32(name.encode())])
    low, high = np.percentile(volume.array, PERCENTILES)
    span = float(high - low) or 1.0
    grey = (volume.array.astype(np.float32) - low) / span  # 0..1, a few voxels beyond
    scale = strength * (MIXED if effect == "mixed" else 1.0)
    steps = {
        "contrast": lambda x: _bent(x, scale, site),
        "bias": lambda x: x * np.exp(BIAS * scale * _field(x.shape, site, case)),
        "resolution": lambda x: _coarse(x, scale, volume),
        "noise": lambda x: _rician(x, NOISE * scale, case),
    }
    for kind, step in steps.items():
        if effect in (kind, "mixed"):
            grey = step(grey).astype(np.float32)
    return Volume(np.ascontiguousarray(grey * span + low, np.float32), volume.ijk_to_ras)


def check_site(effect: str, strength: float) -> None:
    """Whether there is such a site.

    Raises:
      BadInput: for an unknown effect, or a strength that is negative or no number.
    """
    if effect not in EFFECTS or not 0 <= strength < math.inf:
        raise BadInput(
            f"A simulated site has an effect of {', '.join(EFFECTS)} and a strength of 0 or more.",
            f"Not {effect!r} with {strength:g}.",
        )


def _bent(grey: np.ndarray, scale: float, site: np.random.Generator) -> np.ndarray:
    """Through a smooth rising curve with fixed ends: a power, and ripples at four levels."""
    knots = np.linspace(0, 1, 6)
    power = EXPONENT ** (scale * site.choice([-1.0, 1.0]) * site.uniform(0.8, 1.0))
    ripples = RIPPLE * scale * site.uniform(-1, 1, 4)
    values = np.concatenate([[0.0], np.clip(knots[1:-1] + ripples, 0.02, 0.98), [1.0]])
    values = np.maximum.accumulate(values)
    inside = np.clip(grey, 0, 1)
    return PchipInterpolator(knots, values)(inside) ** power + (grey - inside)


def _field(shape: Sequence[int], site: np.random.Generator, case: np.random.Generator) -> np.ndarray:
    """A smooth field between -1 and 1 over (K, J, I): in-plane cosines, and a slow drift through the slices."""
    rows, columns = (np.linspace(0, np.pi, size) for size in shape[1:])
    weights = site.normal(0, 1, (3, 3)) + 0.15 * case.normal(0, 1, (3, 3))
    weights[0, 0] = 0  # a constant is no bias
    plane = sum(
        weights[a, b] / (1 + a + b) * np.outer(np.cos(a * rows), np.cos(b * columns))
        for a in range(3)
        for b in range(3)
    )
    plane = plane / np.abs(plane).max()
    drift = 0.2 * np.linspace(-1, 1, shape[0]) * case.choice([-1.0, 1.0])
    return np.clip(plane[None] + drift[:, None, None], -1, 1)


def _coarse(grey: np.ndarray, scale: float, volume: Volume) -> np.ndarray:
    """Smoothed, sampled on a coarser matrix across the two finest axes, interpolated back."""
    slow = int(np.argmax(volume.spacing))
    factors = [1.0 if axis == slow else 1.0 + COARSE * scale for axis in range(3)]
    smooth = ndimage.gaussian_filter(grey, [0.0 if f == 1 else 0.42 * f for f in factors])
    small = ndimage.zoom(smooth, [1 / f for f in factors], order=1, grid_mode=True, mode="nearest")
    back = [full / part for full, part in zip(grey.shape, small.shape, strict=True)]
    return ndimage.zoom(small, back, order=1, grid_mode=True, mode="nearest")


def _rician(grey: np.ndarray, sigma: float, case: np.random.Generator) -> np.ndarray:
    """The magnitude of the signal plus complex Gaussian noise."""
    real = grey + case.normal(0, sigma, grey.shape)
    return np.hypot(real, case.normal(0, sigma, grey.shape))
