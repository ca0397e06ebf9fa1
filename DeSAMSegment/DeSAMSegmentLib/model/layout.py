"""How feature maps lie in memory."""

from __future__ import annotations

import torch
from torch import Tensor


def channels_last(x: Tensor) -> Tensor:
    """x (B, C, H, W) with its channels side by side in memory; the values stay.

    On a CPU torch transposes a matrix five times faster than it changes the layout of a 4-D tensor.
    """
    if x.device.type != "cpu" or x.requires_grad or not x.is_contiguous():
        return x.contiguous(memory_format=torch.channels_last)
    slices, channels, height, width = x.shape
    out = x.new_empty(slices, height, width, channels)
    for source, target in zip(x, out, strict=True):
        target.view(height * width, channels).copy_(source.view(channels, height * width).t())
    return out.permute(0, 3, 1, 2)
