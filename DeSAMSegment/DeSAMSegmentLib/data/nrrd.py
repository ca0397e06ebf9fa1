"""NRRD files by pynrrd: exact affines, and the fields in which Slicer keeps names, values and layers of segments."""

from __future__ import annotations

import bz2
import errno
import re
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import nrrd
import numpy as np

from ..errors import printable
from .volume import COPY_AGAIN, EXTRACT_COMPONENT, LPS_FROM_RAS, NO_VOXEL_SIZE, TO_GREY, Refusal

RAS_FROM_SPACE = {
    "right-anterior-superior": np.eye(3),
    "left-anterior-superior": np.diag([-1.0, 1.0, 1.0]),
    "left-posterior-superior": LPS_FROM_RAS,
    **dict.fromkeys(("", "scanner-xyz", "3d-right-handed", "3d-left-handed"), LPS_FROM_RAS),
}
AXES = {"axis mins", "axis maxs", "axismins", "axismaxs"}
MM = {"", "mm", "millimeter", "millimeters", "millimetre", "millimetres", "???", "nan", "none"}
COLOURS = ("vector", "rgb-color", "rgba-color", "3-color", "4-color")  # kinds of an axis; frames are a list or time
MOST_LINES = 1_000_000  # to skip before the voxels
SHORT = {"ras": "right-anterior-superior", "las": "left-anterior-superior", "lps": "left-posterior-superior"}


def read_nrrd(path: Path, error: Refusal) -> tuple[np.ndarray, np.ndarray, str, dict[str, str]]:
    """Voxels (K, J, I), or (K, J, I, N) of several per place; the (4, 4) IJK-to-RAS matrix; a note on sizes and units
    that are not given as usual; the writer's own fields.

    Raises:
      error: not NRRD, cut short, damaged (a gzip is read to its checksum), without the file of its voxels.
    """
    header, array = _stored(path, error)
    fields = _own_fields(path)
    directions = np.atleast_2d(np.asarray(header.get("space directions", np.zeros((0, 3))), float))
    steps = np.asarray(header.get("spacings", np.ones(array.ndim)), float)
    listed = [n for n, vector in enumerate(directions if len(directions) else steps[:, None]) if np.isnan(vector).all()]
    if listed and array.ndim > 3:  # its place in the array is the other way round
        array = np.moveaxis(array, array.ndim - 1 - listed[0], -1)
        directions, steps = (np.delete(each, listed[0], axis=0) if len(each) else each for each in (directions, steps))
        if array.shape[-1] > 1 and not is_segmentation(fields):
            kinds = header.get("kinds") or ["list"] * array.ndim
            if str(kinds[listed[0]]).lower() in COLOURS and array.shape[-1] in (3, 4):
                raise error(f"{path.name} is a colour image ({array.shape[-1]} values per voxel).", TO_GREY)
            raise error(f"{path.name} is a series of {array.shape[-1]} frames, not one volume.", EXTRACT_COMPONENT)
    if not len(directions) and AXES & header.keys():
        what = f"{path.name} says where it lies by axis mins and maxs, which programs read differently."
        raise error(what, "Save it again with space directions, as 3D Slicer does.")
    try:
        affine = _affine(header, directions, steps)
    except KeyError as space:
        raise error(f"{path.name} lies in the space {space}, which is unknown.", "Save it again as LPS.") from None
    except (ValueError, TypeError):  # two numbers where three belong
        raise error(f"{path.name} has a damaged header: its directions and origin do not fit.", COPY_AGAIN) from None
    return array, affine, _note(path, header), fields


def _note(path: Path, header: dict) -> str:
    if not {"space directions", "spacings"} & header.keys():
        return NO_VOXEL_SIZE.format(path.name)
    units = {str(unit).strip('"').lower() for unit in header.get("space units", header.get("units", []))} - MM
    wrong = f"3D Slicer and DeSAM read the geometry of {path.name} in mm, not in {', '.join(sorted(units))}."
    return wrong if units else ""


def _stored(path: Path, error: Refusal) -> tuple[dict, np.ndarray]:
    """The header, and the voxels as they are stored, axes reversed, in the machine's byte order. Raises error."""
    try:
        with path.open("rb") as file:
            header = nrrd.read_header(file)
            _check_stream(path, header, file)
            array = nrrd.read_data(header, file, str(path), index_order="C")
            return header, array.astype(array.dtype.newbyteorder("="), copy=False)
    except FileNotFoundError as problem:
        raise error(f"{path.name} has its voxels in {problem.filename}, which is missing.", "Copy both.") from None
    except EOFError:
        raise error(f"{path.name} is cut short.", COPY_AGAIN) from None
    except (zlib.error, OSError, DamagedStream) as problem:
        if isinstance(problem, OSError) and problem.errno:
            raise  # the file system's; bzip2 has none
        raise error(f"{path.name} is damaged inside.", COPY_AGAIN) from None
    except (nrrd.NRRDError, ValueError, KeyError, IndexError, TypeError, OverflowError) as problem:
        if "Unsupported encoding" in str(problem):
            encoding = str(problem).rpartition(" ")[2]
            raise error(f"{path.name} is encoded as {encoding}.", "Save it again, as raw or gzip.") from None
        short = any(words in str(problem) for words in ("reshape", "buffer size", "Size of the data"))
        what = "is cut short, or longer than announced" if short else "is not an NRRD file, or has a damaged header"
        raise error(f"{path.name} {what}.", COPY_AGAIN) from None


class DamagedStream(Exception):
    """A compressed stream that makes no sense, or whose checksum is wrong."""


def _check_stream(path: Path, header: dict, file: IO[bytes]) -> None:
    """Whether compressed voxels are whole, to their checksum, which pynrrd does not wait for; raw ones have none.

    Raises ValueError, DamagedStream, EOFError, OSError.
    """
    if int(header.get("lineskip", header.get("line skip", 0))) > MOST_LINES:
        raise ValueError("line skip")  # it would count them one by one
    name = header.get("datafile", header.get("data file"))
    detached = path.parent / name if name else None
    if detached and not detached.is_file():
        raise FileNotFoundError(errno.ENOENT, "", str(detached))
    kind = {"gz": "gzip", "bz2": "bzip2"}.get(header["encoding"], header["encoding"])
    if kind not in ("gzip", "bzip2"):
        return
    with ExitStack() as held:
        data = held.enter_context(detached.open("rb")) if detached else file
        start = data.tell()
        stream = zlib.decompressobj(zlib.MAX_WBITS | 16) if kind == "gzip" else bz2.BZ2Decompressor()
        try:
            while not stream.eof and (block := data.read(1 << 20)):
                stream.decompress(block)
        except (zlib.error, OSError, ValueError):
            raise DamagedStream from None
        if not stream.eof:
            raise EOFError
        data.seek(start)


def is_segmentation(fields: dict[str, str]) -> bool:
    """Whether Slicer wrote the file as a segmentation."""
    return "Segment0_Name" in fields or "Segment0_ID" in fields


def _affine(header: dict, directions: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """IJK to RAS; a space that names no directions of the patient's body is LPS, as ITK and Slicer have it.

    Raises KeyError for a space that NRRD does not know, ValueError, TypeError.
    """
    space = re.sub("(-time|(?<=^...)t)$", "", str(header.get("space", "")).lower())  # time is an axis more
    turn = RAS_FROM_SPACE[SHORT.get(space, space)]
    affine = np.eye(4)
    if directions.shape == (2, 2):  # a flat image in a space of its own: its turn in it means nothing here
        steps, directions = np.linalg.norm(directions, axis=1), directions[:0]
    if len(directions):  # four with time, of which one frame may be a volume
        affine[:3, :3] = turn @ directions[:3, :3].T.reshape(3, 3)
        affine[:3, 3] = turn @ np.asarray(header.get("space origin", np.zeros(3)), float)[:3]
    else:
        affine[:3, :3] = turn @ np.diag([*steps, 1.0, 1.0][:3])
    return affine


def _own_fields(path: Path) -> dict[str, str]:
    """What a program wrote besides, ``key:=value``; in UTF-8, of which pynrrd would drop all but ASCII."""
    with path.open("rb") as file:
        lines = iter(lambda: file.readline(1 << 20).rstrip(b"\r\n"), b"")
        pairs = (line.decode("utf-8", "replace").partition(":=") for line in lines)
        return {key: printable(value) for key, mark, value in pairs if mark}
