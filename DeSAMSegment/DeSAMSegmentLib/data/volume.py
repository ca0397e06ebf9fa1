"""A volume: voxels, and where each of them lies in the patient.

World coordinates are RAS millimetres everywhere (3D Slicer's convention). Files speak LPS, most of them: the first two
world axes change sign on the way in and out. No SimpleITK here: a panel describes volumes without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import BadLabels, BadVolume

Refusal = type[BadVolume] | type[BadLabels]  # how readers name what is wrong with a file

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0])  # its own inverse
COPY_AGAIN = "Copy or export it again: the file is incomplete or damaged."
TO_GREY = "Convert it to one grey channel first."
TO_NUMBERS = "Convert them to numbers first."
NO_VOXEL_SIZE = "{} gives no voxel size: 1 mm is assumed, and volumes in ml mean nothing."
REPLACE_THEM = "Replace them by the background value (numpy.nan_to_num does it) and save it again."
EXTRACT_FRAME = "Extract one frame first, with SimpleITK: WriteImage(ReadImage(file)[..., 0], 'one.nii.gz')."

EXTRACT_COMPONENT = (
    "Extract one frame first, with SimpleITK: WriteImage(VectorIndexSelectionCast(ReadImage(file), 0), 'one.nii.gz')."
)


@dataclass(frozen=True, eq=False)
class Volume:
    """A scalar 3-D image.

    Attributes:
      array: voxels, (K, J, I), any integer or floating type. Not copied, never written to.
      ijk_to_ras: (4, 4) from voxel indices (i, j, k, 1) to world millimetres, RAS.
      name: what the user calls it.
      path: the file it came from, if any.
      note: one sentence for the log about how it was read; mostly empty.
    """

    array: np.ndarray
    ijk_to_ras: np.ndarray
    name: str = ""
    path: Path | None = None
    note: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ijk_to_ras", np.asarray(self.ijk_to_ras, dtype=np.float64))
        if self.ijk_to_ras.shape != (4, 4):
            raise ValueError(f"ijk_to_ras must be (4, 4), not {self.ijk_to_ras.shape}")

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between voxel centres along the array's axes (k, j, i)."""
        k, j, i = np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0)[::-1]
        return float(k), float(j), float(i)

    @property
    def title(self) -> str:
        """How error texts name this volume."""
        return self.path.name if self.path else self.name or "The volume"

    @property
    def voxel_mm3(self) -> float:
        """Volume of one voxel in cubic millimetres."""
        return float(abs(np.linalg.det(self.ijk_to_ras[:3, :3])))

    @classmethod
    def checked(
        cls,
        array: np.ndarray,
        ijk_to_ras: np.ndarray,
        name: str = "",
        path: Path | None = None,
        note: str = "",
    ) -> Volume:
        """A volume that can be segmented. A 2-D image counts as one slice.

        Raises:
          BadVolume: not 3-D, colour, not finite, constant, or without a usable geometry.
        """
        array = np.asarray(array)
        if array.ndim == 2:
            array = array[None]
        volume = cls(array, ijk_to_ras, name, path, note)
        check_shape(volume)
        check_voxels(volume)
        return volume


def check_shape(volume: Volume, error: Refusal = BadVolume) -> None:
    """Refuses what is no scalar 3-D image with an invertible geometry."""
    array, title = volume.array, volume.title
    if array.ndim == 4 and array.shape[-1] in (3, 4):
        raise error(f"{title} is a colour image, not a scalar volume.", TO_GREY)
    if array.ndim != 3:
        raise error(f"{title} has {array.ndim} dimensions; a volume has three.", EXTRACT_FRAME)
    if array.size == 0:
        raise error(f"{title} has no voxels.", "Export it again.")
    if array.dtype.kind not in "buif":
        raise error(f"{title} has voxels of type {array.dtype}.", TO_NUMBERS)
    matrix = volume.ijk_to_ras
    size = np.prod(volume.spacing)  # of a voxel, were its axes at right angles
    if not np.isfinite(matrix).all() or not size > 0 or abs(np.linalg.det(matrix[:3, :3])) < 1e-6 * size:
        raise error(
            f"{title} has no usable geometry (a spacing of zero, or axes that lie in one plane).",
            "Set its spacing and directions, then try again.",
        )


def check_voxels(volume: Volume) -> None:
    """Refuses voxels that no intensity can be drawn from: NaN, infinite, or all the same."""
    array, title = volume.array, volume.title
    if array.dtype.kind == "f":
        bad = sum(plane.size - int(np.count_nonzero(np.isfinite(plane))) for plane in array)
        if bad:
            raise BadVolume(
                f"{title} has {bad:,} voxels that are NaN or infinite.",
                REPLACE_THEM,
            )
    first = array.flat[0]
    if array.min() == first and array.max() == first:
        raise BadVolume(f"{title} is constant: all voxels are {first}.", "Check that the right image was exported.")
