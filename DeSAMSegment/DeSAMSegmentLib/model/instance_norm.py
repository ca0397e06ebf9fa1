"""Instance norm without affine parameters, in the layout that makes convolutions fast.

On a CPU one group per channel makes ``group_norm`` the same arithmetic as ``instance_norm``, and several times
faster in channels_last layout. Its backward pass is not: there it is four times slower than in the plain layout. On
a GPU it copies into the plain layout and back. So the gradient is written out here, with the leaky ReLU that mostly
follows, and needs nothing but the output; and a GPU gets two sums and one product.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-5
SLOPE = 0.01  # of the leaky ReLU, as published


def normalise_on_cpu(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x (B, C, H, W) -> normalised; means (B, C); reciprocal deviations (B, C)."""
    batch, channels, rows, columns = x.shape
    nested = x.is_contiguous(memory_format=torch.channels_last)
    x = x if nested else x.contiguous()
    return torch.native_group_norm(x, None, None, batch, channels, rows * columns, channels, EPS)


def normalise_elsewhere(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same by plain operations that keep any layout; the statistics are float32."""
    mean = x.mean((2, 3), dtype=torch.float32)
    length = torch.linalg.vector_norm(x, dim=(2, 3), dtype=torch.float32)
    rate = (length.square() / (x.shape[2] * x.shape[3]) - mean.square()).clamp_min(0).add(EPS).rsqrt()
    scale, shift = rate[:, :, None, None].to(x.dtype), (-mean * rate)[:, :, None, None].to(x.dtype)
    return torch.addcmul(shift, x, scale), mean, rate


class _Normalise(torch.autograd.Function):
    """x (B, C, H, W) -> normalised, through a leaky ReLU if asked; means (B, C); reciprocal deviations (B, C)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, leaky: bool) -> tuple[Tensor, Tensor, Tensor]:
        y, mean, rate = (normalise_on_cpu if x.device.type == "cpu" else normalise_elsewhere)(x)
        if leaky:
            F.leaky_relu(y, SLOPE, inplace=True)
        ctx.leaky = leaky
        ctx.save_for_backward(y, rate)
        ctx.mark_non_differentiable(mean, rate)
        return y, mean, rate

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        y, rate = ctx.saved_tensors
        gradient = gradients[0]
        if ctx.leaky:
            gradient = torch.ops.aten.leaky_relu_backward(gradient, y, SLOPE, True)
            y = F.leaky_relu(y, 1 / SLOPE)
        shift = gradient.mean((2, 3), keepdim=True)
        along = (gradient * y).mean((2, 3), keepdim=True)
        rate = rate[:, :, None, None].to(y.dtype)
        return (gradient * rate).sub_(shift * rate).addcmul_(y, along * rate, value=-1), None


def instance_norm(x: Tensor, leaky: bool = False) -> Tensor:
    """x (B, C, H, W) with mean 0 and variance 1 per channel, through a leaky ReLU if asked."""
    return _Normalise.apply(x, leaky)[0]


def instance_norm_with_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The normalised x, and what the norm takes away: means (B, C) and logarithms of deviations (B, C).

    No gradient flows through the statistics.
    """
    y, mean, rate = _Normalise.apply(x, False)
    return y, mean.float(), -rate.float().log()
