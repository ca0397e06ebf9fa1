"""Features of slices on disk, so that an encoder sees every slice once.

One file per slice, named by the hash of its key. A file is written under a temporary name and renamed; what a crash or
a bad disk leaves is caught by checksums when it is read, counts as missing, and is removed. Several processes may share
a cache. Format: docs/file-formats.md.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import struct
import time
import uuid
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..files import home

MAGIC = b"DESAMF1\n"
START = struct.Struct("<8sII")  # magic, length of the header, CRC-32 of the header
ALIGN = 64  # bytes; arrays start on cache lines
SUFFIX = ".features"
CODECS = ("float16", "int8")
DEFAULT_CODEC = "int8"
ABANDONED = 3600.0  # seconds after which a temporary file has no writer any more
BLOCK = 8192  # 64-bit words per block of the checksum
KEPT = 0.9  # of the limit, when something has to go
RECOUNT = 64  # files written between two looks at what other processes wrote


@dataclass(frozen=True)
class StoredFeatures:
    """Features of one slice as they lie in the file, mapped, not read.

    Attributes:
      arrays: by name (level0..2, neck): float16, float32, or int8.
      scales: per channel for int8 arrays, (C, 1, 1) float32, value = int8 * scale; None for the others.
    """

    arrays: dict[str, np.ndarray]
    scales: dict[str, np.ndarray | None]

    def dense(self, dtype: Any = np.float32) -> dict[str, np.ndarray]:
        """Plain arrays of one type; those that are of that type already are not copied."""
        return {name: self._dense(name, np.dtype(dtype)) for name in self.arrays}

    def _dense(self, name: str, dtype: np.dtype) -> np.ndarray:
        array, scale = self.arrays[name], self.scales[name]
        if scale is None:
            return array.astype(dtype, copy=False)
        values = array.astype(np.float32)
        values *= scale
        return values.astype(dtype, copy=False)


def as_stored(arrays: Mapping[str, np.ndarray], codec: str) -> StoredFeatures:
    """Arrays as they would come back from a cache with this codec, without going through a file."""
    pairs = {name: _quantise(np.asarray(array), codec) for name, array in arrays.items()}
    return StoredFeatures(
        {n: values for n, (values, _) in pairs.items()}, {n: scale for n, (_, scale) in pairs.items()}
    )


class FeatureCache:
    """A folder of features, bounded in size, the least recently used out first.

    Arguments:
      root: the folder; default: "cache" under the program's home.
      limit_bytes: more than this is not kept.
      codec: "int8" with a scale per channel, relative error up to 1 %, which costs no Dice (benchmarks/README.md);
        or "float16", twice the size.
    """

    def __init__(self, root: str | Path | None = None, limit_bytes: float = 20e9, codec: str = DEFAULT_CODEC) -> None:
        if codec not in CODECS:
            raise ValueError(f"codec must be one of {CODECS}, not {codec!r}")
        self.root = Path(root) if root is not None else home() / "cache"
        self.limit_bytes = int(limit_bytes)
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

    def put(self, key: str, arrays: Mapping[str, np.ndarray] | StoredFeatures) -> bool:
        """Stores arrays (C, ...) under a key. False when they could not be kept: a cache never stops a job.

        Values beyond the range of float16 are kept as float32. What is rounded already is taken as it is.
        """
        path = self.path(key)
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            parts = _encode(key, arrays if isinstance(arrays, StoredFeatures) else as_stored(arrays, self.codec))
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

    def room_bytes(self) -> int | None:
        """What the disk lets the cache grow to: what it takes already and what is free; None where nobody can say."""
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
            abandoned = path.suffix == ".tmp" and moment < time.time() - ABANDONED
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


def _quantise(array: np.ndarray, codec: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Values as they are stored, and the scale per channel for int8. Not finite, or too large: float32.

    A single map, such as a picture, stays float16: nothing averages its rounding out.
    """
    if array.size == 0 or array.ndim == 0:
        return array.astype(np.float32), None
    if array.shape[0] == 1:
        codec = "float16"
    others = tuple(range(1, array.ndim))
    low, high = array.min(axis=others, keepdims=True), array.max(axis=others, keepdims=True)
    peak = np.maximum(np.abs(low.astype(np.float32)), np.abs(high.astype(np.float32)))
    largest = peak.max()
    if not np.isfinite(largest) or (codec == "float16" and largest > np.finfo(np.float16).max):
        return array.astype(np.float32), None
    if codec == "float16":
        return array.astype(np.float16, copy=False), None
    scale = np.maximum(peak / 127.0, np.finfo(np.float32).tiny).astype(np.float32)
    return np.rint(array.astype(np.float32) / scale).astype(np.int8), scale


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
