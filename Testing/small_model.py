"""A model small enough for a test to run many times."""

from __future__ import annotations

from collections.abc import Sequence

import formula
from DeSAMSegmentLib.engine.runtime.loading import DeSAM
from DeSAMSegmentLib.model.config import DeSAMConfig
from DeSAMSegmentLib.model.types import Features


def small(**changes) -> DeSAM:
    """A lite model with weights from the formula, so that masks and scores vary over the image."""
    model = DeSAM(DeSAMConfig(**{"level_widths": (24, 16, 32), **changes})).eval()
    shapes = {name: tensor.shape for name, tensor in model.tensors().items()}
    model.load_tensors(formula.weights(shapes))
    return model


def small_features(slices: int = 1, widths: Sequence[int] = (24, 16, 32)) -> Features:
    levels = [formula.values(f"level{i}", (slices, w, 64, 64)) for i, w in enumerate(widths)]
    return Features(levels, formula.values("neck", (slices, 256, 64, 64)))
