"""Voxels of the scene as ``.npy`` files for the worker, copied in small steps."""

from __future__ import annotations

import uuid
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from slicer.i18n import tr as _

from ...data.volume import Volume
from ...errors import DiskFull
from .geometry import volumeFromNode, voxels

CHUNK = 4_000_000  # bytes per step: a few milliseconds


def exportArray(array: np.ndarray, folder: Path) -> Generator[None, None, np.ndarray]:
    """A copy of an array (K, ...) on disk, mapped from there.

    It is written with plain writes: where the disk is full, they raise an error. A write through a memory map would
    kill Slicer.

    Raises:
      DiskFull: nothing is left of the copy.
    """
    path = folder / f"{uuid.uuid4().hex}.npy"
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
    rows = max(1, CHUNK // max(1, array[0].nbytes))
    try:
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, len(array), rows):
                file.write(np.ascontiguousarray(array[start : start + rows]))
                yield
    except OSError as error:
        path.unlink(missing_ok=True)
        what = _("The volume could not be copied to {folder} for the computation ({reason}).")
        raise DiskFull(
            what.format(folder=folder, reason=error.strerror),
            _("Free some space, or choose another temporary folder in Slicer's application settings."),
        ) from error
    return np.load(path, mmap_mode="r")


def exportVolume(volumeNode: Any, folder: Path) -> Generator[None, None, Volume]:
    """The volume with its voxels in a file.

    Raises:
      BadVolume: when the node cannot be segmented.
    """
    volume = volumeFromNode(volumeNode)  # refuses before anything is copied
    array = yield from exportArray(voxels(volumeNode), folder)
    return replace(volume, array=array)
