"""A training slice as other scanners might show it: random convolution, bias field, contrast curve, inversion.

The paper names such style augmentation as the rival of a robust model (its references on random convolution and
causality-inspired augmentation); here the two are combined. It happens before the frozen encoder, a few times per
slice, and the features of every style are cached: a style is a function of its seed alone. Bias and contrast are
MONAI's; random convolution (Xu et al., ICLR 2021) is in no library this project uses.
"""

from __future__ import annotations

import numpy as np
import torch
from monai.transforms import RandAdjustContrast, RandBiasField
from torch.nn import functional as F

VERSION = 1  # part of the seed; to be raised when a style changes

KERNELS = (1, 3, 5, 7)
BIAS = (-0.3, 0.3)  # coefficients of MONAI's cubic field
GAMMA = (0.5, 2.0)
P_CONVOLUTION, P_BIAS, P_GAMMA, P_INVERT = 0.6, 0.5, 0.7, 0.2


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
        field = RandBiasField(degree=3, coeff_range=BIAS, prob=1.0)
        field.set_random_state(int(rng.integers(2**31)))
        grey = torch.as_tensor(field(grey))
        grey = grey / grey.max().clamp_min(1e-6)
    if rng.random() < P_GAMMA:
        curve = RandAdjustContrast(prob=1.0, gamma=GAMMA)
        curve.set_random_state(int(rng.integers(2**31)))
        grey = torch.as_tensor(curve(grey))
    if rng.random() < P_INVERT:
        grey = _inverted(grey, image)
    return (grey[0].clamp(0, 1) * 255).round().to(torch.uint8).numpy()


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
