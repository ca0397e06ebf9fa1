"""Voxels of the scene as ``.npy`` files for the worker, copied in small steps."""

from __future__ import annotations

import uuid
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

from ..jobs.requests import VolumeSource
from .geometry import volumeSource, voxels

CHUNK = 4_000_000  # bytes per step: a few milliseconds


def exportArray(array: np.ndarray, folder: Path) -> Generator[None, None, Path]:
    """A copy of an array (K, ...) on disk; returns its path."""
    path = folder / f"{uuid.uuid4().hex}.npy"
    copy = np.lib.format.open_memmap(path, mode="w+", dtype=array.dtype, shape=array.shape)
    rows = max(1, CHUNK // max(1, array[0].nbytes))
    for start in range(0, len(array), rows):
        copy[start : start + rows] = array[start : start + rows]
        yield
    return path


def exportVolume(volumeNode: Any, folder: Path) -> Generator[None, None, VolumeSource]:
    """The volume with its voxels in a file.

    Raises:
      BadVolume: when the node cannot be segmented.
    """
    volumeSource(volumeNode)  # refuses before anything is copied
    path = yield from exportArray(voxels(volumeNode), folder)
    return volumeSource(volumeNode, path)
