"""A training slice as other scanners might show it: convolved, biased, bent, inverted, smoothed, noisy.

The paper names such style augmentation as the rival of a robust model (its references on random convolution and
causality-inspired augmentation); here the two are combined. It happens before the frozen encoder, a few times per
slice, and the features of every style are cached: a style is a function of its seed alone. All but random convolution
(Xu et al., ICLR 2021), which no library this project uses has, are MONAI's transforms.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.transforms import RandAdjustContrast, RandBiasField, RandGaussianNoise, RandGaussianSmooth
from torch.nn import functional as F

VERSION = 2  # part of the seed; to be raised when a style changes

KERNELS = (1, 3, 5, 7)
BIAS = (-0.3, 0.3)  # coefficients of MONAI's cubic field
GAMMA = (0.5, 2.0)
NOISE = 0.12  # standard deviation at most, of the grey range
SMOOTH = (0.5, 1.8)  # pixels of the 256 grid, standard deviation
P_CONVOLUTION, P_BIAS, P_GAMMA, P_INVERT, P_SMOOTH, P_NOISE = 0.5, 0.5, 0.7, 0.2, 0.35, 0.5


def stylise(image: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
    """One other style of a slice; nothing moves, so its truth stays.

    Arguments:
      image: (S, S) uint8. seed: any integers; the same give the same style.

    Returns:
      (S, S) uint8.
    """
    rng = np.random.default_rng([VERSION, *seed])
    grey = torch.from_numpy(image.astype(np.float32) / 255)[None]
    if rng.random() < P_CONVOLUTION:
        grey = _convolved(grey, rng)
    if rng.random() < P_BIAS:
        grey = _drawn(RandBiasField(degree=3, coeff_range=BIAS, prob=1.0), grey, rng)
        grey = grey / grey.max().clamp_min(1e-6)
    if rng.random() < P_GAMMA:
        grey = _drawn(RandAdjustContrast(prob=1.0, gamma=GAMMA), grey, rng)
    if rng.random() < P_INVERT:
        grey = _inverted(grey, image)
    if rng.random() < P_SMOOTH:
        grey = _drawn(RandGaussianSmooth(sigma_x=SMOOTH, sigma_y=SMOOTH, prob=1.0), grey, rng)
    if rng.random() < P_NOISE:
        grey = _drawn(RandGaussianNoise(std=NOISE, prob=1.0), grey, rng)
    return (grey[0].clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def _drawn(transform: Any, grey: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """One of MONAI's random transforms with a seed of ours."""
    transform.set_random_state(int(rng.integers(2**31)))
    return torch.as_tensor(transform(grey)).as_subclass(torch.Tensor)


def _convolved(grey: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Random convolution, brought back to the picture's range and mixed with it (Xu et al., section 3.2)."""
    size = int(rng.choice(KERNELS))
    weights = torch.from_numpy(rng.normal(0, 1 / size, (1, 1, size, size)).astype(np.float32))
    noisy = F.conv2d(F.pad(grey[None], [size // 2] * 4, mode="reflect"), weights)[0]
    low, high = noisy.min(), noisy.max()
    noisy = (noisy - low) / (high - low).clamp_min(1e-6)
    alpha = float(rng.random())
    return alpha * grey + (1 - alpha) * noisy


def _inverted(grey: torch.Tensor, image: np.ndarray) -> torch.Tensor:
    """Bright tissue dark and dark tissue bright; what was black air stays black."""
    inverted = 1 - grey
    inverted[0][torch.from_numpy(image == 0)] = 0
    return inverted
