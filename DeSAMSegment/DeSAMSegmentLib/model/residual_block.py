"""The building block of PDMM: two 3x3 convolutions, channel attention, a shortcut."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .instance_norm import SLOPE, instance_norm, instance_norm_with_statistics
from .linear import pointwise

INERT = 0.5  # the published channel attention, whatever its weights (see SqueezeExcitation)
REDUCTION = 16  # channels per unit of the attention's bottleneck, as published

SkipTerms = tuple[Tensor, Tensor]


class SqueezeExcitation(nn.Module):
    """One weight in 0..1 per channel, from the channels' statistics before the instance norm.

    The published block squeezes *after* its instance norm, where every mean is 0: the weight is then 0.5
    whatever the parameters. This one is shown what the norm took away, each channel's mean and deviation, so it
    has something to attend to. It starts near 0.5 too.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // REDUCTION, 4)
        self.squeeze = nn.Linear(2 * channels, hidden, bias=False)
        self.excite = nn.Linear(hidden, channels, bias=False)

    def forward(self, mean: Tensor, log_deviation: Tensor) -> Tensor:
        """Statistics (B, C) each -> weights (B, C, 1, 1)."""
        # Not ReLU: with so few units all of them can be silent for a slice, which then teaches nothing.
        hidden = F.silu(self.squeeze(torch.cat([mean, log_deviation], dim=1)))
        return self.excite(hidden).sigmoid()[:, :, None, None]


class ResidualBlock(nn.Module):
    """conv - norm - lrelu - conv - norm - channel weights, plus the shortcut, lrelu.

    The input may be a concatenation (x, skip) of which only x depends on the prompt. A convolution is linear,
    so the share of skip is computed once (``skip_terms``) and added; the concatenation is never built.

    Arguments:
      channels: of x.
      skip_channels: of skip; 0 for none.
      out_channels: of the result.
      effective: channel attention that attends; otherwise the published constant 0.5.
    """

    def __init__(self, channels: int, skip_channels: int, out_channels: int, effective: bool) -> None:
        super().__init__()
        self.channels = channels
        both = channels + skip_channels
        self.conv1 = nn.Conv2d(both, out_channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(both, out_channels, 1, bias=False) if both != out_channels else None
        self.attention = SqueezeExcitation(out_channels) if effective else None

    def skip_terms(self, skip: Tensor) -> SkipTerms:
        """What skip (B, skip_channels, H, W) adds to conv1 and to the shortcut."""
        assert self.shortcut is not None
        first = F.conv2d(skip, self.conv1.weight[:, self.channels :], padding=1)
        return first, pointwise(skip, self.shortcut.weight[:, self.channels :])

    def forward(self, x: Tensor, terms: SkipTerms | None = None) -> Tensor:
        """x (B * Q, channels, H, W) with the terms of B slices -> (B * Q, out_channels, H, W)."""
        first = F.conv2d(x, self.conv1.weight[:, : self.channels], padding=1)
        residual = x if self.shortcut is None else pointwise(x, self.shortcut.weight[:, : self.channels])
        if terms is not None:
            first = add_per_slice(first, terms[0])
            residual = add_per_slice(residual, terms[1])
        second = self.conv2(instance_norm(first, leaky=True))
        if self.shortcut is not None:
            residual = instance_norm(residual)
        if self.attention is None:
            out = torch.add(residual, instance_norm(second), alpha=INERT)
        else:
            normed, mean, log_deviation = instance_norm_with_statistics(second)
            out = torch.addcmul(residual, normed, self.attention(mean, log_deviation))
        return F.leaky_relu(out, SLOPE, inplace=True)


def add_per_slice(x: Tensor, term: Tensor) -> Tensor:
    """x (B * Q, C, H, W) plus, in place, term (B, C, H, W), each slice's term for all its Q prompts."""
    if x.shape[0] == term.shape[0]:
        return x.add_(term)
    x.unflatten(0, (term.shape[0], -1)).add_(term.unsqueeze(1))
    return x
