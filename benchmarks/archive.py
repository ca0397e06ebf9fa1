"""A small model for the benchmark and the tests of an archive."""

from __future__ import annotations

from pathlib import Path


def make_model(path: Path) -> Path:
    """A model without an encoder, untrained: what is measured is everything else."""
    import desam_research  # noqa: F401  # which registers the U-Net
    import torch
    from DeSAMSegmentLib.engine.runtime.loading import DeSAM
    from DeSAMSegmentLib.model.config import DeSAMConfig
    from DeSAMSegmentLib.model.registry import BACKBONES
    from DeSAMSegmentLib.store.card import LabelInfo, ModelCard

    torch.manual_seed(0)
    spec = BACKBONES["pixels"]
    config = DeSAMConfig(backbone=spec.id, input_size=spec.input_size, level_widths=spec.level_widths, variant="unet")
    slices = {"axis": "acquired", "intensity": "percentile"}
    labels = (LabelInfo(1, "blob", (200, 80, 60)),)
    card = ModelCard("quick", labels, spec.id, architecture=config.to_dict(), slices=slices, inference={"mode": "box"})
    DeSAM(config).save(path, card)
    return path
