"""PRIM, the prompt-relevant IoU module: SAM's two-way transformer and IoU head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import sam
from .registry import EMBED_DIM

MASK_TOKENS = 4  # SAM's; their outputs are not read, but they take part in the attention


class Prim(nn.Module):
    """Reads prompts against the neck; says how good each prompt is and what the image looks like to it.

    Arguments:
      heads: number of IoU heads over the same transformer, one per label that shares it.
    """

    def __init__(self, heads: int = 1) -> None:
        super().__init__()
        self.transformer = sam.TwoWayTransformer(depth=2, embedding_dim=EMBED_DIM, mlp_dim=2048, num_heads=8)
        self.iou_token = nn.Embedding(1, EMBED_DIM)
        self.mask_tokens = nn.Embedding(MASK_TOKENS, EMBED_DIM)
        # SAM's head has one output per mask token; DeSAM reads the first, as SAM does for a single mask.
        self.iou_heads = nn.ModuleList(sam.MLP(EMBED_DIM, 256, MASK_TOKENS, 3) for _ in range(heads))

    def tokens(self, sparse: Tensor) -> Tensor:
        """The learned five tokens, then each prompt's own: (..., T, 256) -> (..., 5 + T, 256)."""
        learned = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).to(sparse.dtype)
        return torch.cat([learned.expand(*sparse.shape[:-2], -1, -1), sparse], dim=-2)

    def forward(self, image: Tensor, sparse: Tensor, image_pe: Tensor) -> tuple[Tensor, Tensor]:
        """P prompts on each of B slices, in the plain form (``PrimSlice`` is the fast one).

        image: (B, 256, 64, 64), neck plus SAM's no-mask embedding.
        sparse: (B, P, T, 256) prompt tokens.
        image_pe: (1, 256, 64, 64).
        Returns every token (B, P, 5 + T, 256) after the transformer, the IoU's first, then the masks' and the prompt's;
        and the mask embedding (B, P, 256, 64, 64).
        """
        slices, prompts = sparse.shape[:2]
        tokens = self.tokens(sparse).flatten(0, 1)
        repeated = image.repeat_interleave(prompts, dim=0) if prompts > 1 else image
        read, seen = self.transformer(repeated, image_pe.expand_as(repeated), tokens)
        embedding = seen.transpose(1, 2).reshape(slices, prompts, *image.shape[1:])
        return read.unflatten(0, (slices, prompts)), embedding

    def iou_head(self, token: Tensor, head: int = 0) -> Tensor:
        """Predicted IoU (...) from the IoU token (..., 256). No sigmoid: it may leave 0..1."""
        return self.iou_heads[head](token)[..., 0]
