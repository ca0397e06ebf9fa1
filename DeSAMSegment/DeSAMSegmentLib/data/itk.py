"""SimpleITK's images and ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .volume import LPS_FROM_RAS


@contextmanager
def quiet() -> Iterator[None]:
    """ITK's warnings off for a while: what matters is in the exception."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def cause(problem: RuntimeError) -> str:
    """ITK's reason in one line, without its addresses in memory."""
    last = [line for line in str(problem).splitlines() if line.strip()][-1]
    return re.sub(r"ITK ERROR: |\w+\(0x[0-9a-fA-F]+\): |Reason: ", "", last).strip()[:120]


def read_image(path: Path) -> sitk.Image:
    """What SimpleITK makes of a file. Raises RuntimeError with one line, MemoryError."""
    try:
        with quiet():
            return sitk.ReadImage(str(path))
    except RuntimeError as problem:
        if "allocate memory" in str(problem):
            raise MemoryError from None
        raise RuntimeError(cause(problem)) from None


def affine_of(image: sitk.Image) -> np.ndarray:
    """(4, 4) IJK to RAS of a 3-D SimpleITK image."""
    matrix = np.eye(4)
    matrix[:3, :3] = LPS_FROM_RAS @ np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())
    matrix[:3, 3] = LPS_FROM_RAS @ image.GetOrigin()
    return matrix


def to_image(array: np.ndarray, ijk_to_ras: np.ndarray) -> sitk.Image:
    """A SimpleITK image of an array (K, J, I) on the given grid (copies the voxels)."""
    array = np.ascontiguousarray(array)
    image = sitk.GetImageFromArray(array.view(np.uint8) if array.dtype == np.bool_ else array)
    spacing = np.linalg.norm(ijk_to_ras[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((LPS_FROM_RAS @ ijk_to_ras[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin((LPS_FROM_RAS @ ijk_to_ras[:3, 3]).tolist())
    return image
