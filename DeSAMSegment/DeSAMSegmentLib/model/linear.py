"""Linear layers and 1x1 convolutions, on the faster of the two matrix libraries inside a CPU build of torch.

``F.linear`` asks MKL, which is a third slower than oneDNN on CPUs that are not Intel's, and leaves the GELU to a
second pass over memory. torch reaches oneDNN's fused layer through an operator of its own compiler; where that is
absent, or gives another answer than expected, the plain layer does the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
