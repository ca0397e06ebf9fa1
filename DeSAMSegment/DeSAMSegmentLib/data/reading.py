"""Volumes and label maps from files: NIfTI, NRRD, MetaImage, a folder of DICOM slices.

Each format has a reader that says the geometry its header declares and accounts for every byte; here whatever they
return becomes a volume or a label map, or one sentence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import BadLabels, BadVolume
from ..files import check_name
from .itk import affine_of, read_image
from .labels import LabelMap, Overlay, find_label
from .metaimage import read_metaimage
from .nifti import read_nifti
from .nrrd import is_segmentation, read_nrrd
from .volume import COPY_AGAIN, EXTRACT_FRAME, TO_GREY, Refusal, Volume, check_shape, check_voxels

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
PAIRS = {".hdr": ".img", ".img": ".hdr"}  # of Analyze and NIfTI
APPLE_DOUBLE = b"\x00\x05\x16\x07"
NO_ROOM = "Close other programs, or crop or resample the image first."
WHOLE = 1e-3  # a label of 1.0004 is 1: some programs save labels as scaled numbers


def read_volume(path: str | Path, series: str = "", files: Sequence[Path] = ()) -> Volume:
    """An image from a file, or from a folder with DICOM slices; ``Volume.note`` says what was chosen or repaired.

    A 2-D image is read as a volume of one slice.

    Arguments:
      series: which DICOM series of a folder: number, description or UID; empty for the one with the most slices.
      files: of a DICOM folder, those to look at; empty for all.

    Raises:
      BadVolume: whatever makes it impossible to segment.
    """
    path = Path(path)
    array, affine, note, _ = _read(path, BadVolume, series, files)
    volume = Volume(_scalar(array, path, BadVolume), affine, _stem(path), path, note)
    check_shape(volume)
    check_voxels(volume)
    return volume


def read_labels(path: str | Path) -> LabelMap:
    """A label map from a file, as the smallest unsigned integers that hold it, with the names the file gives.

    Raises:
      BadLabels: unreadable, or with values that are no labels (negative, fractional, above 65535).
    """
    path = Path(path)
    array, affine, note, fields = _read(path, BadLabels)
    if is_segmentation(fields):
        array, names = _segments(array, fields, path)
    else:
        array, names = _scalar(array, path, BadLabels), {}
    labels = LabelMap(array, affine, _stem(path), path, note, names)
    check_shape(labels, BadLabels)
    return LabelMap(as_labels(array, path.name), affine, labels.name, path, note, names)


def as_labels(array: np.ndarray, title: str) -> np.ndarray:
    """The same values as uint8 or uint16.

    Raises:
      BadLabels: when a value is not a whole number between 0 and 65535.
    """
    if array.dtype == np.bool_ or array.dtype == np.uint8:
        return array.view(np.uint8)
    if array.dtype.kind == "f":
        if np.isnan(array).any():
            raise BadLabels(f"{title} is not a label map: some of its voxels are NaN.", "Give them the value 0.")
        rounded = np.rint(array)
        fractional = not np.abs(array - rounded).max() <= WHOLE
        array = rounded
    else:
        fractional = False
    if fractional or not (array.min() >= 0 and array.max() <= 65535):
        raise BadLabels(
            f"{title} is not a label map: its values are not all whole numbers from 0 to 65535.",
            "Give the label map that belongs to the image, not the image itself or a probability map.",
        )
    return array.astype(np.uint8 if array.max() <= 255 else np.uint16)


def _read(
    path: Path, error: Refusal, series: str = "", files: Sequence[Path] = ()
) -> tuple[np.ndarray, np.ndarray, str, dict[str, str]]:
    """Voxels, IJK to RAS, a note for the log, and the text fields of the header where the format has some."""
    check_name(path)
    name = path.name.lower()
    try:
        if not path.exists():
            raise error(f"There is no file {path}.", "Check the spelling and the folder.")
        if not path.is_file() and not path.is_dir():
            raise error(f"{path} is not a file.", "Give an image.")  # a pipe: opening it would wait
        if path.is_dir() or _start(path, error)[128:] == b"DICM":
            from .dicom import read_series  # pydicom, which other formats do not need

            return *read_series(path, error, series, files), {}
        if name.endswith((".nii", ".nii.gz")):
            return *read_nifti(path, error), {}
        if name.endswith((".nrrd", ".nhdr")):
            return read_nrrd(path, error)
        if name.endswith((".mha", ".mhd")):
            return *read_metaimage(path, error), {}
        return *_read_other(path, error), "", {}
    except OSError as problem:
        raise error(f"{path.name} cannot be opened ({problem.strerror}).", "Check its permissions.") from None
    except MemoryError:
        raise error(f"{path.name} is larger than the memory that is free.", NO_ROOM) from None


def _start(path: Path, error: Refusal) -> bytes:
    """The first 132 bytes of a file that can be an image, whatever its name says."""
    with path.open("rb") as file:
        start = file.read(132)
    if not start:
        raise error(f"{path.name} is empty: it has 0 bytes.", COPY_AGAIN)
    if start.startswith(APPLE_DOUBLE):
        raise error(
            f"{path.name} is not an image: macOS keeps attributes of another file in it.",
            f"Use {path.name.removeprefix('._')}, the file itself.",
        )
    other = PAIRS.get(path.suffix.lower())
    if other and not any(path.with_suffix(name).is_file() for name in (other, other.upper())):
        raise error(f"{path.name} is one file of two, and {path.stem}{other} is not beside it.", "Copy both files.")
    return start


def _read_other(path: Path, error: Refusal) -> tuple[np.ndarray, np.ndarray]:
    """Whatever else SimpleITK knows."""
    try:
        image = read_image(path)
    except RuntimeError as problem:
        if "Unable to determine ImageIO" in str(problem):
            raise error(
                f"{path.name} is not an image that can be read.",
                "Use NIfTI (.nii, .nii.gz), NRRD (.nrrd), MetaImage (.mha) or a folder of DICOM slices.",
            ) from None
        raise error(f"{path.name} cannot be read ({problem}).", COPY_AGAIN) from None
    image = sitk.JoinSeries(image) if image.GetDimension() == 2 else image
    return sitk.GetArrayFromImage(image), affine_of(image) if image.GetDimension() == 3 else np.eye(4)


def _scalar(array: np.ndarray, path: Path, error: Refusal) -> np.ndarray:
    """(K, J, I) of an image with one value per voxel; a 2-D one is one slice."""
    if array.dtype.kind == "c":
        raise error(f"{path.name} has complex voxels.", "Export the magnitude image and use that.")
    if array.ndim == 2:
        return array[None]
    if array.ndim == 3 or array.size == math.prod(array.shape[:3]):
        return array.reshape(array.shape[:3])
    if array.size == math.prod(array.shape[-3:]):
        return array.reshape(array.shape[-3:])
    if array.ndim == 4 and array.shape[-1] in (3, 4):
        raise error(f"{path.name} is a colour image ({array.shape[-1]} values per voxel).", TO_GREY)
    frames = array.size // math.prod(array.shape[-3:])
    raise error(f"{path.name} is a series of {frames} frames, not one volume.", EXTRACT_FRAME)


def _segments(array: np.ndarray, fields: dict[str, str], path: Path) -> tuple[np.ndarray, dict[str, tuple[int, ...]]]:
    """The label map of one of Slicer's segmentations, and its segments' values; layers that overlap are merged."""
    numbers = sorted({int(found[1]) for key in fields if (found := re.match(r"Segment(\d+)_", key))})
    segments: list[tuple[str, int, int]] = []
    for number in numbers:
        name = fields.get(f"Segment{number}_Name") or fields.get(f"Segment{number}_ID", f"Segment {number}")
        # before Slicer 4.11 every segment was a layer of zeros and ones
        old = f"Segment{number}_LabelValue" not in fields
        given = [
            fields.get(f"Segment{number}_{key}", default) for key, default in (("LabelValue", "1"), ("Layer", "0"))
        ]
        value, layer = (int(text) if text.isdecimal() and len(text) < 10 else -1 for text in given)
        shared = array.ndim == 3 and len(numbers) > 1  # one layer of them all, which nothing but values tells apart
        if value < 1 or layer < 0 or (old and shared):
            raise BadLabels(f"{path.name} has a damaged header: segment {name}.", COPY_AGAIN)
        name = find_label(name, [each[0] for each in segments]) or name  # twice the same: one label of both
        segments.append((name, value, number if old and array.ndim == 4 else layer))
    if array.ndim == 3:
        return array, {name: tuple(value for other, value, _ in segments if other == name) for name, *_ in segments}
    overlay = Overlay(array.shape[:3])
    for name, value, layer in segments:
        if layer >= array.shape[-1]:
            raise BadLabels(f"{path.name} has no layer {layer} for its segment {name}.", COPY_AGAIN)
        overlay.paint(name, array[..., layer] == value)
    return overlay.array, overlay.names


def _stem(path: Path) -> str:
    """The file's name without its image suffix."""
    name = path.name
    for suffix in (".seg.nrrd", *SUFFIXES):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return path.stem if path.is_file() else name
