"""MetaImage files, read to their last byte and checksum; MetaIO, which ITK has, writes what it thinks to stderr."""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .itk import read_image
from .volume import COPY_AGAIN, EXTRACT_COMPONENT, LPS_FROM_RAS, NO_VOXEL_SIZE, TO_NUMBERS, Refusal

LONGEST = 1 << 16  # bytes of a header
TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_FLOAT": "f4", "MET_DOUBLE": "f8", "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
}  # fmt: skip


def read_metaimage(path: Path, error: Refusal) -> tuple[np.ndarray, np.ndarray, str]:
    """Voxels (K, J, I), or with further axes for frames; the (4, 4) IJK-to-RAS matrix; a note where no voxel size is
    given.

    Raises:
      error: not MetaImage, cut short, damaged (a compressed stream is read to its checksum), without its raw file.
    """
    with path.open("rb") as file:
        head = file.read(LONGEST)
    end = head.find(b"ElementDataFile")
    stop = head.find(b"\n", end) + 1 or len(head)
    lines = (line.partition("=") for line in head[:stop].decode("utf-8", "replace").splitlines())
    fields = {key.strip(): value.strip() for key, _, value in lines}
    if not {"DimSize", "ElementType", "ElementDataFile"} <= fields.keys():
        raise error(f"{path.name} is not a MetaImage file, or is cut short.", COPY_AGAIN)
    if fields["ElementType"] not in TYPES:
        raise error(f"{path.name} has voxels of type {fields['ElementType']}.", TO_NUMBERS)
    try:
        sizes, values = list(map(int, fields["DimSize"].split())), int(fields.get("ElementNumberOfChannels", "1"))
        if min(*sizes, values) < 1 or len(sizes) != int(fields.get("NDims", len(sizes))):
            raise ValueError
        affine = _declared_affine(fields)
        array = _voxels(path, fields, stop, (*sizes[::-1], values) if values > 1 else tuple(sizes[::-1]), error)
    except ValueError:
        raise error(f"{path.name} has a damaged header.", COPY_AGAIN) from None
    if not np.isfinite(affine).all() or (np.linalg.norm(affine[:3, :3], axis=0) == 0).any():
        raise error(f"{path.name} has a voxel size that is zero or no number.", "Set its spacing and save it again.")
    if values not in (1, 3, 4):
        raise error(f"{path.name} is a series of {values} frames, not one volume.", EXTRACT_COMPONENT)
    note = "" if {"ElementSpacing", "ElementSize"} & fields.keys() else NO_VOXEL_SIZE.format(path.name)
    return array[None] if len(sizes) == 2 else array, affine, note


def _voxels(path: Path, fields: dict[str, str], stop: int, shape: tuple[int, ...], error: Refusal) -> np.ndarray:
    """The voxels in the machine's byte order; several files of slices are left to ITK. Raises error, ValueError."""
    data = fields["ElementDataFile"]
    own, listed = data.upper() == "LOCAL", data.upper().startswith("LIST")
    names = [data]
    if listed:
        names = [line.strip() for line in path.read_bytes()[stop:].decode("utf-8", "replace").splitlines()]
    lacking = [name for name in names if name and not (own or "%" in name or (path.parent / name).is_file())]
    if lacking:
        verb, files = ("lists", "all of its") if listed else ("has its voxels in", "both")
        raise error(f"{path.name} {verb} {lacking[0]}, which is not beside it.", f"Copy {files} files.")
    if listed or "%" in data:
        try:
            return sitk.GetArrayFromImage(read_image(path)).reshape(shape)
        except RuntimeError as problem:
            raise error(f"{path.name} cannot be read ({problem}).", COPY_AGAIN) from None
    raw = (path if own else path.parent / data).read_bytes()
    skipped, kind = int(fields.get("HeaderSize", "0")), np.dtype(TYPES[fields["ElementType"]])
    expected = math.prod(shape) * kind.itemsize
    start = skipped if skipped > 0 else max(0, len(raw) - expected) if skipped < 0 else stop if own else 0
    if fields.get("BinaryData", "True").lower() == "false":
        words = raw[start:].split()
        if len(words) != math.prod(shape):
            raise error(f"{path.name} is cut short.", COPY_AGAIN)
        return np.array(words).astype(kind).reshape(shape)
    if fields.get("CompressedData", "False").lower() == "true":
        raw, start = _unpacked(raw[stop if own else 0 :], expected, path, error), 0
    if len(raw) - start < expected:
        raise error(f"{path.name} is cut short.", COPY_AGAIN)
    foreign = fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False")).lower() == "true"
    stored = np.frombuffer(raw, kind.newbyteorder(">" if foreign else "<"), math.prod(shape), start)
    return stored.astype(kind, copy=False).reshape(shape)


def _unpacked(packed: bytes, expected: int, path: Path, error: Refusal) -> bytes:
    """A stream of zlib or gzip, as it says itself, to its checksum, and not a byte more than announced."""
    stream = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        raw = stream.decompress(packed, expected + 1)
    except (zlib.error, OverflowError):
        raw = b""
    if not stream.eof and len(raw) <= expected:
        raise error(f"{path.name} is cut short or damaged inside.", COPY_AGAIN)
    if len(raw) != expected:
        raise error(f"{path.name} does not hold the voxels that its header announces.", COPY_AGAIN)
    return raw


def _declared_affine(fields: dict[str, str]) -> np.ndarray:
    """IJK to RAS as the header has it: a row of its matrix is an axis (itk.org/Wiki/ITK/MetaIO/Documentation)."""

    def numbers(*names: str) -> list[float]:
        return next(([float(n) for n in fields[name].split()] for name in names if name in fields), [])

    dimensions = len(fields["DimSize"].split())
    axes, steps, origin = np.eye(4), np.ones(4), np.zeros(4)
    rows = numbers("TransformMatrix", "Rotation", "Orientation") or np.eye(dimensions).ravel()
    axes[:dimensions, :dimensions] = np.reshape(rows, (dimensions, dimensions))
    steps[:dimensions] = np.reshape(numbers("ElementSpacing", "ElementSize") or [1.0] * dimensions, dimensions)
    origin[:dimensions] = np.reshape(numbers("Offset", "Position", "Origin") or [0.0] * dimensions, dimensions)
    affine = np.eye(4)
    affine[:3, :3] = LPS_FROM_RAS @ axes[:3, :3].T @ np.diag(steps[:3])
    affine[:3, 3] = LPS_FROM_RAS @ origin[:3]
    return affine
