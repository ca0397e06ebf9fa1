"""What DeSAM is compared with, behind the interface of ``Pdmm``: same features, same training, same inference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from DeSAMSegmentLib.model import sam
from DeSAMSegmentLib.model.pdmm import Context
from DeSAMSegmentLib.model.registry import EMBED_DIM
from torch import Tensor, nn

UNET_CHANNELS = (16, 32, 64, 128, 256)


class CoupledMask(nn.Module):
    """SAM's own way from tokens to a mask (Kirillov et al., 2023, section A), the one MedSAM fine-tunes.

    The mask is a product of the upscaled mask embedding with a vector made of the mask token, and both have seen the
    prompt: a poor prompt makes a poor mask. Starts from SAM's weights.
    """

    def __init__(self) -> None:
        super().__init__()
        decoder = sam.MaskDecoder(
            transformer_dim=EMBED_DIM, transformer=nn.Identity(), num_multimask_outputs=3
        )  # for its parts; SAM's transformer and IoU head live in PRIM
        self.upscaling = decoder.output_upscaling
        self.hypernetwork = decoder.output_hypernetworks_mlps[0]

    def forward(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        """PRIM's tokens (B, P, n, 256), the second the first mask's, and embedding (B, P, 256, 64, 64) -> logits
        (B, P, 256, 256)."""
        token = tokens[:, :, 1]
        slices, prompts = token.shape[:2]
        upscaled = self.upscaling(embedding.flatten(0, 1).contiguous())  # (B * P, 32, 256, 256)
        weights = self.hypernetwork(token.flatten(0, 1))  # (B * P, 32)
        logits = (weights[:, None] @ upscaled.flatten(2)).view(-1, *upscaled.shape[2:])
        return logits.unflatten(0, (slices, prompts))


class ImageUnet(nn.Module):
    """MONAI's residual U-Net from scratch on the grey image: what one trains without a foundation model."""

    def __init__(self) -> None:
        super().__init__()
        from monai.networks.nets.unet import UNet

        strides = (2,) * (len(UNET_CHANNELS) - 1)
        self.net = UNet(2, 1, 1, channels=UNET_CHANNELS, strides=strides, num_res_units=2, norm="INSTANCE")

    def context(self, levels: Sequence[Tensor]) -> Context:
        """levels: of the backbone "pixels", the image three times, (B, 1, 256, 256); already the logits."""
        return Context(None, self.net(levels[0]), ())

    def fuse(self, context: Context, mask_embedding: Tensor | None) -> Tensor:
        """The logits (B, 1, 256, 256) as they are: there is no prompt."""
        assert context.bottleneck is not None
        return context.bottleneck


class Pixels(nn.Module):
    """The encoder that is none: the levels are the image."""

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Nothing to load."""

    def finish(self, precision: torch.dtype | None) -> None:
        """Nothing to fold."""

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """(B, 3, 256, 256) -> three levels and a neck (B, 1, 256, 256), all the same."""
        grey = x[:, :1]
        return [grey, grey, grey], grey
