"""A volume: voxels, and where each of them lies in the patient.

World coordinates are RAS millimetres everywhere (3D Slicer's convention). SimpleITK speaks LPS: the first two
world axes change sign on the way in and out, here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import BadLabels, BadVolume

Refusal = type[BadVolume] | type[BadLabels]  # how readers name what is wrong with a file

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0])  # its own inverse
SAME_PLACE = 0.1  # in voxels: grids whose corners agree this well are the same grid (NIfTI rounds to float32)
COPY_AGAIN = "Copy or export it again: the file is incomplete or damaged."
TO_GREY = "Convert it to one grey channel first."
REPLACE_THEM = "Replace them by the background value (numpy.nan_to_num does it) and save it again."
EXTRACT_FRAME = "Extract one frame first, with SimpleITK: WriteImage(ReadImage(file)[..., 0], 'one.nii.gz')."


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
    def voxel_volume(self) -> float:
        """Cubic millimetres of one voxel."""
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
        raise error(f"{title} has voxels of type {array.dtype}.", "Convert them to numbers first.")
    matrix = volume.ijk_to_ras
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-9:
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


@contextmanager
def quiet() -> Iterator[None]:
    """ITK's warnings off for a while: what matters is in the exception."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


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


def corners(volume: Volume) -> np.ndarray:
    """(8, 3) world positions of the centres of the corner voxels."""
    last = np.array(volume.array.shape[::-1]) - 1
    bits = np.array(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij")).reshape(3, -1).T
    return (bits * last) @ volume.ijk_to_ras[:3, :3].T + volume.ijk_to_ras[:3, 3]


def same_grid(a: Volume, b: Volume) -> bool:
    """Whether the two have the same voxels: equal shapes, corners within a tenth of a voxel."""
    if a.array.shape != b.array.shape:
        return False
    distance = np.abs(corners(a) - corners(b)).max()
    return bool(distance <= SAME_PLACE * min(*a.spacing, *b.spacing))


def resample_labels(labels: Volume, like: Volume) -> np.ndarray:
    """A label map on another volume's grid: nearest neighbour, 0 outside.

    Returns:
      Integers of the shape of ``like.array``; the very same array when the grids agree.

    Raises:
      BadLabels: when no labelled voxel lies inside the volume, or the two do not overlap at all.
    """
    if same_grid(labels, like):
        return labels.array
    image = to_image(labels.array, labels.ijk_to_ras)
    grid = sitk.Image(like.array.shape[::-1], sitk.sitkUInt8)
    grid.CopyInformation(to_image(np.broadcast_to(np.uint8(0), like.array.shape), like.ijk_to_ras))
    moved = sitk.GetArrayFromImage(sitk.Resample(image, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0))
    if not moved.any() and (labels.array.any() or not _overlap(labels, like)):
        raise BadLabels(
            f"The label map {labels.title} does not overlap the image {like.title}.",
            "Check that both belong to the same scan and that neither lost its position when exported.",
        )
    return moved.astype(labels.array.dtype, copy=False)


def _overlap(a: Volume, b: Volume) -> bool:
    """Whether any voxel centre of a coarse raster of ``b`` lies inside ``a``."""
    axes = [np.linspace(-0.5, n - 0.5, 33) for n in b.array.shape[::-1]]
    points = np.array(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    world = b.ijk_to_ras[:3, :3] @ points + b.ijk_to_ras[:3, 3:]
    inside = np.linalg.inv(a.ijk_to_ras[:3, :3]) @ (world - a.ijk_to_ras[:3, 3:])
    size = np.array(a.array.shape[::-1])[:, None]
    return bool(((inside >= -0.5) & (inside <= size - 0.5)).all(axis=0).any())
