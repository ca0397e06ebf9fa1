"""The few operations for which plain torch is slow: linear layers, layouts and instance norm, with the same results."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# ---- linear layers and 1x1 convolutions ----
# F.linear asks MKL, which is a third slower than oneDNN on CPUs that are not Intel's, and leaves the GELU to a second
# pass over memory. torch reaches oneDNN's fused layer through an operator of its own compiler; where that is absent, or
# gives another answer than expected, the plain layer does the same.


def _fused(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    activation, kind = ("gelu", "none") if gelu else ("none", "")
    # a view of a part of the weights would be multiplied element by element, a thousand times slower
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight.contiguous(), bias, activation, [], kind)


def _fused_works() -> bool:
    """Whether this build of torch has the operator and it computes what its name says."""
    x, weight, bias = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, 1.0], [2.0, -1.0]]), torch.tensor([0.1, 0.2])
    try:
        return torch.allclose(_fused(x, weight, bias, True), F.gelu(F.linear(x, weight, bias)), atol=1e-6)
    except (AttributeError, RuntimeError, TypeError):
        return False


_FUSED = _fused_works()


def linear(x: Tensor, layer: nn.Linear | nn.Conv2d, gelu: bool = False) -> Tensor:
    """x (..., C) through a linear layer or a 1x1 convolution, with or without GELU -> (..., C')."""
    return product(x, layer.weight, layer.bias, gelu)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
    """x (..., C), weight (C', C) or (C', C, 1, 1) -> (..., C')."""
    if weight.ndim == 4:
        weight = weight[:, :, 0, 0]
    if _FUSED and x.device.type == "cpu" and x.dtype == weight.dtype and not torch.is_grad_enabled():
        return _fused(x, weight, bias, gelu)
    y = F.linear(x, weight, bias)
    return F.gelu(y) if gelu else y


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """A 1x1 convolution without bias of x (B, C, H, W), best in channels_last layout, which the result has."""
    return product(x.permute(0, 2, 3, 1), weight).permute(0, 3, 1, 2)


# ---- layout ----


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


# ---- instance norm without affine parameters ----
# On a CPU one group per channel makes group_norm the same arithmetic as instance_norm, and several times faster in
# channels_last layout. Its backward pass is not: there it is four times slower than in the plain layout. On a GPU it
# copies into the plain layout and back. So the gradient is written out here, with the leaky ReLU that mostly follows,
# and needs nothing but the output; and a GPU gets two sums and one product.

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
            y = F.leaky_relu(y, 1 / SLOPE)  # undone: what follows wants the normalised value itself
        # d loss / dx = rate * (g - mean(g) - y * mean(g * y)), the Jacobian of a norm over its own statistics
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
