"""What SimpleITK's NIfTI reader does not check, or is too strict about.

It fills what a cut file lacks with zeros, turns NaN and infinity into zeros without a word, and refuses axes that are a
hair off the right angle, as registration tools write them. Offsets are those of the NIfTI-1 header
(nifti.nimh.nih.gov).
"""

from __future__ import annotations

import gzip
import math
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import IO

import numpy as np

from .grid import COPY_AGAIN, REPLACE_THEM, Refusal

SIZE, SIZE_2 = 348, 540  # bytes of the headers of NIfTI-1 and NIfTI-2, which begin with this number
PERMISSIVE = "ITK_NIFTI_SFORM_PERMISSIVE"  # ITK then takes the nearest right-angled axes
FLOATS = {16: "f4", 64: "f8"}  # the header's datatype codes that can hold NaN
CROOKED = 0.5  # voxels by which the corners may move when axes are straightened


def check_complete(path: Path, error: Refusal) -> None:
    """Compares the size the header announces with what there is, and looks for voxels that are NaN or infinite; a gzip
    is read to its end and checksum.

    Raises:
      error: not NIfTI, cut, or not finite. EOFError, zlib.error, gzip.BadGzipFile: a damaged gzip.
    """
    with _opened(path) as file:
        header = file.read(SIZE)
        if _byte_order(header, SIZE_2):
            raise error(f"{path.name} is NIfTI-2, which cannot be read.", "Export it as NIfTI-1 or NRRD.")
        expected = announced_bytes(header)
        if expected is None:
            raise error(f"{path.name} is not a NIfTI file, whatever its name says.", "Export the image again.")
        offset = max(SIZE, int(struct.unpack((_byte_order(header, SIZE) or "<") + "f", header[108:112])[0]))
        size = len(header) + len(file.read(offset - SIZE))
        bad = 0
        while block := file.read(1 << 20):
            size += len(block)
            bad += _not_finite(block, header)
    if size < expected:
        raise error(f"{path.name} is cut short: {size:,} of {expected:,} bytes are there.", COPY_AGAIN)
    if bad:
        raise error(f"{path.name} has {bad:,} voxels that are NaN or infinite.", REPLACE_THEM)


def _not_finite(block: bytes, header: bytes) -> int:
    """How many voxels of a piece of the file are NaN or infinite; 0 for types that cannot be."""
    order = _byte_order(header, SIZE) or "<"
    kind = FLOATS.get(struct.unpack(order + "h", header[70:72])[0])
    if kind is None:
        return 0
    voxels = np.frombuffer(block[: len(block) // 8 * 8 if kind == "f8" else len(block) // 4 * 4], order + kind)
    return voxels.size - int(np.count_nonzero(np.isfinite(voxels)))


def announced_bytes(header: bytes) -> int | None:
    """The size of the uncompressed file that a NIfTI-1 header announces; None if it is none."""
    order = _byte_order(header, SIZE)
    if order is None:
        return None
    dims = struct.unpack(order + "8h", header[40:56])
    bits = struct.unpack(order + "h", header[72:74])[0]
    offset = int(struct.unpack(order + "f", header[108:112])[0])
    if not 1 <= dims[0] <= 7:
        return None
    return offset + math.prod(max(1, n) for n in dims[1 : dims[0] + 1]) * bits // 8


@contextmanager
def permissive() -> Iterator[None]:
    """Lets ITK straighten axes for a while."""
    before = os.environ.get(PERMISSIVE)
    os.environ[PERMISSIVE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[PERMISSIVE]
        else:
            os.environ[PERMISSIVE] = before


def straightened(path: Path, affine: np.ndarray, size: Sequence[int], error: Refusal) -> str:
    """A sentence about axes that ITK has straightened; refuses them when that moves a corner by half a voxel.

    Arguments:
      affine: (4, 4) IJK to RAS after straightening. size: voxels along i, j, k.
    """
    with _opened(path) as file:
        header = file.read(SIZE)
    given = np.reshape(struct.unpack((_byte_order(header, SIZE) or "<") + "12f", header[280:328]), (3, 4))
    far = np.array([(*corner, 1) for corner in product(*((0, n - 1) for n in size[:3]))])
    moved = np.linalg.norm(far @ (given - affine[:3]).T, axis=1).max()
    if not moved <= CROOKED * np.linalg.norm(affine[:3, :3], axis=0).min():
        raise error(
            f"{path.name} has axes that are not at right angles.",
            "Resample it to a regular grid first, in Slicer with Resample Scalar/Vector/DWI Volume.",
        )
    return f"The axes of {path.name} are not quite at right angles; they were straightened (by {moved:.2g} mm)."


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _byte_order(header: bytes, size: int) -> str | None:
    """The byte order in which the first number of a header is its size."""
    orders = (order for order in "<>" if len(header) >= 348 and struct.unpack(order + "i", header[:4])[0] == size)
    return next(orders, None)
