"""Volumes and label maps from files: NIfTI, NRRD, MetaImage, a folder of DICOM slices.

Whatever is wrong with a file becomes one sentence. NIfTI is checked by hand before SimpleITK sees it, because
its reader fills what a cut file lacks with zeros and says nothing; MetaImage, because its reader chatters on
stderr.
"""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import BadInput, BadLabels, BadVolume
from . import nifti
from .dicom import read_series
from .grid import COPY_AGAIN, EXTRACT_FRAME, TO_GREY, Refusal, Volume, affine_of, check_shape, check_voxels, quiet

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
META_BYTES = {
    "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4,
    "MET_FLOAT": 4, "MET_DOUBLE": 8, "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8,
}  # fmt: skip


def read_volume(path: str | Path) -> Volume:
    """An image from a file, or from a folder with the slices of one DICOM series.

    A 2-D image is read as a volume of one slice. Of several series in a folder the one with the most files is
    read, and ``Volume.note`` says so.

    Raises:
      BadVolume: whatever makes it impossible to segment.
    """
    path = Path(path)
    volume = _read(path, BadVolume)
    check_voxels(volume)
    return volume


def read_labels(path: str | Path) -> Volume:
    """A label map from a file, as the smallest unsigned integers that hold it.

    Raises:
      BadLabels: unreadable, or with values that are no labels (negative, fractional, above 65535).
    """
    volume = _read(Path(path), BadLabels)
    return replace(volume, array=as_labels(volume.array, volume.title))


def as_labels(array: np.ndarray, title: str) -> np.ndarray:
    """The same values as uint8 or uint16.

    Raises:
      BadLabels: when a value is not a whole number between 0 and 65535.
    """
    if array.dtype == np.bool_ or array.dtype == np.uint8:
        return array.view(np.uint8)
    # NaN compares false to everything, so it ends up refused as well.
    low, high = array.min(), array.max()
    whole = array.dtype.kind in "iu" or np.array_equal(array, np.rint(array))
    if not (low >= 0 and high <= 65535 and whole):
        raise BadLabels(
            f"{title} is not a label map: its values are not all whole numbers from 0 to 65535.",
            "Give the label map that belongs to the image, not the image itself or a probability map.",
        )
    return array.astype(np.uint8 if high <= 255 else np.uint16)


def _read(path: Path, error: Refusal) -> Volume:
    if path.is_dir():
        image, note = read_series(path, error)
    elif not path.exists():
        raise error(f"There is no file {path}.", "Check the spelling and the folder.")
    else:
        _check_complete(path, error)
        image, note = _read_file(path, error)
    if image.GetDimension() == 2:
        image = sitk.JoinSeries(image)
    if not np.isfinite(image.GetSpacing()).all() or min(image.GetSpacing()) <= 0:
        raise error(f"{path.name} has a voxel size of zero.", "Set its spacing and save it again.")
    volume = Volume(sitk.GetArrayFromImage(image), affine_of(image), _stem(path), path, note)
    check_shape(volume, error)
    return volume


def _stem(path: Path) -> str:
    """The file's name without its image suffix."""
    name = path.name
    for suffix in (".seg.nrrd", *SUFFIXES):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return path.stem if path.is_file() else name


def _read_file(path: Path, error: Refusal) -> tuple[sitk.Image, str]:
    """The image, and a sentence for the log if there is something to say."""
    try:
        with quiet():
            image, note = _execute(path, error), ""
    except RuntimeError as problem:
        if "orthonormal" not in str(problem):
            raise _translate(path, str(problem), error) from None
        with quiet(), nifti.permissive():
            image = _execute(path, error)
        note = nifti.straightened(path, affine_of(image), image.GetSize(), error)
    return image, note


def _execute(path: Path, error: Refusal) -> sitk.Image:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    _check_scalar_3d(path, reader, error)
    image = reader.Execute()
    return image[:, :, :, 0] if image.GetDimension() == 4 else image  # of one frame, says the check


def _check_scalar_3d(path: Path, reader: sitk.ImageFileReader, error: Refusal) -> None:
    """Looks at the header only, so that a long 4-D series is refused before it is loaded."""
    sizes, components = reader.GetSize(), reader.GetNumberOfComponents()
    if reader.GetDimension() > 4 or (reader.GetDimension() == 4 and sizes[3] != 1):
        frames = math.prod(sizes[3:])
        raise error(f"{path.name} is a 4-D series of {frames} frames, not one volume.", EXTRACT_FRAME)
    if components > 1:
        if path.name.endswith(".seg.nrrd"):
            what, do = "has overlapping segments", "In Slicer, export them to a label map and use that."
        elif components in (3, 4):
            what, do = f"is a colour image ({components} values per voxel)", TO_GREY
        else:
            what, do = f"has {components} values per voxel", EXTRACT_FRAME
        raise error(f"{path.name} {what}.", do)
    if "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()):
        raise error(f"{path.name} has complex voxels.", "Export the magnitude image and use that.")


def _translate(path: Path, problem: str, error: Refusal) -> BadInput:
    """One sentence for what SimpleITK threw."""
    if "Unable to determine ImageIO" in problem:
        return error(
            f"{path.name} is not an image that can be read.",
            "Use NIfTI (.nii, .nii.gz), NRRD (.nrrd), MetaImage (.mha) or a folder of DICOM slices.",
        )
    if any(words in problem for words in ("bytes but received", "fread got only", "hit end of header")):
        return error(f"{path.name} is cut short.", COPY_AGAIN)
    lines = [line.strip() for line in problem.splitlines() if line.strip()]
    return error(f"{path.name} cannot be read ({lines[-1][:160]}).", COPY_AGAIN)


# Whether all bytes are there, before a reader guesses.


def _check_complete(path: Path, error: Refusal) -> None:
    name = path.name.lower()
    try:
        if name.endswith((".nii", ".nii.gz")):
            nifti.check_complete(path, error)
        elif name.endswith(".mha"):
            _check_metaimage(path, error)
    except (EOFError, gzip.BadGzipFile, zlib.error) as problem:
        if "Not a gzipped file" in str(problem):
            raise error(
                f"{path.name} is not a gzip file, whatever its name says.",
                "Check how it was made, or rename it if it is an uncompressed .nii.",
            ) from None
        raise error(f"{path.name} is cut short or damaged inside.", COPY_AGAIN) from None
    except OSError as problem:
        raise error(f"{path.name} cannot be opened ({problem.strerror}).", "Check its permissions.") from None


def _check_metaimage(path: Path, error: Refusal) -> None:
    """The header of a .mha is text up to the line ElementDataFile; the voxels follow."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    end = head.find(b"ElementDataFile")
    stop = head.find(b"\n", end) + 1
    if end < 0 or stop == 0 or b"DimSize" not in head[:end]:
        raise error(f"{path.name} is not a MetaImage file, or is cut short.", COPY_AGAIN)
    fields = {}
    for line in head[:end].decode("latin-1").splitlines():
        key, _, value = line.partition("=")
        fields[key.strip()] = value.strip()
    try:
        voxels = math.prod(int(n) for n in fields["DimSize"].split())
        each = META_BYTES.get(fields.get("ElementType", ""), 1) * int(fields.get("ElementNumberOfChannels", "1"))
        needed = int(fields.get("CompressedDataSize", voxels * each))
    except ValueError:
        raise error(f"{path.name} has a damaged header.", COPY_AGAIN) from None
    local = head[end:stop].split(b"=")[-1].strip() == b"LOCAL"
    if local and path.stat().st_size - stop < needed:
        raise error(f"{path.name} is cut short.", COPY_AGAIN)
