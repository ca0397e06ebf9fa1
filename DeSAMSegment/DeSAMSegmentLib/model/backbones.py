"""The frozen image encoders DeSAM can stand on, and how a grey slice is shown to each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .image_encoder import ImageEncoder
from .tiny_vit import TAP_WIDTHS, TinyViT
from .types import Features

PREFIX = "image_encoder."
PICTURE = "pixels"


@dataclass(frozen=True)
class BackboneSpec:
    """What DeSAM needs to know of an encoder.

    pixel_mean, pixel_std: of the three equal channels, on a scale of 0 to 255.
    level_widths: channels of the three levels, shallow to deep.
    taps: where the levels are taken: blocks counted from 1 (ViT), names of ``tiny_vit.TAP_WIDTHS`` (TinyViT).
    """

    id: str  # what follows an "@" tells the same weights with other taps apart
    title: str
    input_size: int
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]
    level_widths: tuple[int, int, int]
    taps: tuple[int, ...] | tuple[str, ...]

    @property
    def weights(self) -> str:
        """The id of its weight file."""
        return self.id.partition("@")[0]


@dataclass(frozen=True)
class _Vit:
    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, int, int, int]


_Pixels = tuple[tuple[float, float, float], tuple[float, float, float]]
_SAM_PIXELS: _Pixels = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
# MedSAM and LiteMedSAM were trained on images scaled to 0..1.
_UNIT_PIXELS: _Pixels = ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))
_VITS = {
    "vit_h": _Vit(1280, 32, 16, (8, 16, 24, 32)),
    "vit_l": _Vit(1024, 24, 16, (6, 12, 18, 24)),
    "vit_b": _Vit(768, 12, 12, (3, 6, 9, 12)),
}
_VITS["medsam"] = _VITS["vit_b"]


def _vit_spec(id: str, title: str, pixels: _Pixels) -> BackboneSpec:
    vit = _VITS[id]
    # The levels are the first three blocks of global attention, as published for ViT-H.
    return BackboneSpec(id, title, 1024, *pixels, (vit.width,) * 3, vit.global_blocks[:3])


def _lite_spec(id: str, title: str, *taps: str) -> BackboneSpec:
    first, second, third = (TAP_WIDTHS[tap] for tap in taps)
    return BackboneSpec(id, title, 256, *_UNIT_PIXELS, (first, second, third), taps)


BACKBONES: dict[str, BackboneSpec] = {
    spec.id: spec
    for spec in (
        _lite_spec("lite_medsam", "LiteMedSAM (TinyViT, medical images)", "stage1", "stage2_last_block", "stage3"),
        # the same weights tapped elsewhere, for the benchmarks
        _lite_spec("lite_medsam@early", "LiteMedSAM, early levels", "stage1", "stage2_last_block", "stage2"),
        _lite_spec("lite_medsam@late", "LiteMedSAM, late levels", "stage2_last_block", "stage2", "stage3"),
        _vit_spec("vit_b", "SAM ViT-B", _SAM_PIXELS),
        _vit_spec("vit_l", "SAM ViT-L", _SAM_PIXELS),
        _vit_spec("vit_h", "SAM ViT-H (the paper)", _SAM_PIXELS),
        _vit_spec("medsam", "MedSAM (ViT-B, medical images)", _UNIT_PIXELS),
        # no encoder at all, for the U-Net that the benchmarks compare with
        BackboneSpec(PICTURE, "The picture itself", 256, *_UNIT_PIXELS, (1, 1, 1), ("picture",)),
    )
}


class Picture(nn.Module):
    """The encoder that is none: the levels are the picture."""

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """(B, 3, 256, 256) -> three levels and a neck (B, 1, 256, 256), all the same."""
        grey = x[:, :1]
        return [grey, grey, grey], grey


class Backbone(nn.Module):
    """A frozen encoder with its preprocessing: grey slices in, Features out. Built by ``build_backbone``."""

    def __init__(self, spec: BackboneSpec, encoder: ImageEncoder | TinyViT | Picture) -> None:
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
    if id == PICTURE:
        return Backbone(spec, Picture())
    if taps is not None:
        widths = tuple(TAP_WIDTHS.get(str(tap), spec.level_widths[0]) for tap in taps)
        spec = replace(spec, taps=tuple(taps), level_widths=widths)  # type: ignore[arg-type]
    if id in _VITS:
        vit = _VITS[id]
        encoder: ImageEncoder | TinyViT = ImageEncoder(
            vit.width, vit.depth, vit.heads, vit.global_blocks, [int(tap) for tap in spec.taps]
        )
    else:
        encoder = TinyViT([str(tap) for tap in spec.taps])
    if tensors is not None:
        _load(encoder, spec, tensors)
    if isinstance(encoder, TinyViT):
        encoder.fold()
    elif precision is not None:
        encoder.half_precision(precision)
    return Backbone(spec, encoder)


def _load(encoder: ImageEncoder | TinyViT, spec: BackboneSpec, tensors: Mapping[str, Tensor]) -> None:
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
