"""From a volume to the 256 x 256 images a network sees, and back to the volume's own voxels.

Preprocessing follows the published one but for its errors (docs/how-it-differs.md): every slice
counts, labels are not eroded, and the volume is turned to one orientation first.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from ..errors import BadInput
from .orientation import PLANES, Layout, acquired_layout, is_oblique, layout
from .resize import bilinear, nearest_taps, smooth
from .volume import Volume

SIZE = 256  # pixels: rows and columns of what an encoder is shown and of the masks that come back
VERSION = 1  # of the preprocessing: part of every cache key, to be raised when an image changes
SOFT_TISSUE = (-160.0, 240.0)  # Hounsfield units, the window MedSAM was trained with
PERCENTILES = (0.5, 99.5)
HOUNSFIELD = -200.0  # more than 0.5 % of voxels below this: air in a CT
ACQUIRED = "acquired"
THICK = 2.0  # "auto" means as acquired when an axis is this much coarser than both others
FLAT, NARROW = 3.0, 8  # pixels this much longer than wide, and so few of them a side, are no slice of an organ
DEFAULT_PLACES = np.diag([1.0, 1, 1, 1]), np.diag([-1.0, -1, 1, 1])  # what a writer says that knows no position
QUANTILES = np.linspace(0, 1, 33)  # of a histogram
TRUNCATION = 1e-3  # added before truncating: 254.9999 of rounding noise is 255


@dataclass(frozen=True)
class SliceSpec:
    """How slices are made; the card of a model carries the one it was trained with.

    Attributes:
      axis: "axial", "coronal", "sagittal", or "acquired": across the thickest slices of each volume, however they lie.
      intensity: "percentile" (0.5 to 99.5 of all voxels), "matched" to the training images, or "window".
      window: lower and upper intensity for "window".
      zero_black: voxels that are exactly 0 stay black, as published; off for signed data.
      histogram: greys of the training images, ``QUANTILES`` of all that are not black, mean over the volumes: with the
        intensity "matched" those of "percentile" are mapped onto them.
      fit: "squash" to a square as published, or "pad" to one with the aspect kept in millimetres.
      size: of the square image in pixels: what the networks take, 256.
    """

    axis: str = "axial"
    intensity: str = "percentile"
    window: tuple[float, float] | None = None
    zero_black: bool = False
    fit: str = "squash"
    size: int = SIZE
    histogram: tuple[float, ...] | None = field(default=None, repr=False)  # no part of a cache key but if matched

    def __post_init__(self) -> None:
        if self.axis == "lowest":  # its name in cards of earlier versions
            object.__setattr__(self, "axis", ACQUIRED)
        if self.window is not None:
            object.__setattr__(self, "window", (float(self.window[0]), float(self.window[1])))
        if self.histogram is not None:
            object.__setattr__(self, "histogram", tuple(float(grey) for grey in self.histogram))
        good, reason = self.is_valid()
        if not good:
            raise BadInput(reason)

    def is_valid(self) -> tuple[bool, str]:
        if self.axis not in (*PLANES, ACQUIRED):
            return False, f"The slice axis is axial, coronal, sagittal or acquired, not {self.axis!r}."
        if self.intensity not in ("percentile", "matched", "window"):
            return False, f"The intensity mode is percentile, matched or window, not {self.intensity!r}."
        if self.intensity == "matched" and not self.histogram:
            return False, "This model does not know the grey values of its training images: choose another intensity."
        greys = self.histogram or ()
        if greys and not (len(greys) == len(QUANTILES) and all(0 <= a <= b <= 255 for a, b in pairwise(greys))):
            return False, f"A histogram is {len(QUANTILES)} rising grey values between 0 and 255."
        if self.intensity == "window" and (self.window is None or not self.window[0] < self.window[1]):
            return False, f"An intensity window needs a lower and a larger upper value, not {self.window}."
        if self.fit not in ("squash", "pad"):
            return False, f"Slices are fitted by squash or pad, not {self.fit!r}."
        if self.size != SIZE:
            return False, f"Slices are {SIZE} x {SIZE} pixels for every model; a size of {self.size} cannot be used."
        return True, ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SliceSpec:
        """From ``to_dict``; unknown fields are ignored. Raises BadInput on values that mean nothing."""
        known = {each.name for each in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})

    @classmethod
    def for_volume(
        cls,
        volume: Volume,
        axis: str = "auto",
        intensity: str = "auto",
        window: tuple[float, float] | None = None,
    ) -> SliceSpec:
        """What suits a volume where the user left the choice open.

        Axis "auto" is axial, unless one axis is at least twice as coarse as both others: then as the volume was
        acquired, which for a heart is no anatomical plane at all. Intensity "auto" is the window if one is given, the
        soft-tissue window for Hounsfield units, else percentiles.
        """
        if axis == "auto":
            thick, middle = sorted(volume.spacing, reverse=True)[:2]
            axis = ACQUIRED if thick >= THICK * middle else "axial"
        if intensity == "auto":
            hounsfield = quantiles(volume.array, PERCENTILES)[0] < HOUNSFIELD
            intensity = "window" if window is not None or hounsfield else "percentile"
        if intensity == "window":
            return cls(axis, "window", window or SOFT_TISSUE)
        return cls(axis, "percentile", zero_black=bool(volume.array.min() >= 0))


class Slices:
    """The slices of one volume, numbered in canonical order (towards superior, posterior or left).

    Attributes:
      spec: how they are made. layout: how the array lies.
      axis: the array axis (of K, J, I) they are perpendicular to.
      native_shape: rows and columns of a slice before resizing, in canonical orientation.
      pixel_spacing: millimetres between rows and between columns.
      content: (first row, rows, first column, columns) of the image that the slice fills; the rest is padding.
    """

    def __init__(self, volume: Volume, spec: SliceSpec) -> None:
        self.volume, self.spec = volume, spec
        spacing = volume.spacing
        matrix = volume.ijk_to_ras
        self.layout: Layout = acquired_layout(matrix) if spec.axis == ACQUIRED else layout(matrix, spec.axis)
        self.axis = self.layout.axis
        shape = volume.array.shape
        self.native_shape = (shape[self.layout.row_axis], shape[self.layout.column_axis])
        self.pixel_spacing = (spacing[self.layout.row_axis], spacing[self.layout.column_axis])
        self.content = self._content()

    def __len__(self) -> int:
        return self.volume.array.shape[self.axis]

    @property
    def is_turned_anyhow(self) -> bool:
        """Whether nothing fixes how slices that are cut as acquired are turned in their plane: they are oblique, so
        that which way is up is only a convention, or the volume lost its place in the patient (all is as by default).
        """
        scaling = np.diag([*self.volume.spacing[::-1], 1.0])
        lost = any(np.allclose(self.volume.ijk_to_ras, place @ scaling) for place in DEFAULT_PLACES)
        return self.spec.axis == ACQUIRED and (lost or is_oblique(self.volume.ijk_to_ras, self.axis))

    def check_cut(self) -> None:
        """Raises BadInput for slices a few pixels wide, or across the planes that the volume consists of."""
        long, short = max(self.pixel_spacing), min(self.pixel_spacing)
        rows, columns = self.native_shape
        if min(rows, columns) < NARROW or long >= FLAT * short:
            raise BadInput(
                f"{self.spec.axis.capitalize()} slices of {self.volume.title} have {rows} x {columns} pixels of "
                f"{self.pixel_spacing[0]:.2g} x {self.pixel_spacing[1]:.2g} mm: it was not acquired in that plane.",
                "Choose the slice axis acquired, or one that suits the volume.",
                kind="bad-cut",
            )

    def index(self, i: int) -> int:
        """The position of slice ``i`` along the array axis; also the slice at an array position."""
        return self.layout.index(i, len(self))

    def image(self, i: int) -> np.ndarray:
        """Slice ``i`` as the network sees it: (size, size) uint8 grey."""
        grey = self.native_image(i)
        row, rows, column, columns = self.content
        image = np.zeros((self.spec.size, self.spec.size), np.uint8)
        if grey.shape != (rows, columns):
            low, high = grey.min(), grey.max()
            grey = smooth(grey, rows, columns)
            grey = np.clip(grey, low, high) + TRUNCATION
        image[row : row + rows, column : column + columns] = grey
        return image

    def is_blank(self, i: int) -> bool:
        """Whether the image of slice ``i`` is a single grey: padding, or all of it below or above the window."""
        raw = self._plane(self.volume.array, i)
        least, most = raw.min(), raw.max()
        low, high = self.limits
        return bool(least == most or most <= low or least >= high)

    def native_image(self, i: int) -> np.ndarray:
        """Slice ``i`` in grey 0..255 before resizing: (H, W) float32 of whole numbers, canonical orientation."""
        grey = self._grey(i)
        return grey if self._matching is None else self._matching[grey.astype(np.uint8)]

    def _grey(self, i: int) -> np.ndarray:
        raw = self._plane(self.volume.array, i)
        low, high = self.limits
        grey = np.clip(raw.astype(np.float32), low, high)
        grey -= np.float32(low)
        grey *= np.float32(255.0 / ((high - low) or 1.0))
        if self.spec.zero_black:
            grey[raw == 0] = 0
        return np.clip(np.floor(grey + np.float32(TRUNCATION)), 0, 255)

    def histogram(self) -> np.ndarray:
        """``QUANTILES`` of the greys that are not black, before any matching: (33,), zeros of a black volume."""
        counts = sum((np.bincount(self._grey(i).astype(np.uint8).ravel(), minlength=256) for i in range(len(self))),
                     np.zeros(256, np.int64))  # fmt: skip
        share = np.cumsum(counts[1:]) / max(1, counts[1:].sum())
        greys = np.searchsorted(share, QUANTILES).clip(0, 254) + 1.0
        return greys if counts[1:].any() else np.zeros(len(QUANTILES))

    @cached_property
    def _matching(self) -> np.ndarray | None:
        """(256,) what each grey becomes; black stays black. None where greys stay as they are."""
        if self.spec.intensity != "matched":
            return None
        assert self.spec.histogram is not None
        own = self.histogram() + np.arange(len(QUANTILES)) * 1e-6  # rising, as interpolation needs it
        table = np.interp(np.arange(256), own, self.spec.histogram).round().astype(np.float32)
        table[0] = 0
        return table

    @cached_property
    def limits(self) -> tuple[float, float]:
        """The intensities that become 0 and 255."""
        if self.spec.intensity == "window":
            assert self.spec.window is not None
            return self.spec.window
        low, high = quantiles(self.volume.array, PERCENTILES)
        if not low < high:  # more than 99.5 % of the voxels are one value, such as a mask or a thin vessel
            low, high = float(self.volume.array.min()), float(self.volume.array.max())
        return low, high

    def to_native(self, maps: np.ndarray) -> np.ndarray:
        """Maps (..., size, size) onto the slice's own pixels, bilinear: (..., H, W) float32, canonical."""
        row, rows, column, columns = self.content
        maps = np.asarray(maps)[..., row : row + rows, column : column + columns]
        return bilinear(maps, *self.native_shape)

    def label_map(self, labels_kji: np.ndarray, i: int) -> np.ndarray:
        """Label values or memberships of slice ``i`` in the network's frame: (size, size), nearest, never blurred."""
        row, rows, column, columns = self.content
        native = self.native_labels(labels_kji, i)
        frame = np.zeros((self.spec.size, self.spec.size), native.dtype)
        frame[row : row + rows, column : column + columns] = native[
            np.ix_(nearest_taps(native.shape[0], rows), nearest_taps(native.shape[1], columns))
        ]
        return frame

    def native_labels(self, labels_kji: np.ndarray, i: int) -> np.ndarray:
        """Label values of slice ``i`` on its own pixels: (H, W), canonical orientation, as ``to_native`` gives."""
        return self._plane(labels_kji, i)

    def place(self, i: int, mask: np.ndarray) -> tuple[int, np.ndarray]:
        """Where a canonical (H, W) mask of slice ``i`` belongs: ``array.take(index, axis)`` is to be this array."""
        return self.index(i), np.ascontiguousarray(self.layout.to_array(mask))

    def point_to_native(self, xy: np.ndarray) -> np.ndarray:
        """Points (..., 2) as x, y in the network's frame to (..., 2) row, column of ``array.take(index, axis)``.

        Whole numbers are pixel centres in both frames.
        """
        row, rows, column, columns = self.content
        height, width = self.native_shape
        xy = np.asarray(xy, dtype=np.float64)
        y = (xy[..., 1] - row + 0.5) * height / rows - 0.5
        x = (xy[..., 0] - column + 0.5) * width / columns - 0.5
        y = height - 1 - y if self.layout.flip_rows else y
        x = width - 1 - x if self.layout.flip_columns else x
        swapped = self.layout.row_axis > self.layout.column_axis
        return np.stack((x, y) if swapped else (y, x), axis=-1)

    @cached_property
    def content_key(self) -> str:
        """SHA-256 of all that the images depend on: voxels, geometry, spec, version of the preprocessing."""
        array = self.volume.array
        geometry = np.round(self.volume.ijk_to_ras, 6) + 0.0  # no negative zeros
        digest = hashlib.sha256(f"{VERSION} {array.dtype.str} {array.shape} {self.spec}".encode())
        digest.update(geometry.tobytes())
        if self.spec.intensity == "matched":
            digest.update(str(self.spec.histogram).encode())
        for plane in array:
            digest.update(np.ascontiguousarray(plane))
        return digest.hexdigest()

    def _plane(self, array: np.ndarray, i: int) -> np.ndarray:
        """A contiguous canonical slice of any array on the volume's grid."""
        if array.shape != self.volume.array.shape:
            raise ValueError(f"labels {array.shape} are not on the grid of the volume {self.volume.array.shape}")
        plane = array[(slice(None),) * self.axis + (self.index(range(len(self))[i]),)]
        return np.ascontiguousarray(self.layout.to_canonical(plane))

    def _content(self) -> tuple[int, int, int, int]:
        size = self.spec.size
        if self.spec.fit == "squash":
            return 0, size, 0, size
        millimetres = np.array(self.native_shape) * self.pixel_spacing
        rows, columns = np.maximum(1, np.rint(size * millimetres / millimetres.max()).astype(int)).tolist()
        return (size - rows) // 2, rows, (size - columns) // 2, columns


def quantiles(array: np.ndarray, percent: tuple[float, ...]) -> list[float]:
    """Percentiles of all voxels, as ``numpy.percentile`` (linear) gives them, without sorting or a float64 copy."""
    ranks = [p / 100 * (array.size - 1) for p in percent]
    wanted = sorted({int(r) for r in ranks} | {min(int(r) + 1, array.size - 1) for r in ranks})
    if array.dtype.kind in "biu" and array.dtype.itemsize <= 2:
        low = int(array.min())
        counts = np.zeros(int(array.max()) - low + 1, np.int64)
        for plane in array:
            counts += np.bincount(plane.ravel().astype(np.int64) - low, minlength=counts.size)
        values = low + np.searchsorted(np.cumsum(counts), np.array(wanted), side="right")
    else:
        values = np.partition(array, wanted, axis=None)[wanted]
    at = dict(zip(wanted, values.tolist(), strict=True))
    result = []
    for rank in ranks:
        low_rank = int(rank)
        a, b = float(at[low_rank]), float(at[min(low_rank + 1, array.size - 1)])
        result.append(a + (b - a) * (rank - low_rank))
    return result
