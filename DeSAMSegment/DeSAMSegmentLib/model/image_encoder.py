"""SAM's ViT image encoder: the package's own modules, run faster, with three levels handed out on the way.

Exact in float32 up to rounding. What differs from the package's forward pass is the attention: its 4096 x 4096
maps are never whole in memory, and the decomposed relative position is added where the map is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import sam
from .kernels import linear
from .registry import EMBED_DIM

# Bytes of one block of the attention map on a CPU: large enough for a good matrix product, small enough for cache.
BLOCK_BYTES = 4 << 20


class ImageEncoder(nn.Module):
    """A SAM image encoder that also returns the outputs of some of its blocks.

    Arguments:
      width, depth, heads: of the transformer.
      global_blocks: blocks, counted from 1, whose attention spans the image; the others see 14 x 14 windows.
      taps: the three blocks, counted from 1, whose raw outputs are the levels.
    """

    def __init__(self, width: int, depth: int, heads: int, global_blocks: Sequence[int], taps: Sequence[int]) -> None:
        super().__init__()
        if not all(1 <= tap <= depth for tap in taps):
            raise ValueError(f"taps must be blocks 1 to {depth}, not {tuple(taps)}")
        self.taps = tuple(taps)
        self.vit = sam.ImageEncoderViT(
            depth=depth,
            embed_dim=width,
            num_heads=heads,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=14,
            global_attn_indexes=tuple(block - 1 for block in global_blocks),
            out_chans=EMBED_DIM,
        )

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Strict load of the encoder's tensors, without the prefix ``image_encoder.``."""
        self.vit.load_state_dict(tensors)

    def finish(self, precision: torch.dtype | None) -> None:
        """Matrix products in another precision, if asked; norms, softmax sums and the residual stream stay float32."""
        for block in self.vit.blocks:
            for layer in (block.attn.qkv, block.attn.proj, block.mlp.lin1, block.mlp.lin2):
                layer.to(precision or layer.weight.dtype)

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Normalised images (B, 3, 1024, 1024) -> levels (B, width, 64, 64), neck (B, 256, 64, 64)."""
        x = self.vit.patch_embed(x) + self.vit.pos_embed
        seen: dict[int, Tensor] = {}
        for number, block in enumerate(self.vit.blocks, 1):
            x = run_block(block, x)
            if number in self.taps:
                seen[number] = x.permute(0, 3, 1, 2)
        return [seen[tap] for tap in self.taps], self.vit.neck(x.permute(0, 3, 1, 2))


def run_block(block: Any, x: Tensor) -> Tensor:
    """One transformer block of the package, (B, H, W, C) -> (B, H, W, C)."""
    half = block.mlp.lin1.weight.dtype
    size, (rows, columns) = block.window_size, x.shape[1:3]
    y = block.norm1(x).to(half)
    if size == 0:
        x = x + attention(block.attn, y)
    else:
        y = F.pad(y, (0, 0, 0, -columns % size, 0, -rows % size))
        down, across = y.shape[1] // size, y.shape[2] // size
        windows = y.unflatten(2, (across, size)).unflatten(1, (down, size)).transpose(2, 3)
        y = attention(block.attn, windows.reshape(-1, size, size, y.shape[-1]))
        y = y.unflatten(0, (x.shape[0], down, across)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        x = x + y[:, :rows, :columns]
    y = linear(block.norm2(x).to(half), block.mlp.lin1, gelu=True)
    return x.add_(linear(y, block.mlp.lin2))


def attention(layer: Any, x: Tensor) -> Tensor:
    """Multi-head attention with decomposed relative position over images or windows, (N, H, W, C)."""
    images, rows, columns, width = x.shape
    qkv = linear(x, layer.qkv).reshape(images, rows * columns, 3, layer.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)  # (N, heads, H * W, C / heads)
    row_bias, column_bias = relative_position(layer, q.unflatten(2, (rows, columns)))
    if q.device.type == "cpu":
        read = blocked_attention(q * layer.scale, k, v, row_bias, column_bias)
    else:
        read = folded_attention(q * layer.scale, k, v, row_bias, column_bias)
    return linear(read.transpose(1, 2).reshape(images, rows, columns, width), layer.proj)


def relative_position(layer: Any, q: Tensor) -> tuple[Tensor, Tensor]:
    """What a query adds to the score of every row and of every column of keys.

    q: (N, heads, H, W, c), not scaled. Returns (N, heads, H, W, H) and (N, heads, H, W, W).
    """
    rows, columns = q.shape[2:4]
    by_row = _table(layer.rel_pos_h, rows).to(q.dtype)
    by_column = _table(layer.rel_pos_w, columns).to(q.dtype)
    return (
        torch.einsum("nahwc,hkc->nahwk", q, by_row),
        torch.einsum("nahwc,wkc->nahwk", q, by_column),
    )


def _table(offsets: Tensor, size: int) -> Tensor:
    """(2 * size - 1, c), one row per signed distance -> (size, size, c), one per pair query, key."""
    position = torch.arange(size, device=offsets.device)
    return offsets[position[:, None] - position[None, :] + size - 1]


def blocked_attention(q: Tensor, k: Tensor, v: Tensor, row_bias: Tensor, column_bias: Tensor) -> Tensor:
    """Exact softmax attention, a block of queries at a time, each block's map in one reused buffer.

    q, k, v: (N, heads, H * W, c), q scaled. Returns (N, heads, H * W, c).
    """
    rows, columns = row_bias.shape[2], column_bias.shape[3]
    keys, shape = rows * columns, q.shape
    q, k, v = (t.reshape(-1, keys, t.shape[-1]) for t in (q, k, v))
    row_bias = row_bias.reshape(-1, keys, rows, 1)
    column_bias = column_bias.reshape(-1, keys, 1, columns)
    out = torch.empty_like(q)
    lines = max(1, BLOCK_BYTES // (keys * q.element_size()))
    heads, queries = (1, min(lines, keys)) if lines < keys else (lines // keys, keys)
    buffer = q.new_empty(heads, queries, keys)
    for head in range(0, q.shape[0], heads):
        some = slice(head, head + heads)
        transposed = k[some].transpose(1, 2)
        for query in range(0, keys, queries):
            part = slice(query, query + queries)
            scores = buffer[: out[some].shape[0], : out[some, part].shape[1]]
            cells = scores.unflatten(2, (rows, columns))
            torch.add(row_bias[some, part], column_bias[some, part], out=cells)
            scores.baddbmm_(q[some, part], transposed)
            torch.softmax(scores, -1, out=scores)
            torch.bmm(scores, v[some], out=out[some, part])
    return out.reshape(shape)


def folded_attention(q: Tensor, k: Tensor, v: Tensor, row_bias: Tensor, column_bias: Tensor) -> Tensor:
    """The same as one fused call: the bias becomes more channels, which one-hot keys pick out.

    Fused kernels on a GPU refuse or slow down with a bias of full size; this one never exists.
    """
    rows, columns = row_bias.shape[2], column_bias.shape[3]
    row_of_key = torch.eye(rows, dtype=k.dtype, device=k.device).repeat_interleave(columns, 0)
    column_of_key = torch.eye(columns, dtype=k.dtype, device=k.device).repeat(rows, 1)
    one_hot = torch.cat([row_of_key, column_of_key], 1).expand(*k.shape[:2], -1, -1)
    queries = torch.cat([q, row_bias.flatten(2, 3), column_bias.flatten(2, 3)], -1)
    return F.scaled_dot_product_attention(queries, torch.cat([k, one_hot], -1), v, scale=1.0)
