"""Instance norm without affine parameters, in the layout that makes convolutions fast.

One group per channel makes ``group_norm`` the same arithmetic as ``instance_norm``, and several times faster on a
CPU in channels_last layout. Its backward pass is not: there it is four times slower than in the plain layout. So
the gradient is written out here, with the leaky ReLU that mostly follows, and needs nothing but the output.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-5
SLOPE = 0.01  # of the leaky ReLU, as published


class _Normalise(torch.autograd.Function):
    """x (B, C, H, W) -> normalised, through a leaky ReLU if asked; means (B, C); reciprocal deviations (B, C)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, leaky: bool) -> tuple[Tensor, Tensor, Tensor]:
        batch, channels, rows, columns = x.shape
        y, mean, rate = torch.native_group_norm(x, None, None, batch, channels, rows * columns, channels, EPS)
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
