"""PDMM, the prompt-decoupled mask module: from the encoder's levels, and PRIM's mask embedding, to a mask.

A U-shaped decoder in the manner of nnU-Net. Everything that no prompt can change (``Context``) is computed once per
slice; only the fusion at the bottleneck and the two up blocks run once per prompt. The concatenations of the published
decoder never exist: a convolution of (x, skip) is the sum of a convolution of x and one of skip, and the latter belongs
to the slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import DeSAMConfig
from .kernels import SLOPE, channels_last, instance_norm, instance_norm_with_statistics, pointwise
from .registry import EMBED_DIM

INERT = 0.5  # the published channel attention, whatever its weights (see SqueezeExcitation)
REDUCTION = 16  # channels per unit of the attention's bottleneck, as published

SkipTerms = tuple[Tensor, Tensor]  # what a skip connection adds to a block's first convolution and to its shortcut


@dataclass
class Context:
    """All of a mask module that no prompt can change, for B slices.

    fusion: the share of the deepest context in the fusion block; None if the model does not fuse.
    bottleneck: (B, C, 64, 64), the fused features themselves where no mask embedding takes part; else None.
    up: the shares of the two finer contexts in the two up blocks.
    """

    fusion: SkipTerms | None
    bottleneck: Tensor | None
    up: tuple[SkipTerms, ...]


class Pdmm(nn.Module):
    """Context branches for three levels, fusion with the mask embedding, two up blocks, one channel of logits.

    ``context`` is computed once per slice, ``fuse`` once per prompt. Both together are the published decoder
    (paper, Fig. 2 and section 3.2).
    """

    def __init__(self, config: DeSAMConfig) -> None:
        super().__init__()
        effective = config.squeeze_excitation == "effective"
        widths = config.pdmm_widths
        deep_first = config.level_widths[::-1]
        self.fuses = config.mask_module.reads == "embedding"
        self.branches = nn.ModuleList(
            ContextBranch(deep_first[step], widths[step], step, effective) for step in range(3)
        )
        if self.fuses:
            self.fusion = ResidualBlock(EMBED_DIM, widths[0], widths[0], effective)
        else:
            self.fusion = ResidualBlock(widths[0], 0, widths[0], effective)
        self.up = nn.ModuleList(UpBlock(widths[step], widths[step + 1], effective) for step in range(2))
        self.head = nn.Conv2d(widths[2], 1, 1, bias=False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def context(self, levels: Sequence[Tensor]) -> Context:
        """levels: three (B, C_i, 64, 64), shallow to deep."""
        dtype = self.head.weight.dtype
        # the deepest level stays at 64 x 64 and meets the mask embedding; the shallowest, with the finest detail, is
        # brought to 256 x 256
        deep, middle, shallow = (
            branch(channels_last(level.to(dtype)))
            for branch, level in zip(self.branches, reversed(levels), strict=True)
        )
        up = (self.up[0].block.skip_terms(middle), self.up[1].block.skip_terms(shallow))  # type: ignore[union-attr, operator]
        if self.fuses:
            return Context(self.fusion.skip_terms(deep), None, up)
        return Context(None, self.fusion(deep), up)

    def fuse(self, context: Context, mask_embedding: Tensor | None) -> Tensor:
        """Logits (B, Q, 256, 256) of Q prompts on each of B slices.

        mask_embedding: (B, Q, 256, 64, 64); None where the model does not fuse (then Q is 1).
        """
        if context.fusion is None:
            assert context.bottleneck is not None
            slices, x = context.bottleneck.shape[0], context.bottleneck
        else:
            assert mask_embedding is not None
            slices = mask_embedding.shape[0]
            embedding = mask_embedding.flatten(0, 1).contiguous(memory_format=torch.channels_last)
            x = self.fusion(embedding, context.fusion)
        for block, terms in zip(self.up, context.up, strict=True):
            x = block(x, terms)
        return pointwise(x, self.head.weight)[:, 0].unflatten(0, (slices, -1))


class ContextBranch(nn.Module):
    """One level of the encoder, narrowed and brought to its resolution: steps doublings from 64 x 64."""

    def __init__(self, channels: int, out_channels: int, steps: int, effective: bool) -> None:
        super().__init__()
        self.narrow = ResidualBlock(channels, 0, out_channels, effective)
        self.doublings = nn.ModuleList(
            nn.ConvTranspose2d(out_channels, out_channels, 2, stride=2, bias=False) for _ in range(steps)
        )
        self.blocks = nn.ModuleList(ResidualBlock(out_channels, 0, out_channels, effective) for _ in range(steps))

    def forward(self, level: Tensor) -> Tensor:
        """(B, channels, 64, 64) -> (B, out_channels, 64 * 2 ** steps, 64 * 2 ** steps)."""
        x = self.narrow(level)
        for upsample, block in zip(self.doublings, self.blocks, strict=True):
            x = block(upsample(x))
        return x


class UpBlock(nn.Module):
    """Doubles the resolution and joins the context of that resolution."""

    def __init__(self, channels: int, out_channels: int, effective: bool) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(channels, out_channels, 2, stride=2, bias=False)
        self.block = ResidualBlock(out_channels, out_channels, out_channels, effective)

    def forward(self, x: Tensor, terms: SkipTerms) -> Tensor:
        """x (B * Q, channels, H, W) -> (B * Q, out_channels, 2 H, 2 W)."""
        return self.block(self.upsample(x), terms)


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
