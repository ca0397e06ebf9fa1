"""Records as JSON lines.

Plain JSON values stand for themselves. Everything else is an object with the key ``~`` that names its kind:
arrays (zlib + base64 with shape, dtype and digest; those that are mapped from an ``.npy`` file, or too large for a
line, go by file), paths, tuples, dicts with keys that are no strings, and the dataclasses of ``engine/events.py``,
``engine/options.py`` and ``requests.py`` with the volumes and cases they carry. Result objects the client has no class
for arrive as ``SimpleNamespace``.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import mmap
import uuid
import zlib
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..data.cases import Case
from ..data.volume import Volume
from ..engine import events, options
from ..store.card import LabelInfo
from . import requests

VERSION = 3
INLINE_BYTES = 4_000_000  # arrays beyond this are better mapped from a file than squeezed through a pipe


def _records() -> dict[str, type]:
    found: dict[str, type] = {each.__name__: each for each in (LabelInfo, Volume, Case)}
    for module in (events, options, requests):
        for name, value in vars(module).items():
            if isinstance(value, type) and dataclasses.is_dataclass(value):
                found[name] = value
    return found


RECORDS = _records()
KINDS: dict[str, tuple[type, ...]] = {  # what a field may hold, by the words of its annotation
    **{kind.__name__: (kind,) for kind in (str, int, bool, dict, list, tuple, Path, *RECORDS.values())},
    "float": (int, float),
    "None": (type(None),),
    "np.ndarray": (np.ndarray,),
}


def to_line(message: Any, folder: Path | None = None) -> bytes:
    """One JSON line; ``folder`` is where arrays too large for a line are put."""
    return json.dumps(pack(message, folder), separators=(",", ":")).encode() + b"\n"


def from_line(line: bytes) -> Any:
    """The message of one line.

    Raises:
      ValueError: when the line is not a message.
    """
    try:
        return unpack(json.loads(line))
    except Exception as error:  # a line can ask for any record, array or file
        raise ValueError(f"not a message: {type(error).__name__}: {error}") from error


def pack(value: Any, folder: Path | None = None) -> Any:
    """``value`` in JSON's own types."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return _pack_array(value, folder)
    if isinstance(value, Path):
        return {"~": "path", "path": str(value)}
    if isinstance(value, list):
        return [pack(item, folder) for item in value]
    if isinstance(value, tuple):
        return {"~": "tuple", "items": [pack(item, folder) for item in value]}
    if isinstance(value, dict):
        return _pack_dict(value, folder)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: pack(getattr(value, f.name), folder) for f in dataclasses.fields(value)}
        return {"~": type(value).__name__, "fields": fields}
    return str(value)


def _pack_dict(value: dict[Any, Any], folder: Path | None) -> Any:
    if all(isinstance(key, str) for key in value) and "~" not in value:
        return {key: pack(item, folder) for key, item in value.items()}
    return {"~": "pairs", "items": [[pack(key), pack(item, folder)] for key, item in value.items()]}


def _pack_array(array: np.ndarray, folder: Path | None) -> dict[str, Any]:
    file = str(getattr(array, "filename", ""))
    if isinstance(array.base, mmap.mmap) and file.endswith(
        ".npy"
    ):  # all of a file: a part of one is based on that array
        return {"~": "npy", "path": file}
    if folder is not None and array.nbytes > INLINE_BYTES:
        path = folder / f"{uuid.uuid4().hex}.npy"
        np.save(path, array)
        return {"~": "npy", "path": str(path)}
    raw = np.ascontiguousarray(array).tobytes()
    data = base64.b64encode(zlib.compress(raw, 1)).decode()
    digest = hashlib.sha256(raw).hexdigest()
    return {"~": "array", "shape": list(array.shape), "dtype": array.dtype.str, "sha256": digest, "data": data}


def unpack(value: Any) -> Any:
    """The inverse of ``pack``."""
    if isinstance(value, list):
        return [unpack(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get("~")
    if kind is None:
        return {key: unpack(item) for key, item in value.items()}
    if kind == "array":
        raw = zlib.decompress(base64.b64decode(value["data"]))
        if hashlib.sha256(raw).hexdigest() != value["sha256"]:
            raise ValueError("an array whose digest is another")
        return np.frombuffer(raw, np.dtype(value["dtype"])).reshape(value["shape"])
    if kind == "npy":
        return np.load(value["path"], mmap_mode="r")
    if kind == "path":
        return Path(value["path"])
    if kind == "tuple":
        return tuple(unpack(item) for item in value["items"])
    if kind == "pairs":
        return {unpack(key): unpack(item) for key, item in value["items"]}
    fields = {name: unpack(item) for name, item in value["fields"].items()}
    return _record(RECORDS[kind], fields) if kind in RECORDS else SimpleNamespace(**fields)


def _record(kind: type, fields: dict[str, Any]) -> Any:
    for each in dataclasses.fields(kind):
        wanted = _kinds(str(each.type))
        if wanted and each.name in fields and not isinstance(fields[each.name], wanted):
            raise ValueError(f"{each.name} of {kind.__name__} is no {each.type}")
    return kind(**fields)


@cache
def _kinds(annotation: str) -> tuple[type, ...]:
    """The classes that an annotation allows; none where it says more than is checked."""
    names = [part.split("[")[0].strip() for part in annotation.split(" | ")]
    return sum((KINDS[name] for name in names), ()) if all(name in KINDS for name in names) else ()
