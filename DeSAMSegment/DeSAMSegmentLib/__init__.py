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
    "DeSAM": "engine.loading",
    "Features": "model.types",
    "Prompts": "model.types",
    "DeSAMConfig": "model.config",
    "DeSAMError": "errors",
    "SegmentOptions": "engine.options",
    "TrainOptions": "engine.options",
    "segment": "engine.segment",
    "train": "engine.train",
    "evaluate": "engine.evaluate",
    "Volume": "data.volume",
    "read_volume": "data.volume",
    "read_labels": "data.volume",
    "write_labelmap": "data.volume",
    "write_segmentation": "data.volume",
    "Slices": "data.slices",
    "SliceSpec": "data.slices",
    "FeatureCache": "data.features",
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
