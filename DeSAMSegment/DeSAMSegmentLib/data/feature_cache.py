"""Features of slices on disk, so that an encoder sees every slice once.

One file per slice, named by the hash of its key. A file is written under a temporary name and renamed; what a crash or
a bad disk leaves is caught by checksums when it is read, counts as missing, and is removed. Several processes may share
a cache. Format: docs/file-formats.md.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import shutil
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BadDataset
from ..files import ABANDONED, home, is_stray, mark, write_text

MAGIC = b"DESAMF1\n"
START = struct.Struct("<8sII")  # magic, length of the header, CRC-32 of the header
ALIGN = 64  # bytes; arrays start on cache lines
SUFFIX = ".features"
CODECS = ("float16", "int8")
DEFAULT_CODEC = "int8"
BLOCK = 8192  # 64-bit words per block of the checksum
KEPT = 0.9  # of the limit, when something has to go
RECOUNT = 64  # files written between two looks at what other processes wrote
GB = 1e9
DEFAULT_LIMIT = 20 * GB
SPARE = 1 * GB  # left to everybody else on the disk, or a tenth of the features where that is less
SETTINGS = "settings.json"  # in the home folder: what panel, console and command line have in common


def stored_limit() -> float:
    """How many bytes the cache may take on this computer, whichever face is used."""
    try:
        gigabytes = json.loads((home() / SETTINGS).read_text(encoding="utf-8"))["cache_gb"]
        return float(gigabytes) * GB if 0 <= gigabytes < math.inf else DEFAULT_LIMIT
    except (OSError, ValueError, KeyError, TypeError):
        return DEFAULT_LIMIT


def store_limit(limit_bytes: float) -> None:
    """Remembers another limit on this computer. Raises DiskFull."""
    write_text(home() / SETTINGS, json.dumps({"cache_gb": limit_bytes / GB}) + "\n")


@dataclass(frozen=True)
class StoredFeatures:
    """Features of one slice as they lie in the file, mapped, not read.

    Attributes:
      arrays: by name (level0..2, neck): float16, float32, or int8.
      scales: per channel for int8 arrays, (C, 1, 1) float32, value = int8 * scale; None for the others.
    """

    arrays: dict[str, np.ndarray]
    scales: dict[str, np.ndarray | None]


class FeatureCache:
    """A folder of features, bounded in size, the least recently used out first.

    Arguments:
      root: the folder; default: "cache" under the program's home.
      limit_bytes: more than this is not kept; default: what is stored on this computer (``stored_limit``).
      codec: "int8" with a scale per channel, relative error up to 1 %, which costs no Dice (benchmarks/README.md);
        or "float16", twice the size.
    """

    def __init__(
        self, root: str | Path | None = None, limit_bytes: float | None = None, codec: str = DEFAULT_CODEC
    ) -> None:
        if codec not in CODECS:
            raise ValueError(f"codec must be one of {CODECS}, not {codec!r}")
        self.root = Path(root) if root is not None else home() / "cache"
        self.limit_bytes = int(stored_limit() if limit_bytes is None else limit_bytes)
        self.codec = codec
        self._known_bytes: int | None = None  # what the folder held at the last look, plus own writes since
        self._writes = 0

    def path(self, key: str) -> Path:
        """The file of a key; the codec is part of it."""
        name = hashlib.sha256(f"{self.codec}:{key}".encode()).hexdigest()
        return self.root / name[:2] / f"{name}{SUFFIX}"

    def get(self, key: str) -> StoredFeatures | None:
        """What was stored under a key; None when there is nothing, or nothing sound."""
        path = self.path(key)
        try:
            with path.open("rb") as file:
                view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            stored = _decode(view, key)
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)  # the time of last use, which decides who goes first
        return stored

    def put(self, key: str, features: StoredFeatures) -> bool:
        """Stores features under a key. False when they could not be kept: a cache never stops a job."""
        path = self.path(key)
        temporary = path.with_name(f"{path.name}.{mark()}.tmp")
        try:
            parts = _encode(key, features)
            size = sum(len(part) for part in parts)
            if size > self.limit_bytes:
                return False
            self._make_room(size)
            path.parent.mkdir(parents=True, exist_ok=True)
            # No fsync: after a power cut the checksums tell, and a cache can be computed again.
            with temporary.open("wb") as file:
                for part in parts:
                    file.write(part)
            os.replace(temporary, path)
        except OSError:  # a full disk, a read-only folder, on Windows a file that another process has mapped
            return False
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        return True

    def size_bytes(self) -> int:
        """How much the cache takes on disk."""
        return sum(size for _, size, _ in self._files())

    @contextmanager
    def holding(self, images: int, each: int) -> Iterator[str]:
        """Lets the cache hold everything that one run reads again and again, so that none of it goes before it ends.

        Arguments:
          images: slices with all their augmentations. each: bytes that the features of one of them take.

        Yields:
          A sentence for the log; empty where the limit was enough.

        Raises:
          BadDataset: when the disk cannot hold them.
        """
        before, need = self.limit_bytes, images * each
        wanted = int(need / KEPT) + each  # a cache that is full keeps this much less than its limit
        budget = self.disk_budget()
        if budget is not None:
            largest = int(budget - min(SPARE, 0.1 * need))
            if wanted > largest:
                raise BadDataset(
                    f"The features of {images} images (slices with their augmentations) need {wanted / GB:.3g} GB, "
                    f"and {self.root} can hold {max(0, largest) / GB:.3g} GB.",
                    "Use fewer style augmentations, views or cases, or a folder on a larger disk.",
                    kind="features-too-large",
                )
            self.limit_bytes = min(before, largest)  # what is older goes before the disk is full
        text = ""
        if wanted > self.limit_bytes:
            self.limit_bytes = wanted
            text = (
                f"The features of this training need {need / GB:.3g} GB: {self.root} may grow to {wanted / GB:.3g} GB."
            )
        try:
            yield text
        finally:
            self.limit_bytes = before

    def disk_budget(self) -> int | None:
        """What the disk lets the cache grow to, bytes: what it takes already and what is free; None if unknown."""
        folder = next(parent for parent in (self.root, *self.root.absolute().parents) if parent.exists())
        try:
            return self.size_bytes() + shutil.disk_usage(folder).free
        except OSError:
            return None

    def clear(self) -> None:
        """Deletes everything in the cache that is the cache's own."""
        for _, _, path in self._files():
            with suppress(OSError):
                path.unlink()
        for folder in self.root.glob("??"):
            with suppress(OSError):
                folder.rmdir()
        self._known_bytes = 0

    def _files(self) -> list[tuple[float, int, Path]]:
        """(time of last use, size, path) of every file, temporary ones included."""
        found = []
        for pattern in (f"??/*{SUFFIX}", f"??/*{SUFFIX}.*.tmp"):
            for path in self.root.glob(pattern):
                with suppress(OSError):  # gone meanwhile
                    stat = path.stat()
                    found.append((stat.st_mtime, stat.st_size, path))
        return found

    def _make_room(self, size: int) -> None:
        """Deletes the least recently used files until ``size`` more bytes fit, with a tenth to spare."""
        self._writes += 1
        if self._known_bytes is not None and self._writes % RECOUNT and self._known_bytes + size <= self.limit_bytes:
            self._known_bytes += size
            return
        files = sorted(self._files())
        used = sum(each for _, each, _ in files)
        goal = (self.limit_bytes if used + size <= self.limit_bytes else int(KEPT * self.limit_bytes)) - size
        for moment, each, path in files:
            abandoned = path.suffix == ".tmp" and (is_stray(path) or moment < time.time() - ABANDONED)
            if (used > goal and path.suffix != ".tmp") or abandoned:
                with suppress(OSError):
                    path.unlink()
                    used -= each
        self._known_bytes = used + size


def _encode(key: str, features: StoredFeatures) -> list[bytes | memoryview]:
    """The pieces of a file in order."""
    header: dict[str, Any] = {"key": key, "arrays": {}}
    pieces: list[memoryview] = []
    offset = 0

    def add(array: np.ndarray) -> dict[str, Any]:
        nonlocal offset
        data = np.ascontiguousarray(array)
        raw = memoryview(data.reshape(-1).view(np.uint8))
        entry = {"dtype": data.dtype.str, "shape": data.shape, "offset": offset, "sum": _checksum(raw)}
        gap = -len(raw) % ALIGN
        pieces.extend((raw, memoryview(bytes(gap))))
        offset += len(raw) + gap
        return entry

    for name, values in features.arrays.items():
        entry = add(values)
        scale = features.scales[name]
        if scale is not None:
            entry["scale"] = add(scale)
        header["arrays"][name] = entry
    header["bytes"] = offset
    text = json.dumps(header).encode()
    text += b" " * (-(START.size + len(text)) % ALIGN)
    return [START.pack(MAGIC, len(text), zlib.crc32(text)), text, *pieces]


def _decode(view: mmap.mmap, key: str) -> StoredFeatures:
    """Raises ValueError for a file that is cut, changed, or another key's."""
    if len(view) < START.size:
        raise ValueError("cut")
    magic, length, crc = START.unpack(view[: START.size])
    text = view[START.size : START.size + length]
    if magic != MAGIC or len(text) != length or zlib.crc32(text) != crc:
        raise ValueError("header")
    header = json.loads(text)
    base = START.size + length
    if header["key"] != key or len(view) != base + header["bytes"]:
        raise ValueError("another key, or cut")
    raw = memoryview(view)

    def read(entry: dict[str, Any]) -> np.ndarray:
        dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
        size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        data = raw[base + entry["offset"] :][:size]
        if _checksum(data) != entry["sum"]:
            raise ValueError("checksum")
        return np.frombuffer(data, dtype).reshape(shape)

    arrays = {name: read(entry) for name, entry in header["arrays"].items()}
    scales = {name: read(entry["scale"]) if "scale" in entry else None for name, entry in header["arrays"].items()}
    return StoredFeatures(arrays, scales)


def _checksum(data: memoryview) -> int:
    """CRC-32 over the sums of 64 KB blocks: as fast as memory, and no changed byte goes unseen."""
    whole = len(data) // (8 * BLOCK) * (8 * BLOCK)
    sums = np.frombuffer(data[:whole], np.uint64).reshape(-1, BLOCK).sum(axis=1, dtype=np.uint64)
    return zlib.crc32(data[whole:], zlib.crc32(sums.tobytes()))
