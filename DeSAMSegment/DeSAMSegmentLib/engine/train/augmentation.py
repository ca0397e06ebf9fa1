"""Augmentations of a training slice, so that a decoder over frozen features meets more than the few scanners and poses
it was given.

They happen before the frozen encoder, a few times per slice, and the features of each are cached; training draws among
them. An augmentation is a function of its seed alone, which makes it cacheable.

``transform`` turns, scales and re-exposes a slice with its target. ``stylise`` shows it as another scanner might have:
the paper names such style augmentation as the rival of a robust model (its references on random convolution and
causality-inspired augmentation); here the two are combined. All but random convolution (Xu et al., ICLR 2021), which no
library this project uses has, are MONAI's transforms.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.transforms import RandAdjustContrast, RandBiasField, RandGaussianNoise, RandGaussianSmooth
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from ...data.slices import Slices
from ..options import TrainOptions
from ..runtime.features import FeatureStream
from ..runtime.session import Session

# Part of the seeds; to be raised when what they make changes.
TRANSFORM_VERSION, STYLE_VERSION = 1, 2

# ---- geometric augmentation ----

ROTATION = 20.0  # degrees, either way
SCALE = 0.25  # up to 1.25 times larger or smaller
SHIFT = 0.08  # of the side
ANISOTROPY = 0.08
EXPOSURE = 0.5  # exponent between 1/1.5 and 1.5
RAMP = 0.35  # of the intensity, at the ends of a slow ramp
GRAIN = 6.0  # grey levels, standard deviation at most


def transform(image: np.ndarray, target: np.ndarray, seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A slice and its target in another pose and exposure.

    Arguments:
      image: (S, S) uint8. target: (S, S) memberships. seed: any integers; the same give the same result.

    Returns:
      image (S, S) uint8 and target (S, S), moved alike; labels stay labels.
    """
    rng = np.random.default_rng([TRANSFORM_VERSION, *seed])
    matrix, offset = _pose(rng, image.shape[0])
    moved = ndimage.affine_transform(image.astype(np.float32), matrix, offset, order=1, mode="constant")
    # pixels are numbered and moved, not memberships: scipy goes through floating point, where high bits are lost
    numbers = np.arange(1, target.size + 1, dtype=np.int32).reshape(target.shape)
    taken = ndimage.affine_transform(numbers, matrix, offset, order=0, mode="constant")
    return _expose(moved, rng), np.concatenate([np.zeros(1, target.dtype), target.ravel()])[taken]


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
    grey = np.clip(image / 255, 0, 1) ** ((1 + EXPOSURE) ** rng.uniform(-1, 1))
    rows, columns = np.meshgrid(*(np.linspace(-1, 1, side) for side in image.shape), indexing="ij")
    direction = rng.uniform(-np.pi, np.pi)
    ramp = np.cos(direction) * rows + np.sin(direction) * columns
    grey *= np.exp(RAMP * rng.uniform(0, 1) * ramp)
    grey += rng.normal(0, GRAIN / 255 * rng.uniform(0, 1), image.shape)
    return np.clip(grey * 255, 0, 255).astype(np.uint8)


def quarter_turns(seed: tuple[int, ...], share: float) -> int:
    """How often a style is turned by 90 degrees, 0 to 3; ``share`` of all styles are turned."""
    rng = np.random.default_rng([TRANSFORM_VERSION, *seed, 90])
    return int(rng.integers(1, 4)) if rng.random() < share else 0


# ---- style augmentation ----

KERNELS = (1, 3, 5, 7)
BIAS = (-0.3, 0.3)  # coefficients of MONAI's cubic field
GAMMA = (0.5, 2.0)
NOISE = 0.12  # standard deviation at most, of the grey range
SMOOTH = (0.5, 1.8)  # pixels of the 256 grid, standard deviation
P_CONVOLUTION, P_BIAS, P_GAMMA, P_INVERT, P_SMOOTH, P_NOISE = 0.5, 0.5, 0.7, 0.2, 0.35, 0.5


def stylise(image: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
    """A slice in another style: convolved, biased, bent, inverted, smoothed, noisy. Nothing moves, so its target stays.

    Arguments:
      image: (S, S) uint8. seed: any integers; the same give the same style.

    Returns:
      (S, S) uint8.
    """
    rng = np.random.default_rng([STYLE_VERSION, *seed])
    grey = torch.from_numpy(image.astype(np.float32) / 255)[None]
    if rng.random() < P_CONVOLUTION:
        grey = _convolved(grey, rng)
    if rng.random() < P_BIAS:
        grey = apply_seeded(RandBiasField(degree=3, coeff_range=BIAS, prob=1.0), grey, rng)
        grey = grey / grey.max().clamp_min(1e-6)
    if rng.random() < P_GAMMA:
        grey = apply_seeded(RandAdjustContrast(prob=1.0, gamma=GAMMA), grey, rng)
    if rng.random() < P_INVERT:
        grey = _inverted(grey, image)
    if rng.random() < P_SMOOTH:
        grey = apply_seeded(RandGaussianSmooth(sigma_x=SMOOTH, sigma_y=SMOOTH, prob=1.0), grey, rng)
    if rng.random() < P_NOISE:
        grey = apply_seeded(RandGaussianNoise(std=NOISE, prob=1.0), grey, rng)
    return (grey[0].clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def apply_seeded(random_transform: Any, grey: Tensor, rng: np.random.Generator) -> Tensor:
    """One of MONAI's random transforms with a seed of ours."""
    random_transform.set_random_state(int(rng.integers(2**31)))
    return torch.as_tensor(random_transform(grey)).as_subclass(torch.Tensor)


def _convolved(grey: Tensor, rng: np.random.Generator) -> Tensor:
    """Random convolution, brought back to the image's range and mixed with it (Xu et al., section 3.2)."""
    size = int(rng.choice(KERNELS))
    weights = torch.from_numpy(rng.normal(0, 1 / size, (1, 1, size, size)).astype(np.float32))
    noisy = F.conv2d(F.pad(grey[None], [size // 2] * 4, mode="reflect"), weights)[0]
    low, high = noisy.min(), noisy.max()
    noisy = (noisy - low) / (high - low).clamp_min(1e-6)
    alpha = float(rng.random())
    return alpha * grey + (1 - alpha) * noisy


def _inverted(grey: Tensor, image: np.ndarray) -> Tensor:
    """Bright tissue dark and dark tissue bright; what was black air stays black."""
    inverted = 1 - grey
    inverted[0][torch.from_numpy(image == 0)] = 0
    return inverted


# ---- the versions of a slice ----


@dataclass(frozen=True)
class Augmented:
    """One augmentation of one slice: its target, and its image where that is not the slice itself."""

    index: int
    number: int
    target: np.ndarray
    image: np.ndarray | None = None


class AugmentedStream(FeatureStream):
    """Features of augmented slices; plain slices share their cache entries with segmenting."""

    def __init__(self, slices: Slices, session: Session, augmented: Sequence[Augmented]) -> None:
        super().__init__(slices, session)
        self.augmented = augmented

    def key(self, index: int) -> str:
        each = self.augmented[index]
        plain = super().key(each.index)
        if each.image is None:
            return plain
        # the image itself names the augmentation, so no setting that shapes it can be forgotten
        return f"{plain}.view-{hashlib.sha256(each.image.tobytes()).hexdigest()[:16]}"

    def image(self, index: int) -> np.ndarray:
        each = self.augmented[index]
        return super().image(each.index) if each.image is None else each.image


def versions_of(slices: Slices, members: np.ndarray, index: int, options: TrainOptions) -> list[Augmented]:
    """A slice as it is, ``views - 1`` other poses and ``styles`` other styles: functions of seed and slice.

    Arguments:
      members: memberships of the whole volume, (K, J, I). index: of the slice.
    """
    target = slices.label_map(members, index)
    made = [Augmented(index, 0, target)]
    image = slices.image(index) if options.views > 1 or options.styles else None
    for number in range(1, options.views):
        assert image is not None
        moved_image, moved_target = transform(image, target, (options.seed, index, number))
        made.append(Augmented(index, number, moved_target, moved_image))
    for number in range(options.styles):
        assert image is not None
        seed = (options.seed, index, number)
        turns = quarter_turns(seed, options.turned) if slices.is_turned_anyhow else 0
        styled = np.rot90(stylise(image, seed), turns).copy()
        made.append(Augmented(index, len(made), np.rot90(target, turns).copy(), styled))
    return made
