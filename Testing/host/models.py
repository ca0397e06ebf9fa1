"""A model for tests that were never trained: real encoder, SAM's own PRIM, a PDMM drawn from a fixed seed.

Its masks are blobs without meaning but not empty, and the same on every run: what is needed to compare voxels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

RECOMMENDED = {"mode": "box", "points": 3, "iou_threshold": 0.0, "largest_component": False}


def writeModel(
    name: str = "blobs",
    labels: tuple[str, ...] = ("organ",),
    inference: Mapping[str, Any] = RECOMMENDED,
    isQuick: bool = False,
) -> Path:
    """Puts the model into the library; imports torch.

    Arguments:
      inference: what its card recommends.
      isQuick: no PRIM, and any encoder will do, such as the stand-in.
    """
    import torch
    from DeSAMSegmentLib.data.slices import SliceSpec
    from DeSAMSegmentLib.engine.runtime.loading import DeSAM
    from DeSAMSegmentLib.engine.runtime.session import sam_tensors
    from DeSAMSegmentLib.model.config import DeSAMConfig
    from DeSAMSegmentLib.model.registry import BACKBONES
    from DeSAMSegmentLib.store import weights
    from DeSAMSegmentLib.store.card import ModelCard
    from DeSAMSegmentLib.store.library import Library
    from DeSAMSegmentLib.store.terminology import default_label

    torch.manual_seed(1)
    backbone = BACKBONES["lite_medsam"]
    config = DeSAMConfig(
        backbone=backbone.id, input_size=backbone.input_size, level_widths=backbone.level_widths, width="lite",
        variant="pdmm_only" if isQuick else "full", squeeze_excitation="effective", labels=len(labels),
        shared_prim=not isQuick,
    )  # fmt: skip
    model = DeSAM.from_sam(config, sam_tensors(backbone.id))
    spec = SliceSpec(axis="axial", intensity="percentile", zero_black=True)
    card = ModelCard(
        name=name,
        title=name,
        description="Untrained, for tests.",
        labels=tuple(default_label(value, label) for value, label in enumerate(labels, 1)),
        backbone=backbone.id,
        backbone_sha256="" if isQuick else weights.sha256_of(weights.find(backbone.id)),
        architecture=config.to_dict(),
        slices=spec.to_dict(),
        inference=dict(inference),
    )
    path = Library().folder / f"{name}.desam"
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path, card)
    return path
