"""Does it generalise? The paper's experiments on a data set of one's own, with baselines on the same features.

Importing this package makes the baselines known to DeSAM's two registries: from then on ``coupled`` and ``unet`` are
variants like any other, ``pixels`` and two more places to tap LiteMedSAM are backbones. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from DeSAMSegmentLib.model.registry import BACKBONES, MASK_MODULES, UNIT_PIXELS, BackboneSpec, MaskModule, lite


def _built(name: str) -> Callable[[object], Any]:
    """What builds a class of ``baselines``, whatever the configuration; imported then, for it is torch."""

    def build(config: object) -> Any:
        from . import baselines

        return getattr(baselines, name)()

    return build


MASK_MODULES["coupled"] = MaskModule(
    _built("CoupledMask"),
    reads="tokens",
    sam_names={"output_upscaling.": "upscaling.", "output_hypernetworks_mlps.0.": "hypernetwork."},
    saved_floats=170,
    decoding_floats=64,
)
MASK_MODULES["unet"] = MaskModule(
    _built("ImageUnet"),
    has_prim=False,
    ranks_prompts=False,
    reads="",
    backbone="pixels",
    saved_floats=110,
    decoding_floats=64,
)
# the same weights tapped elsewhere, and no encoder at all
for _spec in (
    lite("lite_medsam@early", "LiteMedSAM, early levels", ("stage1", "stage2_last_block", "stage2"), (160, 160, 320)),
    lite("lite_medsam@late", "LiteMedSAM, late levels", ("stage2_last_block", "stage2", "stage3"), (160, 320, 320)),
    BackboneSpec(
        "pixels", "The image itself", "", 256, *UNIT_PIXELS, (1, 1, 1), ("image",), _built("Pixels"), 1, map_size=256
    ),
):
    BACKBONES[_spec.id] = _spec
