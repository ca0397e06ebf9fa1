"""NIfTI files by nibabel's header: exact affines, sheared ones included, and every byte accounted for.

SimpleITK's reader fills what a cut file lacks with zeros, turns NaN into zeros without a word, and refuses axes that
are a hair off the right angle.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import IO, Any

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError

from ..errors import BadInput
from .grid import SAME_PLACE, displacement
from .volume import COPY_AGAIN, EXTRACT_FRAME, LPS_FROM_RAS, TO_GREY, TO_NUMBERS, Refusal

GZIP = b"\x1f\x8b"
KINDS = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}  # by the header's first number, its own size in bytes
MOST_PACKED = 1100  # bytes that one of a gzip can stand for
UNITS = {1: ("metres", 1e3), 3: ("micrometres", 1e-3)}  # of xyzt_units; none and 2 are mm
LARGEST_SIDE = 32767  # of NIfTI-1


def read_nifti(path: Path, error: Refusal) -> tuple[np.ndarray, np.ndarray, str]:
    """Voxels (K, J, I), the (4, 4) IJK-to-RAS matrix, and a note where two of the file's matrices disagree.

    Raises:
      error: not NIfTI, cut short, damaged (a gzip is read to its checksum), several frames, colour.
    """
    try:
        with _opened(path, error) as file:
            header = _header(file, path, error)
            shape = _shape(header, path, error)
            affine, note = declared_affine(header, shape, path.name, error)
            offset, kind = int(header.get_data_offset()), header.get_data_dtype()
            _check_kind(header, path, error)
            slope, intercept = header.get_slope_inter()
            file.read(offset - header.sizeof_hdr)
            announced = math.prod(shape) * kind.itemsize
            if announced > MOST_PACKED * path.stat().st_size:  # before memory is asked for
                raise EOFError
            voxels = file.read(announced)
            while file.read(1 << 20):  # to the end of a gzip, where its checksum is
                pass
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise error(f"{path.name} is cut short or damaged inside.", COPY_AGAIN) from None
    except OSError as problem:
        raise error(f"{path.name} cannot be opened ({problem.strerror}).", "Check its permissions.") from None
    except (HeaderDataError, ValueError, OverflowError, KeyError):  # the last: no such type of voxels
        raise error(f"{path.name} has a damaged header.", COPY_AGAIN) from None
    if len(voxels) < announced:
        raise error(
            f"{path.name} is cut short: {offset + len(voxels):,} of {offset + announced:,} bytes are there.", COPY_AGAIN
        )
    return _scaled(np.frombuffer(voxels, kind).reshape(shape), slope, intercept), affine, note


def _opened(path: Path, error: Refusal) -> IO[bytes]:
    """The file's own bytes, uncompressed."""
    with path.open("rb") as file:
        start = file.read(4)
    compressed = start.startswith(GZIP)
    if path.name.lower().endswith(".gz") != compressed:
        what = "is compressed" if compressed else "is not a gzip file, whatever its name says"
        suffix = ".nii.gz" if compressed else ".nii"
        remedy = f"If it is a NIfTI file, rename it to {suffix}."
        if not compressed and not any(int.from_bytes(start, order) in KINDS for order in ("little", "big")):
            what, remedy = "is not a gzip file, nor a NIfTI file under another name", "Export or download it again."
        raise error(f"{path.name} {what}.", remedy)
    return gzip.open(path) if compressed else path.open("rb")  # type: ignore[return-value]


def _header(file: IO[bytes], path: Path, error: Refusal) -> Any:
    start = file.read(4)
    kind = next((KINDS[n] for order in ("little", "big") if (n := int.from_bytes(start, order)) in KINDS), None)
    if kind is None:
        raise error(f"{path.name} is not a NIfTI file, whatever its name says.", "Export the image again.")
    raw = start + file.read(kind.sizeof_hdr - 4)
    if len(raw) < kind.sizeof_hdr:
        raise error(f"{path.name} is cut short: not even its header is complete.", COPY_AGAIN)
    return kind(raw, check=False)


def _shape(header: Any, path: Path, error: Refusal) -> tuple[int, ...]:
    """(K, J, I); of an image that is 2-D, (1, J, I)."""
    count = int(header["dim"][0])
    sizes = [int(n) for n in header["dim"][1 : 1 + count]]
    if not 1 <= count <= 7 or min(sizes) < 1:
        raise error(f"{path.name} has a damaged header: its size is {sizes}.", COPY_AGAIN)
    if sizes[3:] in ([1, 3], [1, 4]):  # the fifth axis is that of vectors
        raise error(f"{path.name} is a colour image ({sizes[4]} values per voxel).", TO_GREY)
    if math.prod(sizes[3:]) > 1:
        raise error(f"{path.name} is a series of {math.prod(sizes[3:])} frames, not one volume.", EXTRACT_FRAME)
    return tuple((*sizes, 1, 1)[:3][::-1])


def _check_kind(header: Any, path: Path, error: Refusal) -> None:
    kind = header.get_data_dtype()
    if kind.fields is not None:
        raise error(f"{path.name} is a colour image ({len(kind.fields)} values per voxel).", TO_GREY)
    if not kind.itemsize:
        raise error(f"{path.name} has voxels of an unknown type (datatype {header['datatype']}).", TO_NUMBERS)
    if kind.kind == "c":
        raise error(f"{path.name} has complex voxels.", "Export the magnitude image and use that.")


def declared_affine(header: Any, shape: tuple[int, ...], name: str, error: Refusal) -> tuple[np.ndarray, str]:
    """The IJK-to-RAS matrix that a header declares: the sform where it has a code, else the qform, else the voxel sizes
    alone with the first voxel at 0, as nibabel's and Slicer's readers choose; in mm, whatever its unit.

    Returns:
      (4, 4), and a note where sform and qform are both given and differ, or the unit is none of images.
    """
    header, note = header.copy(), ""
    header["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1  # as ITK has it; else there would be no qform
    header["pixdim"][1:4] = np.abs(header["pixdim"][1:4])
    sform, qform = header.get_sform(coded=True)[0], _qform(header)
    affine = np.diag([*header["pixdim"][1:4].astype(float), 1.0])
    affine[:3, :3] = LPS_FROM_RAS @ affine[:3, :3]
    if sform is not None and np.isfinite(sform).all() and abs(np.linalg.det(sform[:3, :3])) > 1e-12:
        affine = sform
        if qform is not None and displacement(sform, qform, shape) > SAME_PLACE:
            note = f"The two positions in {name} differ; the sform counts, not the qform."
    elif qform is not None and (sform is None or np.isfinite(sform).all()):
        affine = qform
        if sform is not None:
            note = f"The sform of {name} cannot be used (axes in one plane): the qform counts."
    elif sform is not None or header["qform_code"] > 0:
        which = "qform" if sform is None else "sform"
        what = f"{name} has a position ({which}) that is not a number, or axes that lie in one plane."
        raise error(what, "Set its geometry and save it again.")
    word, factor = UNITS.get(int(header["xyzt_units"]) & 7, ("", 1.0))
    if word:
        affine = np.diag([factor, factor, factor, 1.0]) @ affine
        note = f"{note} The unit of {name} is {word}: its geometry is converted to mm.".strip()
    return affine, note


def _qform(header: Any) -> np.ndarray | None:
    """The qform where it has a code and can be used."""
    try:
        qform = header.get_qform(coded=True)[0]
    except (HeaderDataError, ValueError):  # quaternions that are no rotation
        return None
    zero = (header["pixdim"][1:4] == 0).any()
    return None if qform is None or zero or not np.isfinite(qform).all() else qform


def _scaled(array: np.ndarray, slope: float | None, intercept: float | None) -> np.ndarray:
    """Voxels in the machine's byte order, with slope and intercept; a slope of 0 means no scaling."""
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    if slope is None or (slope, intercept or 0.0) == (1.0, 0.0):
        return native
    exact = "f8" if native.dtype.itemsize > 2 and native.dtype != np.float32 else "f4"
    with np.errstate(over="ignore", invalid="ignore"):  # voxels that are not finite are counted later
        return np.asarray(native * np.float64(slope) + np.float64(intercept or 0.0), exact)


def write_nifti(path: Path, array: np.ndarray, ijk_to_ras: np.ndarray) -> None:
    """Integers (K, J, I) as NIfTI-1; sform and qform are alike, but that a sheared grid has an sform alone.

    Raises:
      BadInput: for more voxels along an axis than the format has numbers for.
    """
    if max(array.shape) > LARGEST_SIDE:
        raise BadInput(f"NIfTI holds at most {LARGEST_SIDE} voxels along an axis.", "Write .nrrd instead.")
    image = nibabel.Nifti1Image(np.asarray(array).T, ijk_to_ras)
    image.set_sform(ijk_to_ras, code=1)
    image.set_qform(ijk_to_ras, code=1)
    if displacement(ijk_to_ras, image.get_qform(), array.shape) > SAME_PLACE:
        image.set_qform(None, code=0)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
