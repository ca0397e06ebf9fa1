"""Volumes in and out: one import for everything the engines need.

``grid.py`` is the volume and its geometry, ``reading.py`` gets it from files, ``writing.py`` puts label maps
into files.
"""

from __future__ import annotations

from .grid import Volume, resample_labels, same_grid
from .reading import read_labels, read_volume
from .writing import LabelLike, write_labelmap, write_segmentation

__all__ = [
    "LabelLike",
    "Volume",
    "read_labels",
    "read_volume",
    "resample_labels",
    "same_grid",
    "write_labelmap",
    "write_segmentation",
]
