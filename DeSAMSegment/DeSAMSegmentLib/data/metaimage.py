"""MetaImage files through SimpleITK, and what its reader does not check: length, checksum, zero spacing."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import SimpleITK as sitk

from .grid import SAME_PLACE, displacement
from .itk import affine_of, read_image
from .volume import COPY_AGAIN, EXTRACT_COMPONENT, LPS_FROM_RAS, Refusal

LONGEST = 1 << 16  # bytes of a header
BYTES = {
    "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4, "MET_LONG": 4,
    "MET_ULONG": 4, "MET_FLOAT": 4, "MET_DOUBLE": 8, "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8,
}  # fmt: skip


def read_metaimage(path: Path, error: Refusal) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (K, J, I), or with further axes for frames, and the (4, 4) IJK-to-RAS matrix.

    Raises:
      error: not MetaImage, cut short, damaged (a compressed stream is read to its checksum), without its raw file, or
        with a geometry that ITK does not read as the file declares it.
    """
    with path.open("rb") as file:
        head = file.read(LONGEST)
    end = head.find(b"ElementDataFile")
    stop = head.find(b"\n", end) + 1 or len(head)
    lines = (line.partition("=") for line in head[:stop].decode("latin-1").splitlines())
    fields = {key.strip(): value.strip() for key, _, value in lines}
    if not {"DimSize", "ElementType", "ElementDataFile"} <= fields.keys():
        raise error(f"{path.name} is not a MetaImage file, or is cut short.", COPY_AGAIN)
    if fields["ElementDataFile"].upper().startswith("LIST"):
        names = [line.strip() for line in head[stop:].decode("utf-8", "replace").splitlines()]
        lacking = [name for name in names if name and not (path.parent / name).is_file()]
        if lacking:
            raise error(f"{path.name} lists {lacking[0]}, which is not beside it.", "Copy all of its files.")
    try:
        _check_whole(path, fields, stop, error)
        declared = _declared_affine(fields)
    except ValueError:
        raise error(f"{path.name} has a damaged header.", COPY_AGAIN) from None
    if not np.isfinite(declared).all() or (np.linalg.norm(declared[:3, :3], axis=0) == 0).any():
        raise error(f"{path.name} has a voxel size that is zero or no number.", "Set its spacing and save it again.")
    try:
        image = read_image(path)
    except RuntimeError as problem:
        raise error(f"{path.name} cannot be read ({problem}).", COPY_AGAIN) from None
    array, values = sitk.GetArrayFromImage(image), image.GetNumberOfComponentsPerPixel()
    if values not in (1, 3, 4):
        raise error(f"{path.name} is a series of {values} frames, not one volume.", EXTRACT_COMPONENT)
    if image.GetDimension() == 2:
        return array[None], declared
    if image.GetDimension() == 3 and displacement(declared, affine_of(image), array.shape[:3]) > SAME_PLACE:
        raise error(f"{path.name} has axes that ITK reads differently from its header.", "Save it again as .nrrd.")
    return array, declared


def _check_whole(path: Path, fields: dict[str, str], stop: int, error: Refusal) -> None:
    """Whether all announced voxels are there; lists of files and text are left to the reader."""
    data = fields["ElementDataFile"]
    own = data.upper() == "LOCAL"
    if fields.get("BinaryData", "True").lower() == "false" or (data.upper().startswith("LIST") or "%" in data):
        return
    file = path if own else path.with_name(data)
    if not file.is_file():
        raise error(f"{path.name} has its voxels in {data}, which is not beside it.", "Copy both files.")
    values = math.prod(map(int, fields["DimSize"].split())) * int(fields.get("ElementNumberOfChannels", "1"))
    expected, start = values * BYTES.get(fields["ElementType"], 1), stop if own else 0
    if fields.get("CompressedData", "False").lower() != "true":
        if file.stat().st_size - start < expected:
            raise error(f"{path.name} is cut short.", COPY_AGAIN)
        return
    with file.open("rb") as opened:
        opened.seek(start)
        try:
            there = unpacked_bytes(opened, zlib.decompressobj(zlib.MAX_WBITS | 32))  # zlib or gzip, as it says itself
        except (DamagedStream, EOFError):
            raise error(f"{path.name} is cut short or damaged inside.", COPY_AGAIN) from None
    if there != expected:
        raise error(f"{path.name} does not hold the voxels that its header announces.", COPY_AGAIN)


class DamagedStream(Exception):
    """A compressed stream that makes no sense, or whose checksum is wrong."""


def unpacked_bytes(file: IO[bytes], stream: Any) -> int:
    """What is left of a file, in bytes unpacked by a zlib or bz2 decompressor. Raises DamagedStream, EOFError."""
    there = 0
    try:
        while not stream.eof and (block := file.read(1 << 20)):
            there += len(stream.decompress(block))
    except (zlib.error, OSError, ValueError):
        raise DamagedStream from None
    if not stream.eof:
        raise EOFError
    return there


def _declared_affine(fields: dict[str, str]) -> np.ndarray:
    """IJK to RAS as the header has it: a row of its matrix is an axis (itk.org/Wiki/ITK/MetaIO/Documentation)."""

    def numbers(*names: str) -> list[float]:
        return next(([float(n) for n in fields[name].split()] for name in names if name in fields), [])

    dimensions = len(fields["DimSize"].split())
    axes, steps, origin = np.eye(4), np.ones(4), np.zeros(4)
    rows = numbers("TransformMatrix", "Rotation", "Orientation") or np.eye(dimensions).ravel()
    axes[:dimensions, :dimensions] = np.reshape(rows, (dimensions, dimensions))
    steps[:dimensions] = numbers("ElementSpacing", "ElementSize") or 1.0
    origin[:dimensions] = numbers("Offset", "Position", "Origin") or 0.0
    affine = np.eye(4)
    affine[:3, :3] = LPS_FROM_RAS @ axes[:3, :3].T @ np.diag(steps[:3])
    affine[:3, 3] = LPS_FROM_RAS @ origin[:3]
    return affine
