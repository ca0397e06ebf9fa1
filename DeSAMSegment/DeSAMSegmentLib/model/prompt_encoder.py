"""SAM's prompt encoder, asked only what DeSAM asks: positive points and boxes. It never trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from . import sam
from .registry import EMBED_DIM, EMBED_SIZE
from .types import Prompts, send


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No autocast inside: for sums and phases that half precision would ruin."""
    if device.type not in ("cpu", "cuda"):  # no autocast there in every torch this runs on
        yield
        return
    with torch.autocast(device.type, enabled=False):
        yield


class PromptEncoder(sam.PromptEncoder):
    """SAM's tensors under SAM's names, with prompts embedded by plain sums.

    The package's own forward writes through boolean masks, which makes a GPU wait at every call.

    Arguments:
      input_size: side of the frame that prompts are given in.
    """

    def __init__(self, input_size: int) -> None:
        super().__init__(
            embed_dim=EMBED_DIM,
            image_embedding_size=(EMBED_SIZE, EMBED_SIZE),
            input_image_size=(input_size, input_size),
            mask_in_chans=16,
        )
        self.input_size = input_size

    def forward(self, prompts: Prompts) -> Tensor:
        """Tokens of each prompt on its own: (P, 2, 256)."""
        if prompts.xy is not None:
            return self.embed_points(send(prompts.xy, self.device))
        if prompts.xyxy is not None:
            return self.embed_boxes(send(prompts.xyxy, self.device))
        side = float(self.input_size)
        return self.embed_boxes(send(torch.tensor([[0.0, 0.0, side, side]]), self.device))

    @property
    def device(self) -> torch.device:
        return self.no_mask_embed.weight.device

    def embed_points(self, xy: Tensor) -> Tensor:
        """xy (..., 2) -> (..., 2, 256): the positive point, then the token that stands for "no box"."""
        point = self._phase(xy) + self.point_embeddings[1].weight[0]
        return torch.stack([point, self.not_a_point_embed.weight[0].expand_as(point)], dim=-2)

    def embed_boxes(self, xyxy: Tensor) -> Tensor:
        """xyxy (..., 4) -> (..., 2, 256): the two corners."""
        corners = torch.stack([self.point_embeddings[2].weight[0], self.point_embeddings[3].weight[0]])
        return self._phase(xyxy.unflatten(-1, (2, 2))) + corners

    def image_pe(self) -> Tensor:
        """The positional encoding of the embedding's own pixels, (1, 256, 64, 64)."""
        with full_precision(self.device):
            return self.get_dense_pe()

    def no_mask(self) -> Tensor:
        """What SAM adds to the neck when no mask prompt is given, (1, 256, 1, 1)."""
        return self.no_mask_embed.weight.reshape(1, EMBED_DIM, 1, 1)

    def _phase(self, xy: Tensor) -> Tensor:
        """Random Fourier features (..., 256) of pixel centres (..., 2)."""
        with full_precision(self.device):
            return self.pe_layer._pe_encoding((xy.float() + 0.5) / self.input_size)
