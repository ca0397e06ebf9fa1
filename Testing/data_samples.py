"""Small volumes for the tests of data/ and store/."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from DeSAMSegmentLib.data.itk import to_image
from DeSAMSegmentLib.data.volume import Volume

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_shared_data = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared image data are not on this machine")


def rotation(x: float, y: float, z: float) -> np.ndarray:
    """(3, 3) from three angles in degrees."""
    a, b, c = np.radians((x, y, z))
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return rx @ ry @ rz


def affine(spacing=(1.0, 1.0, 1.0), turn=None, origin=(0.0, 0.0, 0.0)) -> np.ndarray:
    """(4, 4) IJK to RAS for spacing (i, j, k) mm and a direction matrix."""
    matrix = np.eye(4)
    matrix[:3, :3] = (np.eye(3) if turn is None else turn) @ np.diag(spacing)
    matrix[:3, 3] = origin
    return matrix


def noise(shape=(5, 7, 9), seed=0, dtype=np.int16, **geometry) -> Volume:
    """A volume of noise, 0..999."""
    array = np.random.default_rng(seed).integers(0, 1000, shape).astype(dtype)
    return Volume(array, affine(**geometry), "noise")


def stored_as(volume: Volume, order: tuple[int, int, int], flips: tuple[bool, bool, bool]) -> Volume:
    """The same anatomy with its array axes (K, J, I) permuted and some of them reversed."""
    array, matrix = volume.array, volume.ijk_to_ras.copy()
    columns = [matrix[:3, 2 - axis] for axis in range(3)]
    origin = matrix[:3, 3].copy()
    for axis in range(3):
        if flips[axis]:
            origin += columns[axis] * (array.shape[axis] - 1)
            columns[axis] = -columns[axis]
            array = np.flip(array, axis)
    result = np.eye(4)
    for new, old in enumerate(order):
        result[:3, 2 - new] = columns[old]
    result[:3, 3] = origin
    return Volume(np.ascontiguousarray(array.transpose(order)), result, volume.name)


def back(array: np.ndarray, order: tuple[int, int, int], flips: tuple[bool, bool, bool]) -> np.ndarray:
    """The inverse of ``stored_as`` for an array."""
    array = array.transpose(np.argsort(order))
    for axis in range(3):
        if flips[axis]:
            array = np.flip(array, axis)
    return array


TURNED = {"spacing": (0.7, 0.8, 2.5), "turn": rotation(12, -7, 31), "origin": (10.0, -20.0, 30.0)}


def saved(path: Path, volume: Volume, compress: bool = True) -> Path:
    sitk.WriteImage(to_image(volume.array, volume.ijk_to_ras), str(path), compress)
    return path


def message(error: pytest.ExceptionInfo) -> str:
    """The error's text, which must be one line with a remedy."""
    text = str(error.value)
    assert "\n" not in text
    assert error.value.do, text
    return text
