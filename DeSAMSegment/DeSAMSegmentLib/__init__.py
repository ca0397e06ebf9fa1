"""DeSAM for 3D Slicer: fine-tune, segment and evaluate medical volumes without a click.

The names below are loaded when they are first used: importing this package loads neither torch nor SimpleITK, so a
Slicer module can ask for it at start-up.

    from DeSAMSegmentLib import segment, read_volume
    for event in segment(read_volume("t1.nii.gz"), "brain.desam"):
        print(event)
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "DeSAM": "engine.runtime.loading",
    "Features": "model.types",
    "Prompts": "model.types",
    "DeSAMConfig": "model.config",
    "DeSAMError": "errors",
    "SegmentOptions": "engine.options",
    "TrainOptions": "engine.options",
    "Session": "engine.runtime.session",
    "segment": "engine.segment.segment",
    "train": "engine.train.train",
    "evaluate": "engine.evaluate.evaluate",
    "Volume": "data.volume",
    "read_volume": "data.reading",
    "read_labels": "data.reading",
    "write_labelmap": "data.writing",
    "write_segmentation": "data.writing",
    "Slices": "data.slices",
    "SliceSpec": "data.slices",
    "FeatureCache": "data.feature_cache",
    "Case": "data.cases",
    "read_dataset": "data.cases",
    "LabelInfo": "store.card",
    "ModelCard": "store.card",
    "Library": "store.library",
}

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return __all__
