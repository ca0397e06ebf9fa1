"""A frozen image encoder with its preprocessing: how a grey slice is shown to it. Which there are: ``registry.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .registry import BACKBONES, BackboneSpec
from .types import Features

PREFIX = "image_encoder."  # of the encoder's tensors in SAM's checkpoints


class Backbone(nn.Module):
    """A frozen encoder with its preprocessing: grey slices in, Features out. Built by ``build_backbone``."""

    def __init__(self, spec: BackboneSpec, encoder: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = encoder
        self.register_buffer("mean", torch.tensor(spec.pixel_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.pixel_std).view(1, 3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Features:
        """images (B, H, W), grey, 0..255, float or uint8, on any device."""
        levels, neck = self.encoder(self.preprocess(images))
        return Features(levels, neck)

    def preprocess(self, images: Tensor) -> Tensor:
        """(B, H, W) grey 0..255 -> (B, 3, S, S): resized (bilinear), three equal channels, normalised."""
        assert isinstance(self.mean, Tensor)
        assert isinstance(self.std, Tensor)
        x = images.to(self.mean.device, torch.float32)[:, None]
        size = (self.spec.input_size, self.spec.input_size)
        if x.shape[-2:] != size:
            x = F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=max(x.shape[-2:]) > size[0])
        return (x - self.mean) / self.std


def build_backbone(
    id: str,
    tensors: Mapping[str, Tensor] | None = None,
    taps: Sequence[int] | Sequence[str] | None = None,
    precision: torch.dtype | None = None,
) -> Backbone:
    """The encoder of ``BACKBONES[id]``, frozen.

    tensors: a SAM, MedSAM, LiteMedSAM or published DeSAM checkpoint's; None for random weights.
    taps: levels taken elsewhere than the spec says.
    precision: dtype of the ViT's matrix products; None is float32.
    Raises ValueError for an unknown id or tap, and for tensors that do not fit, naming them.
    """
    if id not in BACKBONES:
        raise ValueError(f"the backbone must be one of {', '.join(BACKBONES)}, not {id!r}")
    spec = BACKBONES[id]
    if taps is not None:
        from .tiny_vit import TAP_WIDTHS

        widths = tuple(TAP_WIDTHS.get(str(tap), spec.level_widths[0]) for tap in taps)
        spec = replace(spec, taps=tuple(taps), level_widths=widths)  # type: ignore[arg-type]
    encoder = spec.build(spec)
    if tensors is not None:
        _load(encoder, spec, tensors)
    encoder.finish(precision)
    return Backbone(spec, encoder)


def _load(encoder: Any, spec: BackboneSpec, tensors: Mapping[str, Tensor]) -> None:
    """Strict load of the tensors under ``image_encoder.``; a ValueError names those that do not fit."""
    named = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    own = {name.removeprefix(PREFIX): tensor for name, tensor in named.items() if name.startswith(PREFIX)}
    if not own:
        raise ValueError(f"the checkpoint holds no image encoder (no tensor named {PREFIX}...)")
    try:
        encoder.load(own)
    except RuntimeError as problem:
        reason = " ".join(str(problem).split())
        raise ValueError(f"the checkpoint does not fit the backbone {spec.id}: {reason}") from problem
