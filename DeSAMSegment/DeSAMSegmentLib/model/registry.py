"""The frozen encoders DeSAM can stand on, and what can make its masks: a new backbone or mask module is one entry here.

No torch: the command line and the panel read these tables to say what there is. The networks behind them are imported
when one is built. ``research/`` adds the baselines of the benchmarks in the same way, from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import DeSAMConfig

EMBED_DIM = 256  # channels of SAM's neck, prompt tokens and mask embeddings
EMBED_SIZE = 64  # rows and columns of every feature map, whatever the encoder
MASK_SIZE = 256  # rows and columns of the logits

# ---- mask modules ----


@dataclass(frozen=True)
class MaskModule:
    """What makes the masks of one label, and what it wants to know of PRIM.

    build: from the model's configuration to the network.
    has_prim: whether prompts are read at all.
    ranks_prompts: whether an IoU head says how good each prompt is; otherwise every IoU reads 1.
    reads: what of PRIM shapes the mask: its "embedding", all its "tokens", or nothing ("").
    backbone: the only backbone it can learn from, which then serves no other module; empty for any.
    sam_names: prefixes of SAM's mask decoder tensors that it starts from -> its own prefixes.
    saved_floats, decoding_floats: floats per mask pixel alive in training and in inference (``runtime/memory.py``);
      0 for PDMM, which is counted layer by layer.
    """

    build: Callable[[DeSAMConfig], Any]
    has_prim: bool = True
    ranks_prompts: bool = True
    reads: str = "embedding"
    backbone: str = ""
    sam_names: Mapping[str, str] = field(default_factory=dict)
    saved_floats: int = 0
    decoding_floats: int = 0


def _pdmm(config: DeSAMConfig) -> Any:
    from .pdmm import Pdmm

    return Pdmm(config)


# By the name of a variant: Table 1 of the paper.
MASK_MODULES: dict[str, MaskModule] = {
    "full": MaskModule(_pdmm),
    "pdmm_only": MaskModule(_pdmm, has_prim=False, ranks_prompts=False, reads=""),
    "no_iou_head": MaskModule(_pdmm, ranks_prompts=False),
    "no_fusion": MaskModule(_pdmm, reads=""),
}

# ---- backbones ----

Triple = tuple[float, float, float]
SAM_PIXELS: tuple[Triple, Triple] = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
# MedSAM and LiteMedSAM were trained on images scaled to 0..1.
UNIT_PIXELS: tuple[Triple, Triple] = ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))


@dataclass(frozen=True)
class BackboneSpec:
    """What DeSAM needs to know of an encoder.

    id: what follows an "@" tells the same weights with other taps apart.
    weights: id of its weight file (``store.weights.WEIGHTS``); empty for an encoder without one.
    input_size: side of its square input, pixels.
    pixel_mean, pixel_std: of the three equal channels, on a scale of 0 to 255.
    level_widths: channels of the three levels, shallow to deep.
    taps: where the levels are taken: blocks counted from 1 (ViT), names of ``tiny_vit.TAP_WIDTHS`` (TinyViT).
    build: from the spec to the encoder, a module whose forward gives levels and neck, with ``load(tensors)`` and
      ``finish(precision)``, which is called once it has its weights.
    neck_width, map_size: channels of the neck, and side of all its maps.
    """

    id: str
    title: str
    weights: str
    input_size: int
    pixel_mean: Triple
    pixel_std: Triple
    level_widths: tuple[int, int, int]
    taps: tuple[int, ...] | tuple[str, ...]
    build: Callable[[BackboneSpec], Any]
    neck_width: int = EMBED_DIM
    map_size: int = EMBED_SIZE


def _vit(width: int, depth: int, heads: int, global_blocks: tuple[int, int, int, int]) -> dict[str, Any]:
    """The fields that one of SAM's transformers decides. Its levels are its first three global blocks, as published."""

    def build(spec: BackboneSpec) -> Any:
        from .image_encoder import ImageEncoder

        return ImageEncoder(width, depth, heads, global_blocks, [int(tap) for tap in spec.taps])

    return {"input_size": 1024, "level_widths": (width,) * 3, "taps": global_blocks[:3], "build": build}


def lite(id: str, title: str, taps: tuple[str, str, str], level_widths: tuple[int, int, int]) -> BackboneSpec:
    """LiteMedSAM's encoder, tapped at three places."""

    def build(spec: BackboneSpec) -> Any:
        from .tiny_vit import TinyViT

        return TinyViT([str(tap) for tap in spec.taps])

    return BackboneSpec(id, title, "lite_medsam", 256, *UNIT_PIXELS, level_widths, taps, build)


def _sam(id: str, title: str, pixels: tuple[Triple, Triple], **vit: Any) -> BackboneSpec:
    return BackboneSpec(id, title, id, pixel_mean=pixels[0], pixel_std=pixels[1], **vit)


_VIT_B = _vit(768, 12, 12, (3, 6, 9, 12))
BACKBONES: dict[str, BackboneSpec] = {
    spec.id: spec
    for spec in (
        lite(
            "lite_medsam",
            "LiteMedSAM (TinyViT, medical images)",
            ("stage1", "stage2_last_block", "stage3"),
            (160, 160, 320),
        ),
        _sam("vit_b", "SAM ViT-B", SAM_PIXELS, **_VIT_B),
        _sam("vit_l", "SAM ViT-L", SAM_PIXELS, **_vit(1024, 24, 16, (6, 12, 18, 24))),
        _sam("vit_h", "SAM ViT-H (the paper)", SAM_PIXELS, **_vit(1280, 32, 16, (8, 16, 24, 32))),
        _sam("medsam", "MedSAM (ViT-B, medical images)", UNIT_PIXELS, **_VIT_B),
    )
}
