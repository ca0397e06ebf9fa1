"""A small image encoder for engine tests: real shapes, real pixels in, a millisecond instead of a second."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from DeSAMSegmentLib.data.cases import Case, Dataset
from DeSAMSegmentLib.data.volume import Volume
from DeSAMSegmentLib.engine.runtime.session import Encoder
from DeSAMSegmentLib.model.backbones import Backbone
from DeSAMSegmentLib.model.registry import BACKBONES
from DeSAMSegmentLib.model.types import Features
from torch import nn
from torch.nn import functional as F


class StandInBackbone(nn.Module):
    """Levels and neck are fixed random mixtures of the image, its gradient and its position, at 64 x 64."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = BACKBONES["lite_medsam"]
        generator = torch.Generator().manual_seed(7)
        widths = (*self.spec.level_widths, 256)
        self.mixers = nn.ParameterList(torch.randn(width, 6, 3, 3, generator=generator) / 5 for width in widths)

    def forward(self, images: torch.Tensor) -> Features:
        """images (B, H, W), grey 0..255."""
        small = F.interpolate(images[:, None].float() / 255, (64, 64), mode="area")
        ramp = torch.linspace(-1, 1, 64, device=images.device)
        rows, columns = torch.meshgrid(ramp, ramp, indexing="ij")
        blurred = F.avg_pool2d(small, 5, stride=1, padding=2)
        position = torch.stack([rows, columns])[None].expand(len(images), -1, -1, -1)
        stack = torch.cat([small, small**2, blurred, small - blurred, position], dim=1)
        maps = [torch.tanh(F.conv2d(stack, mixer, padding=1)) for mixer in self.mixers]
        return Features(maps[:3], maps[3])


def stand_in_encoder(device: str = "cpu") -> Encoder:
    return Encoder(cast("Backbone", StandInBackbone()), "stand-in", torch.device(device))


def ball_volume(
    seed: int = 0, shape: tuple[int, int, int] = (5, 48, 40), ijk_to_ras: np.ndarray | None = None
) -> tuple[Volume, np.ndarray]:
    """A bright ball in noise and its label map; the outer slices hold none of it."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"))
    centre = np.array(shape) / 2 + rng.uniform(-2, 2, 3) * (0.1, 1, 1)
    scale = np.array([1.9, 12.0, 11.0])
    inside = (((grid - centre[:, None, None, None]) / scale[:, None, None, None]) ** 2).sum(0) < 1
    array = (100 + 80 * inside + rng.normal(0, 12, shape)).astype(np.int16)
    affine = np.diag([0.8, 0.7, 4.0, 1.0]) if ijk_to_ras is None else ijk_to_ras
    return Volume(array, affine, name=f"ball{seed}"), inside.astype(np.uint8)


def balls(domains: str) -> Dataset:
    """One case per letter, the letter being its domain."""
    cases = [Case(f"ball{i}", *ball_volume(i), domain) for i, domain in enumerate(domains)]
    return Dataset("balls", cases, {1: "ball"})
