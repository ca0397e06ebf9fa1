"""How the slices of one DICOM stack lie in space: each where its own header says, whatever its name and number."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .dicom_headers import CONVERT, FLAWS, Plane
from .volume import LPS_FROM_RAS

UNEVEN = 0.05  # share of the distance between slices by which one may lie off its place in an even row
SAME_PLACE = 0.1  # closer than this share of the usual distance: two images of one place
GAP = 5.0  # times the usual distance: nothing is made up across so much
SIDEWAYS = 0.25  # pixels by which a slice may lie beside the line from the first to the last
FINEST = 8  # times as many slices at most, where they are put onto a finer grid
PROJECTIONS = ("CR", "DX", "MG", "RF", "XA")  # modalities whose images are no slices, unless they say where they lie
OWN_FOLDER = "Put the files of one of them into a folder of their own."


class Unfit(Exception):
    """Why slices are no volume, as a predicate ("is in colour"), and what to do about it."""

    def __init__(self, what: str, do: str) -> None:
        super().__init__(what)
        self.what, self.do = what, do


class Stack(NamedTuple):
    """Slices in the order of the K axis: along the normal of the slices (row direction x column direction).

    Attributes:
      affine: (4, 4) IJK to RAS of the volume that they become.
      places: index on the K axis of each slice; 0, 1, 2 ... unless they have to be resampled.
    """

    planes: list[Plane]
    affine: np.ndarray
    places: np.ndarray
    notes: list[str]

    @property
    def even(self) -> bool:
        return np.array_equal(self.places, np.arange(len(self.planes)))


def stack(planes: list[Plane]) -> Stack:
    """Slices of one size, orientation and pixel spacing as one volume.

    Raises:
      Unfit: when they are none.
    """
    first = planes[0]
    if first.flaw:
        raise Unfit(*FLAWS[first.flaw])
    if len({(each.path, each.rescale) for each in planes}) > len({each.path for each in planes}):
        raise Unfit("has frames with rescale slopes of their own, of which GDCM uses only the first", CONVERT)
    axes = np.median([each.orientation or (1, 0, 0, 0, 1, 0) for each in planes], axis=0).reshape(2, 3)
    axes /= np.maximum(np.linalg.norm(axes, axis=1, keepdims=True), 1e-9)
    normal = np.cross(*axes)
    if abs(np.linalg.norm(normal) - 1) > 0.01:
        raise Unfit("has rows and columns that are not at right angles (ImageOrientationPatient)", CONVERT)
    rows, columns = first.pixel_spacing or (1.0, 1.0)
    notes = []
    if not first.pixel_spacing:
        notes.append("The pixel spacing is not given: 1 mm is assumed, and volumes in ml mean nothing.")
    if first.negative:
        notes.append("The images are negatives (MONOCHROME1): their values are inverted, as in 3D Slicer.")
    if first.position and len(planes) > 1:
        planes, step, places, said = _by_position(planes, normal, min(rows, columns))
    else:
        planes, distance, said = _by_number(planes)
        step, places = distance * normal, np.arange(len(planes))
    affine = np.eye(4)
    origin = planes[0].position or (0.0, 0.0, 0.0)
    affine[:3] = LPS_FROM_RAS @ np.column_stack((axes[0] * columns, axes[1] * rows, step, origin))
    return Stack(planes, affine, places, notes + said)


def _by_number(planes: list[Plane]) -> tuple[list[Plane], float, list[str]]:
    """Slices without positions, or a single one: in order, the distance from one to the next in mm, what to say."""
    first = planes[0]
    if len(planes) == 1:
        distance = first.thickness or first.gap
        said = f"its thickness, {distance:.1f} mm, is used" if distance else "1 mm is assumed"
        return planes, distance or 1.0, [f"There is one slice only: {said}."]
    if first.texts["Modality"] in PROJECTIONS:
        raise Unfit(*FLAWS["frames"])
    distance = first.gap or first.thickness
    if not distance or len({each.order for each in planes}) < len(planes):
        raise Unfit("says neither where its slices lie nor how they follow one another", CONVERT)
    tag = "SpacingBetweenSlices" if first.gap else "SliceThickness"
    said = f"The slices have no positions: they are taken by their numbers, {distance:.1f} mm apart ({tag})."
    return sorted(planes, key=lambda each: each.order), distance, [said]


def _by_position(
    planes: list[Plane], normal: np.ndarray, pixel: float
) -> tuple[list[Plane], np.ndarray, np.ndarray, list[str]]:
    """Slices in order, the volume's K axis (LPS, mm per slice), the place of each on it, what to say.

    Arguments:
      normal: of the slices, LPS. pixel: smaller of the two pixel spacings, mm.
    """
    positions = np.array([each.position for each in planes])
    order = np.argsort(positions @ normal, kind="stable")
    planes, positions = [planes[k] for k in order], positions[order] - positions[order[0]]
    along = positions @ normal
    steps = np.diff(along)
    apart = np.sort(steps[steps > UNEVEN * pixel])
    usual = float(apart[(len(apart) - 1) // 2]) if len(apart) else pixel
    places = 1 + np.count_nonzero(steps > max(UNEVEN * pixel, SAME_PLACE * usual))
    if places < len(planes):
        count = f"{len(planes)} images, {places} position{'s' if places > 1 else ''}"
        what = f"has more than one image at a position ({count})"
        raise Unfit(f"{what}: time points, echoes, b-values or copies", OWN_FOLDER)
    odd = np.argmax(np.abs(steps - usual))
    uneven = f"{steps[odd]:.1f} mm instead of {usual:.1f} mm after slice {odd + 1}"
    if steps.max() > GAP * usual:
        raise Unfit(
            f"has a gap: {uneven}", "Copy the missing slices, or put one side of the gap into a folder of its own."
        )
    line, notes = _line(positions, along, normal, SIDEWAYS * pixel)
    grid = _grid(along)
    count = round(grid[-1]) + 1
    if count > FINEST * len(planes):
        raise Unfit(f"has slices that are spaced too unevenly: {uneven}", OWN_FOLDER)
    distance = along[-1] / (count - 1)
    if not np.array_equal(grid, np.arange(len(planes))):
        notes.append(
            f"The slices are not evenly spaced ({uneven}): each is put in its place in a volume of {count} slices "
            f"{distance:.1f} mm apart, and those in between are interpolated."
        )
    return planes, line * distance, grid, notes


def _line(positions: np.ndarray, along: np.ndarray, normal: np.ndarray, slack: float) -> tuple[np.ndarray, list[str]]:
    """What the slices are stacked along, per mm of the normal: the normal, or at a slant to it; what to say of that."""
    line = positions[-1] / along[-1]
    if np.linalg.norm(positions - np.outer(along, line), axis=1).max() > slack:
        raise Unfit("has slices that are shifted sideways against one another", OWN_FOLDER)
    slant = float(np.linalg.norm(line - normal))
    if slant * along[-1] <= slack:
        return normal, []
    angle = np.degrees(np.arctan(slant))
    return line, [f"The slices are stacked at a slant of {angle:.1f} degrees (gantry tilt); so is the voxel grid."]


def _grid(along: np.ndarray) -> np.ndarray:
    """Places of slices at ``along`` mm, in units of the widest even spacing that meets them all, whole numbers.

    Where none does, in units of about the smallest distance between two, with fractions.
    """
    steps = np.diff(along)
    smallest = float(np.median(steps[steps < 1.1 * steps.min()]))
    counts = [len(steps), *(round(along[-1] / smallest * parts) for parts in (1, 2, 3, 4))]
    for count in counts:
        places = along * (count / along[-1])
        near = np.rint(places)
        if np.abs(places - near).max() <= UNEVEN and np.diff(near).min() >= 1:
            return near
    return along * (max(counts[:2]) / along[-1])


def resampled(slices: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Slices (N, J, I) at their places on the K axis, (K, J, I): those between two are their weighted mean."""
    volume = np.empty((round(places[-1]) + 1, *slices.shape[1:]), slices.dtype)
    for k in range(len(volume)):
        above = max(1, int(np.searchsorted(places, k - 1e-6)))
        share = (k - places[above - 1]) / (places[above] - places[above - 1])
        value = (1 - share) * slices[above - 1] + share * slices[above]
        volume[k] = value if slices.dtype.kind == "f" else np.rint(value)
    return volume
