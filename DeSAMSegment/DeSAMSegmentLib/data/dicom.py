"""The DICOM series of a folder, and one of them as a volume.

Headers come through pydicom, pixels through SimpleITK (GDCM), which knows compressed transfer syntaxes and rescales.
What does not make one volume is refused.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import BadVolume, printable
from .dicom_headers import CONVERT, Plane, find_planes
from .dicom_stack import OWN_FOLDER, Stack, Unfit, resampled, stack
from .itk import quiet
from .volume import COPY_AGAIN, Refusal

SCOUT = 1.6  # slices farther apart than this many thicknesses are a scout's, more likely than not
LISTED = 8  # series or files named in one message
CHOOSE = "Choose one by its description, its number or the beginning of its UID, or give a folder of its own."


@dataclass(frozen=True)
class Series:
    """One series of a folder, for a table.

    Attributes:
      slices: how many its largest stack has; files: all of its files.
      spacing: of the volume's voxels in mm along i, j and k; empty when there is a problem.
      problem: why it cannot be read as one volume, as a predicate, and what to do about it; empty when it can.
      rank: of several series the one with the highest is read.
    """

    uid: str
    number: str
    description: str
    modality: str
    slices: int
    rows: int
    columns: int
    files: tuple[Path, ...]
    spacing: str = ""
    problem: str = ""
    do: str = ""
    rank: tuple[bool, bool, float] = (False, False, 0.0)
    stack: Stack | None = field(default=None, repr=False)

    def __str__(self) -> str:
        facts = filter(None, (self.description, self.modality, _count(self.slices, "slice")))
        return f"series {self.number or self.uid or 'without a number'} ({', '.join(facts)})"


def find_series(folder: Path) -> list[Series]:
    """The DICOM series in and below a folder, those that are no volume included. Reads no pixels."""
    return survey(folder)[0]


def survey(where: Path | Iterable[Path]) -> tuple[list[Series], list[Path]]:
    """The DICOM series below a folder, or of some files; and the files that ought to be DICOM and cannot be read."""
    planes, broken = find_planes(where)
    return _described(planes), broken


def read_series(
    folder: Path, error: Refusal, series: str = "", files: Sequence[Path] = ()
) -> tuple[np.ndarray, np.ndarray, str]:
    """One series of a folder, or of one file: voxels (K, J, I), IJK to RAS, and what should be said about them.

    Arguments:
      series: description, number, UID or its beginning; empty for the series with the most slices.
      files: those of the folder to look at; empty for all.

    Raises:
      error: no DICOM images, none or several such series, or images that are no single volume.
    """
    chosen, note = one_series(folder, error, series, files)
    assert chosen.stack is not None
    return _voxels(chosen.stack, error), chosen.stack.affine, note


def one_series(folder: Path, error: Refusal, series: str = "", files: Sequence[Path] = ()) -> tuple[Series, str]:
    """The series that ``read_series`` reads, which has a stack, and what should be said about it. Reads no pixels."""
    found, broken = survey(files or folder)
    names = _listed(path.name for path in broken)
    if not found and broken:
        raise error(f"No DICOM file in {folder} can be read ({names}).", COPY_AGAIN)
    if not found:
        raise error(f"There are no DICOM images in {folder}.", "Give the folder with the slices of one series.")
    chosen = _chosen(found, folder, error, series)
    if chosen.stack is None:
        raise error(f"In {folder}, {chosen} {chosen.problem}.", chosen.do)
    if error is not BadVolume and not chosen.stack.even:
        what = f"The slices of {folder} are not evenly spaced, and labels cannot be interpolated."
        raise error(what, "Copy the missing slices, or save the label map in another format.")
    notes = list(chosen.stack.notes)
    if len(found) > 1 and not series:
        others = _listed(f"{name} {each.problem}".strip() for each, name in _named(found) if each is not chosen)
        notes.insert(0, f"{folder.name} holds {len(found)} DICOM series: {chosen} is read; left out: {others}.")
    if broken:
        notes.append(f"Left out, because they are missing or cannot be read: {names}.")
    return chosen, " ".join(notes)


def _chosen(found: list[Series], folder: Path, error: Refusal, wanted: str) -> Series:
    """The series called so, or the best of those that can be read."""
    key = wanted.strip().casefold()
    if key:
        matches = [each for each in found if key in (each.uid, each.number, each.description.casefold())]
        matches = matches or [each for each in found if each.uid.startswith(key)]
        if not matches:
            names = _listed(name for _, name in _named(found))
            raise error(f"No DICOM series in {folder} is called {wanted}; there are {names}.", CHOOSE)
    else:
        matches = [each for each in found if each.stack] or found
        if len(found) > 1 and not matches[0].stack:
            names = _listed(f"{name} {each.problem}" for each, name in _named(found))
            raise error(f"None of the {len(found)} DICOM series in {folder} is one volume: {names}.", found[0].do)
        highest = max(each.rank for each in matches)
        matches = [each for each in matches if each.rank == highest]
    if len(matches) > 1:
        alike = f"are called {wanted}" if key else "are of the same size"
        names = _listed(name for _, name in _named(matches))
        what = f"{len(matches)} DICOM series in {folder} {alike}: {names}."
        raise error(what, CHOOSE, kind="several-series")
    return matches[0]


def _named(found: list[Series]) -> list[tuple[Series, str]]:
    """Each series with its name; with its UID and folder where another has the same name."""
    times = Counter(map(str, found))
    more = [f" with the UID {each.uid} in {each.files[0].parent.name}" * (times[str(each)] > 1) for each in found]
    return [(each, f"{each}{extra}") for each, extra in zip(found, more, strict=True)]


def _described(planes: list[Plane]) -> list[Series]:
    """The series of some slices, in the order of their numbers."""
    series: dict[tuple[str, ...], list[Plane]] = defaultdict(list)
    for plane in planes:
        series[plane.series].append(plane)
    return sorted(map(_describe, series.values()), key=lambda each: (each.number.zfill(12), each.uid))


def _describe(planes: list[Plane]) -> Series:
    """A series: its largest stack, or why it has none."""
    groups: list[list[Plane]] = []
    for plane in planes:
        group = next((each for each in groups if not each[0].unlike(plane)), None)
        if group is None:
            groups.append(group := [])
        group.append(plane)
    groups.sort(key=_size, reverse=True)
    first, slices = groups[0][0], len(groups[0])
    keys = ("SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality")
    uid, number, description, modality = (first.texts[key] for key in keys)
    paths = tuple(dict.fromkeys(plane.path for plane in planes))
    series = Series(uid, number, description, modality, slices, *first.size, paths)
    try:
        equal = [each[0] for each in groups if _size(each) == _size(groups[0])]
        if len(equal) > 1:
            stacks = f"{len(equal)} stacks of {_count(slices, 'slice')}"
            raise Unfit(f"holds {stacks} that differ in {first.unlike(equal[1])}", OWN_FOLDER)
        volume = stack(groups[0])
    except Unfit as unfit:
        return replace(series, problem=unfit.what, do=unfit.do)
    for other in groups[1:]:
        names = _listed(dict.fromkeys(plane.path.name for plane in other))
        images = f"{_count(len(other), 'image')} ({names}), different in {first.unlike(other[0])}"
        volume.notes.append(f"Left out of {series}: {images}.")
    i, j, k = np.linalg.norm(volume.affine[:3, :3], axis=0)
    scout = 0 < SCOUT * first.thickness < k  # its slices count a quarter
    rank = bool(first.position), not first.localizer, slices / (4 if scout else 1)
    return replace(series, spacing=f"{i:.3g} x {j:.3g} x {k:.3g}", rank=rank, stack=volume)


def _size(planes: list[Plane]) -> tuple[bool, bool, int]:
    """Of the stacks of a series: images before other things, anything before localizers, then by number of slices."""
    return not planes[0].flaw, not planes[0].localizer, len(planes)


def _voxels(volume: Stack, error: Refusal) -> np.ndarray:
    """(K, J, I): each slice at its place."""
    files: dict[Path, np.ndarray] = {}
    slices = []
    with quiet():
        for plane in volume.planes:
            path = plane.path
            try:
                if path not in files:
                    files[path] = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="GDCMImageIO"))
                slices.append(files[path].reshape(-1, *plane.size)[plane.order[1]])
            except (RuntimeError, ValueError, IndexError):  # GDCM's own text names a pointer and no cause
                what = f"The image in {path.name} cannot be decoded: it is cut short, damaged or oddly compressed."
                raise error(what, f"Copy it again. {CONVERT}") from None
    array = np.stack(slices)
    return array if volume.even else resampled(array, volume.places)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _listed(names: Iterable[str]) -> str:
    shown = list(map(printable, names))
    more = len(shown) - LISTED
    return ", ".join(shown[:LISTED]) + (f" and {more} more" if more > 0 else "")
