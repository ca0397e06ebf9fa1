"""LiteMedSAM's image encoder: TinyViT (Wu et al., ECCV 2022) at 256 x 256, in plain torch.

Module names follow the tensors of ``lite_medsam.pth``. The encoder is frozen, so its batch norms are folded into
the convolutions before them once the weights are loaded, and the whole net runs channels-last: a feature map
(B, H, W, C) is at once the tokens of the attention and, permuted without a copy, the input of a convolution.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .kernels import linear
from .registry import EMBED_DIM, EMBED_SIZE

WIDTHS = (64, 128, 160, 320)
DEPTHS = (2, 2, 6, 2)
HEADS = (2, 4, 5, 10)
WINDOWS = (7, 7, 14, 7)
TAP_WIDTHS = {"stage1": 160, "stage2_last_block": 160, "stage2": 320, "stage3": 320}  # all 64 x 64

BLOCK_BYTES = 4 << 20  # of widened features that a CPU works on at once


def block_rows(x: Tensor, numbers_per_row: int) -> int:
    """How many rows to widen at once: on a CPU as many as stay in its cache, elsewhere all."""
    if x.device.type != "cpu":
        return x.numel()
    return max(1, BLOCK_BYTES // (numbers_per_row * x.element_size()))


class ConvNorm(nn.Module):
    """A convolution without bias and its batch norm, one operation once folded."""

    def __init__(self, channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(out_channels)

    @torch.no_grad()
    def fold(self) -> None:
        """Put the norm's scale and shift into the convolution; only for inference."""
        if isinstance(self.bn, nn.BatchNorm2d):
            self.c = nn.utils.fuse_conv_bn_eval(self.c.eval(), self.bn.eval())
            self.bn = nn.Identity()

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        """(B, H, W, C) -> (B, H', W', C'), through a GELU if asked."""
        if self.c.kernel_size == (1, 1) and isinstance(self.bn, nn.Identity):
            return linear(x, self.c, gelu)
        y = self.bn(self.c(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        return F.gelu(y) if gelu else y


class MBConv(nn.Module):
    """Inverted bottleneck: widen by 4, 3x3 per channel, narrow, shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = 4 * channels
        self.conv1 = ConvNorm(channels, hidden)
        self.conv2 = ConvNorm(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvNorm(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> the same."""
        rows, columns, channels = x.shape[1:]
        strip = max(4, block_rows(x, columns * 4 * channels))
        if strip >= rows:
            return self.strip(x, 0, rows)
        out = torch.empty_like(x)
        for top in range(0, rows, strip):
            out[:, top : top + strip] = self.strip(x, top, min(top + strip, rows))
        return out

    def strip(self, x: Tensor, top: int, bottom: int) -> Tensor:
        """Rows top to bottom of the result; the 3x3 convolution looks one row further on either side."""
        above, below = min(top, 1), min(x.shape[1] - bottom, 1)
        y = self.conv2(self.conv1(x[:, top - above : bottom + below], gelu=True))
        y = self.conv3(F.gelu(y[:, above : y.shape[1] - below]))
        return F.gelu(y + x[:, top:bottom])


class PatchMerging(nn.Module):
    """Between two stages: new width and, but for the last time, half the resolution."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, out_channels)
        self.conv2 = ConvNorm(out_channels, out_channels, 3, stride, groups=out_channels)
        self.conv3 = ConvNorm(out_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(self.conv2(self.conv1(x, gelu=True), gelu=True))


class WindowAttention(nn.Module):
    """Attention within windows, with a learned bias per head and absolute offset between two pixels."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        ticks = torch.arange(window)
        offset = (ticks[:, None] - ticks[None, :]).abs()
        index = offset[:, None, :, None] * window + offset[None, :, None, :]
        self.register_buffer("index", index.reshape(window**2, window**2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(windows, window * window, C) -> the same."""
        windows, tokens, channels = x.shape
        # Per head the file keeps its query, key and value rows together.
        q, k, v = linear(self.norm(x), self.qkv).view(windows, tokens, self.heads, 3, -1).permute(3, 0, 2, 1, 4)
        assert isinstance(self.index, Tensor)
        bias = self.attention_biases[:, self.index].to(q.dtype)
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
        return linear(read.transpose(1, 2).reshape(windows, tokens, channels), self.proj)


class Mlp(nn.Module):
    """Norm, widen by 4, narrow, shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> the same."""
        tokens = x.flatten(0, -2)
        parts = tokens.split(block_rows(x, self.fc1.out_features))
        read = (linear(linear(self.norm(part), self.fc1, gelu=True), self.fc2) for part in parts)
        return torch.cat([old + part for part, old in zip(read, parts, strict=True)]).view_as(x)


class Block(nn.Module):
    """Window attention, a 3x3 convolution per channel, an MLP."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = WindowAttention(channels, heads, window)
        self.local_conv = ConvNorm(channels, channels, 3, groups=channels)
        self.mlp = Mlp(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> the same. Pixels beyond the border are zeros that take part, as in training."""
        size, (rows, columns) = self.window, x.shape[1:3]
        y = F.pad(x, (0, 0, 0, -columns % size, 0, -rows % size))
        down, across = y.shape[1] // size, y.shape[2] // size
        y = y.unflatten(2, (across, size)).unflatten(1, (down, size)).transpose(2, 3)
        y = self.attn(y.flatten(3, 4).flatten(0, 2))
        y = y.unflatten(1, (size, size)).unflatten(0, (x.shape[0], down, across)).transpose(2, 3)
        x = self.local_conv(x + y.flatten(3, 4).flatten(1, 2)[:, :rows, :columns])
        return self.mlp(x)


class Stage(nn.Module):
    """Blocks of one width, then the merging that leads to the next stage."""

    def __init__(self, number: int) -> None:
        super().__init__()
        width = WIDTHS[number]
        self.blocks = nn.ModuleList(
            MBConv(width) if number == 0 else Block(width, HEADS[number], WINDOWS[number])
            for _ in range(DEPTHS[number])
        )
        last = number == len(WIDTHS) - 1
        stride = 1 if number == len(WIDTHS) - 2 else 2
        self.downsample = None if last else PatchMerging(width, WIDTHS[number + 1], stride)


class PatchEmbed(nn.Module):
    """Two 1x1 convolutions: LiteMedSAM looks at every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.seq = nn.Sequential(ConvNorm(3, WIDTHS[0] // 2), nn.GELU(), ConvNorm(WIDTHS[0] // 2, WIDTHS[0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.seq(x.permute(0, 2, 3, 1))


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of (B, H, W, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-6)


class TinyViT(nn.Module):
    """LiteMedSAM's encoder, with three of its inner feature maps handed out.

    Arguments:
      taps: names out of ``TAP_WIDTHS``: a stage's output, or stage 2's last block before the merging.
    """

    def __init__(self, taps: Sequence[str]) -> None:
        super().__init__()
        unknown = [tap for tap in taps if tap not in TAP_WIDTHS]
        if unknown:
            raise ValueError(f"taps must be among {', '.join(TAP_WIDTHS)}, not {', '.join(map(str, unknown))}")
        self.taps = tuple(taps)
        self.patch_embed = PatchEmbed()
        self.layers = nn.ModuleList(Stage(number) for number in range(len(WIDTHS)))
        self.neck = nn.ModuleList(
            [
                nn.Conv2d(WIDTHS[-1], EMBED_DIM, 1, bias=False),
                LayerNorm2d(EMBED_DIM),
                nn.Conv2d(EMBED_DIM, EMBED_DIM, 3, padding=1, bias=False),
                LayerNorm2d(EMBED_DIM),
            ]
        )

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Strict load of the encoder's tensors, without the prefix ``image_encoder.``."""
        self.load_state_dict(tensors)

    def finish(self, precision: torch.dtype | None) -> None:
        """Folds every batch norm: after this the tensors no longer carry the file's names. Always float32."""
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.fold()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Images (B, 3, 256, 256) in 0..1 -> levels (B, C_i, 64, 64), neck (B, 256, 64, 64)."""
        seen: dict[str, Tensor] = {}
        x = self.patch_embed(x)
        for number, stage in enumerate(self.layers):
            for block in stage.blocks:  # type: ignore[union-attr]
                x = block(x)
            seen[f"stage{number}_last_block"] = x
            if stage.downsample is not None:
                x = stage.downsample(x)  # type: ignore[operator]
            seen[f"stage{number}"] = x
        assert x.shape[1:3] == (EMBED_SIZE, EMBED_SIZE)
        narrow, first_norm, mix, last_norm = self.neck
        assert isinstance(narrow, nn.Conv2d)
        x = mix(first_norm(linear(x, narrow)).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return [seen[tap].permute(0, 3, 1, 2) for tap in self.taps], last_norm(x).permute(0, 3, 1, 2)
