"""PDMM, the prompt-decoupled mask module: from the encoder's levels, and the mask embedding, to a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .config import EMBED_DIM, DeSAMConfig
from .layout import channels_last
from .linear import pointwise
from .residual_block import ResidualBlock, SkipTerms


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


@dataclass
class Context:
    """All of PDMM that no prompt can change, for B slices.

    fusion: the share of the deepest context in the fusion block; None if the model does not fuse.
    bottleneck: (B, C, 64, 64), the fused features themselves where no mask embedding takes part; else None.
    up: the shares of the two finer contexts in the two up blocks.
    """

    fusion: SkipTerms | None
    bottleneck: Tensor | None
    up: tuple[SkipTerms, ...]


class Pdmm(nn.Module):
    """Context branches for three levels, fusion with the mask embedding, two up blocks, one channel of
    logits.

    ``context`` is computed once per slice, ``fuse`` once per prompt. Both together are the published decoder.
    """

    def __init__(self, config: DeSAMConfig) -> None:
        super().__init__()
        effective = config.squeeze_excitation == "effective"
        widths = config.pdmm_widths
        deep_first = config.level_widths[::-1]
        self.fuses = config.fuses
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
