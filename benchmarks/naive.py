"""The baseline of the benchmarks: DeSAM decoded the way its published code decodes, on the same tensors.

Written from the facts of that code's structure, to be honest rather than slow: every prompt carries its own copy of
the features, the context is computed for every prompt, concatenations are built, every mask is decoded, and the
whole-image box is decoded once per grid point. Left out to the baseline's advantage: the two resizes of each mask,
the run-length encoding and the small-region clean-up. It also checks the fast path: both must give the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from DeSAMSegmentLib.model import sam
from DeSAMSegmentLib.model.image_encoder import ImageEncoder
from DeSAMSegmentLib.model.types import Features
from torch import Tensor, nn


def channel_attention(x: Tensor, squeeze: Tensor, excite: Tensor) -> Tensor:
    """Squeeze-and-excitation after the norm, where it is the constant 0.5."""
    weights = F.linear(F.linear(x.mean(dim=(2, 3)), squeeze).relu(), excite).sigmoid()
    return x * weights[:, :, None, None].expand_as(x)


class NaiveDecoder(nn.Module):
    """The published decoder under its published tensor names.

    Arguments:
      tensors: of a published checkpoint (``Testing/formula.py`` makes some).
      grid_side: prompts are decoded in batches of this many, as published.
      input_size: side of the frame the prompts are given in.
    """

    def __init__(self, tensors: Mapping[str, Tensor], grid_side: int = 9, input_size: int = 1024) -> None:
        super().__init__()
        self.grid_side = grid_side
        self.input_size = input_size
        self.prompt_encoder = sam.PromptEncoder(
            embed_dim=256, image_embedding_size=(64, 64), input_image_size=(input_size,) * 2, mask_in_chans=16
        )
        transformer = sam.TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
        self.mask_decoder = sam.MaskDecoder(transformer_dim=256, transformer=transformer)
        named = {n: t for n, t in tensors.items() if not n.startswith("mask_decoder.pimm.")}
        self.load_state_dict({n: t for n, t in named.items() if not n.startswith("image_encoder.")})
        self.pimm = nn.ParameterDict(
            {
                name.removeprefix("mask_decoder.pimm.").replace(".", "/"): nn.Parameter(tensor.clone())
                for name, tensor in tensors.items()
                if name.startswith("mask_decoder.pimm.")
            }
        )
        self.prompt_encoder.requires_grad_(False)

    @torch.no_grad()
    def grid(self, features: Features, xy: Tensor) -> tuple[Tensor, Tensor]:
        """Points xy (P, 2) -> iou (P,), logits (P, 1, 256, 256), a batch of ``grid_side`` at a time."""
        found = []
        for batch in xy[:, None].split(self.grid_side):
            sparse, dense = self.prompt_encoder((batch, torch.ones(batch.shape[:2])), None, None)
            found.append(self.predict(self.repeat(features, len(batch)), sparse, dense))
        return torch.cat([iou for iou, _ in found]), torch.cat([logits for _, logits in found])

    @torch.no_grad()
    def box(self, features: Features, batches: int | None = None) -> tuple[Tensor, Tensor]:
        """The whole image, decoded as often as the grid has points, or for some batches of that only."""
        found = []
        for _ in range(batches or self.grid_side):
            boxes = torch.tensor([[0.0, 0.0, self.input_size, self.input_size]] * self.grid_side)
            sparse, dense = self.prompt_encoder(None, boxes, None)
            found.append(self.predict(self.repeat(features, self.grid_side), sparse, dense))
        return torch.cat([iou for iou, _ in found]), torch.cat([logits for _, logits in found])

    def train_decode(self, features: Features, points: Tensor) -> tuple[Tensor, Tensor]:
        """One point per slice, (B, 2) -> iou (B,), logits (B, 1, 256, 256); differentiable."""
        sparse, dense = self.prompt_encoder((points[:, None], torch.ones(len(points), 1)), None, None)
        return self.predict(features, sparse, dense)

    @staticmethod
    def repeat(features: Features, count: int) -> Features:
        levels = [level.repeat_interleave(count, dim=0) for level in features.levels]
        return Features(levels, features.neck.repeat_interleave(count, dim=0))

    def predict(self, features: Features, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """One prompt per entry of the features' batch."""
        head = self.mask_decoder
        learned = torch.cat([head.iou_token.weight, head.mask_tokens.weight])
        tokens = torch.cat([learned.expand(len(sparse), -1, -1), sparse], dim=1)
        pe = self.prompt_encoder.get_dense_pe().repeat_interleave(len(sparse), dim=0)
        read, seen = head.transformer(features.neck + dense, pe, tokens)
        embedding = seen.transpose(1, 2).reshape(-1, 256, 64, 64)
        iou = head.iou_prediction_head(read[:, 0])[:, 0]
        return iou, self.mask(embedding, features.levels)

    def mask(self, embedding: Tensor, levels: Sequence[Tensor]) -> Tensor:
        skips = []
        for depth, level in enumerate(reversed(levels)):
            x = self.block(level, f"conv_blocks_context/{depth}/block_init")
            for step in range(depth):
                name = f"conv_blocks_context/{depth}/residual_block/{step}"
                x = self.block(self.upsample(x, f"{name}/0"), f"{name}/1")
            if depth == 0:
                x = self.block(torch.cat([embedding, x], dim=1), "mask_embedding_fusion")
            skips.append(x)
        x, heads = skips[0], []
        for step in range(2):
            name = f"conv_blocks_localization/{step}"
            x = torch.cat([self.upsample(x, f"{name}/transp_conv"), skips[step + 1]], dim=1)
            x = self.block(x, f"{name}/res_block")
            heads.append(F.conv2d(x, self.pimm[f"seg_outputs/{step}/weight"]))
        return heads[-1]

    def upsample(self, x: Tensor, name: str) -> Tensor:
        return F.conv_transpose2d(x, self.pimm[f"{name}/conv/weight"], stride=2)

    def block(self, x: Tensor, name: str) -> Tensor:
        first, second = self.pimm[f"{name}/conv1/conv/weight"], self.pimm[f"{name}/conv2/conv/weight"]
        y = F.leaky_relu(F.instance_norm(F.conv2d(x, first, padding=1)), 0.01, inplace=True)
        y = F.instance_norm(F.conv2d(y, second, padding=1))
        y = channel_attention(y, self.pimm[f"{name}/se/fc/0/weight"], self.pimm[f"{name}/se/fc/2/weight"])
        if x.shape[1] != y.shape[1]:
            x = F.instance_norm(F.conv2d(x, self.pimm[f"{name}/conv3/conv/weight"]))
        return F.leaky_relu(y + x, 0.01, inplace=True)


@torch.no_grad()
def encode(encoder: ImageEncoder, image: Tensor) -> tuple[list[Tensor], Tensor]:
    """The ViT's levels and neck by the segment-anything package's own blocks."""
    vit, levels = encoder.vit, []
    x = vit.patch_embed(image) + vit.pos_embed
    for number, block in enumerate(vit.blocks, 1):
        x = block(x)
        if number in encoder.taps:
            levels.append(x.permute(0, 3, 1, 2))
    return levels, vit.neck(x.permute(0, 3, 1, 2))
