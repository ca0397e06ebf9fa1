"""The DICOM images of a folder: every slice of every file, as its header describes it (pydicom). No pixels here."""

from __future__ import annotations

import math
import os
import stat
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from ..errors import printable

SUFFIXES = (".dcm", ".ima")  # a file of such a name that is no DICOM is damaged; others are none of our business
NO_PREAMBLE = (b"\x08\x00", b"\x02\x00")  # how files begin that lack the 128 bytes and "DICM"
SLICE_VECTOR = 0x00540080  # FrameIncrementPointer of frames that are slices
CONVERT = "Convert it to NIfTI, with dcm2niix for instance."
UIH_MOSAIC = 0x00651051  # United Imaging's sequence of the slices in one image
FLAWS = {
    "colour": ("is in colour", "Choose a series with grey values."),
    "mosaic": ("is a mosaic: each image holds all slices of a volume side by side", CONVERT),
    "frames": ("has frames that are moments or views, not slices", "Choose a series of slices."),
    "SEG": ("is a segmentation, not an image", "Load it in 3D Slicer and save it as .seg.nrrd."),
    "RTDOSE": ("is a dose distribution, not an image", "Choose the images it was planned on."),
}
TEXTS = (
    "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID", "SeriesNumber",
    "SeriesDescription", "Modality", "ImageType", "PhotometricInterpretation",
)  # fmt: skip
ALIKE = {"size": 0.0, "orientation": 2e-3, "pixel_spacing": 2e-4}  # what slices of a stack share, up to rounding


@dataclass(frozen=True)
class Plane:
    """One slice: a file, or a frame of one. What the header does not say is empty, a length 0."""

    path: Path
    texts: dict[str, str]  # those of TEXTS
    order: tuple[int, int]  # InstanceNumber, number of the frame
    size: tuple[int, int]  # rows, columns
    position: tuple[float, ...]  # of the first voxel's centre, LPS mm
    orientation: tuple[float, ...]  # direction cosines (LPS) of increasing column index, of increasing row index
    pixel_spacing: tuple[float, ...]  # mm between rows, between columns
    thickness: float  # SliceThickness, mm
    gap: float  # SpacingBetweenSlices, mm from centre to centre
    rescale: tuple[float, ...]  # slope and intercept for this frame alone
    flaw: str  # why it is no slice of a grey volume, one of FLAWS

    @property
    def series(self) -> tuple[str, ...]:
        """What tells one series from all others."""
        return tuple(self.texts[key] for key in TEXTS[:3])

    @property
    def localizer(self) -> bool:
        return "LOCALIZER" in self.texts["ImageType"].upper()

    @property
    def negative(self) -> bool:
        """Whether high values are dark."""
        return self.texts["PhotometricInterpretation"] == "MONOCHROME1"

    def unlike(self, other: Plane) -> str:
        """What keeps two slices from lying in one stack; empty for nothing."""
        for name, slack in ALIKE.items():
            mine, theirs = getattr(self, name), getattr(other, name)
            if len(mine) != len(theirs) or any(abs(a - b) > slack for a, b in zip(mine, theirs, strict=True)):
                return name.replace("_", " ")
        if bool(self.position) != bool(other.position):
            return "having a position"
        if self.texts["FrameOfReferenceUID"] != other.texts["FrameOfReferenceUID"]:
            return "frame of reference"
        mine, theirs = ((each.localizer, each.negative, each.flaw) for each in (self, other))
        return "" if mine == theirs else "kind"


def find_planes(where: Path | Iterable[Path]) -> tuple[list[Plane], list[Path]]:
    """The slices of a file, of some files, or in and below a folder; and the files that ought to be DICOM and cannot
    be read.

    A copy counts once. A DICOMDIR stands for its folder: what lies there is read whether the list names it or not, and
    what it names and does not lie there cannot be read.
    """
    planes: list[Plane] = []
    files = list(walk(where)) if isinstance(where, Path) else where
    seen = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, about values against the standard
        broken = _absent(where, files) if isinstance(where, Path) else []
        for file in files:
            try:
                found = _planes(file)
            except Exception:  # in a damaged header pydicom raises whatever it meets
                broken.append(file)
                continue
            for each in found:
                # careless anonymisers give all slices one SOPInstanceUID: a copy also lies where the other does
                copy = (each.texts["SOPInstanceUID"] or file, each.series, each.order, each.position)
                if copy not in seen:
                    seen.add(copy)
                    planes.append(each)
    return planes, broken


def _absent(where: Path, files: Iterable[Path]) -> list[Path]:
    """What the DICOMDIR of a folder lists and is not there; file systems of discs differ in case and in version."""
    index = where if where.name.upper() == "DICOMDIR" else where / "DICOMDIR"
    try:
        records = pydicom.dcmread(index).DirectoryRecordSequence
        listed = [index.parent.joinpath(*_text(each, "ReferencedFileID").split("\\")) for each in records]
    except Exception:  # none, or a damaged one: pydicom raises whatever it meets
        return []
    there = {str(file).casefold().removesuffix(";1").rstrip(".") for file in files}
    return [path for path in listed if path != index.parent and str(path).casefold().rstrip(".") not in there]


def walk(path: Path) -> Iterator[Path]:
    """The file itself, or the files below a folder by name; through links, but into no folder twice, no hidden one."""
    if path.name.upper() == "DICOMDIR":
        path = path.parent
    if path.is_file():
        yield path
    seen = set()
    for root, folders, names in os.walk(path, followlinks=True):
        if (real := os.path.realpath(root)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if name[0] != ".")
        yield from (Path(root, name) for name in sorted(names) if name[0] != "." and name.upper() != "DICOMDIR")


def _planes(path: Path) -> list[Plane]:
    """The slices of a file; none of a file of another kind, or of an object without pixels."""
    named = path.suffix.lower() in SUFFIXES
    if not stat.S_ISREG(path.stat().st_mode):
        return []  # opening a pipe would wait for ever
    with path.open("rb") as file:
        start = file.read(132)
        bare = start[:2] in NO_PREAMBLE and start[128:] != b"DICM"
        if not (named or bare or start[128:] == b"DICM"):
            return []
        file.seek(0)
        header = pydicom.dcmread(file, stop_before_pixels=True, force=bare)
    if "Rows" not in header:
        kind = pydicom.uid.UID(_text(header, "SOPClassUID")).name
        whole = "Storage" in kind or "SeriesInstanceUID" in header
        if "Image Storage" in kind or not (whole or (bare and not named)):
            raise ValueError("cut short")
        return []
    str(path).encode()  # a name that is no Unicode would end the process in GDCM
    frames = int(header.get("NumberOfFrames") or 1)
    if frames > path.stat().st_size:
        raise ValueError("more frames than bytes")
    own = list(header.get("PerFrameFunctionalGroupsSequence") or [])
    if own and len(own) != frames:
        raise ValueError("frames that are not described, or not there")
    shared = [*(header.get("SharedFunctionalGroupsSequence") or []), *(header.get("DetectorInformationSequence") or [])]
    texts = {key: _text(header, key) for key in TEXTS}
    listed = frames > 1 and not own  # the position is that of the first frame, and the others follow along the normal
    flaw = _flaw(header, texts, listed)
    return [_plane(path, texts, k, [*own[k : k + 1], *shared, header], listed, flaw) for k in range(frames)]


def _plane(path: Path, texts: dict[str, str], frame: int, items: list[Any], listed: bool, flaw: str) -> Plane:
    """A slice, from the groups that describe it, the most specific first, and the header itself."""
    header, measures, values = items[-1], "PixelMeasuresSequence", "PixelValueTransformationSequence"
    (thickness,) = _numbers(items, measures, "SliceThickness", 1) or (0.0,)
    (gap,) = _numbers(items, measures, "SpacingBetweenSlices", 1) or (0.0,)
    spacing = _numbers(items, measures, "PixelSpacing", 2) or _numbers(items, "", "ImagerPixelSpacing", 2)
    axes = _numbers(items, "PlaneOrientationSequence", "ImageOrientationPatient", 6)
    position = _numbers(items, "PlanePositionSequence", "ImagePositionPatient", 3) if axes else ()
    if listed and position:
        position = tuple(position + frame * (gap or thickness) * np.cross(axes[:3], axes[3:]))
    rescale = _numbers(items[:-1], values, "RescaleSlope", 1) + _numbers(items[:-1], values, "RescaleIntercept", 1)
    order = int((_numbers([header], "", "InstanceNumber", 1) or (0,))[0]), frame
    size = int(header.Rows), int(header.Columns)
    spacing = spacing if min(spacing, default=0) > 0 else ()
    return Plane(path, texts, order, size, position, axes, spacing, abs(thickness), abs(gap), rescale, flaw)


def _flaw(header: Any, texts: dict[str, str], listed: bool) -> str:
    if texts["Modality"] in FLAWS:
        return texts["Modality"]
    if header.get("SamplesPerPixel", 1) != 1 or "MONOCHROME" not in (
        texts["PhotometricInterpretation"] or "MONOCHROME"
    ):
        return "colour"
    if listed and header.get("FrameIncrementPointer") not in (None, SLICE_VECTOR):
        return "frames"
    return "mosaic" if "MOSAIC" in texts["ImageType"].upper() or UIH_MOSAIC in header else ""


def _numbers(items: list[Any], sequence: str, key: str, count: int) -> tuple[float, ...]:
    """A value from the first item that has it, itself or in its sequence; empty when there is none of use."""
    for item in items:
        holder = item[sequence][0] if sequence and item.get(sequence) else item
        if key in holder:
            try:
                values = tuple(float(x) for x in np.atleast_1d(holder.get(key)))
            except (TypeError, ValueError):
                return ()
            return values if len(values) == count and all(map(math.isfinite, values)) else ()
    return ()


def _text(header: Any, key: str) -> str:
    """A value as one line; several values with backslashes between, as they are stored."""
    value = header.get(key)
    parts = [] if value is None else [value] if isinstance(value, str) or not hasattr(value, "__iter__") else value
    return printable("\\".join(map(str, parts)))
