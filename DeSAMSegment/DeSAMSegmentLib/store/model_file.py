"""A model is one file, NAME.desam: safetensors with the card in the header. Nothing is ever unpickled from it.

Since format 2 the header also holds the SHA-256 of the whole file, its own 64 digits counted as zeros: a file with any
byte changed is refused. Files of format 1 have no digest and are read as before.

Published checkpoints are pickles; ``read_checkpoint`` lets torch read tensors out of them and nothing else.
"""

from __future__ import annotations

import hashlib
import struct
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..errors import BadModelFile
from ..files import atomic_path, parse_json
from .card import FORMAT_VERSION, ModelCard

if TYPE_CHECKING:
    from torch import Tensor

KEY = "desam"  # the header field that holds the card
DIGEST = "sha256"  # the one that holds the digest
ZEROS = "0" * 64
HEADER_LIMIT = 10_000_000  # bytes; a card of 10,000 cases has 2
GET_AGAIN = "Copy or download it again."


def write_model(path: str | Path, tensors: dict[str, Tensor], card: ModelCard) -> None:
    """Writes a model in one piece.

    Arguments:
      path: by custom NAME.desam. tensors: on any device; stored contiguous on the CPU.

    Raises:
      DiskFull: an older file of that name is then untouched.
    """
    from safetensors.torch import save

    card = replace(card, format_version=FORMAT_VERSION)
    card.check()
    plain = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}
    data = save(plain, metadata={"format": "pt", KEY: card.to_json(), DIGEST: ZEROS})
    digest = hashlib.sha256(data).hexdigest()
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.replace(_field(ZEROS), _field(digest), 1))


def _field(digest: str) -> bytes:
    """The digest as it stands in the header; in the card, a JSON text inside, its quotes would be escaped."""
    return f'"{DIGEST}":"{digest}"'.encode()


def read_model(path: str | Path) -> tuple[dict[str, Tensor], ModelCard]:
    """All tensors, on the CPU, and the card.

    Raises:
      BadModelFile: missing, cut, damaged, a pickle, safetensors of something else, or with values that are no numbers.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(path)
    card = read_card(path)
    try:
        tensors = load(path.read_bytes())
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as problem:
        raise BadModelFile(f"The model {path.name} cannot be read ({problem}).", GET_AGAIN) from None
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise BadModelFile(
                f"The model {path.name} holds values that are no numbers (in {name}).",
                "Its training failed or the file is damaged: use another model.",
            )
    return tensors, card


def read_card(path: str | Path) -> ModelCard:
    """The card alone; also checks the digest, and that the file is as long as its header says. No torch.

    Raises:
      BadModelFile: as ``read_model``.
    """
    path = Path(path)
    metadata = _metadata(path)
    text = metadata.get(KEY)
    if not isinstance(text, str):
        raise BadModelFile(
            f"{path.name} holds tensors, but not a DeSAM model.",
            "Choose a .desam file made by training, or import a published checkpoint.",
        )
    try:
        card = ModelCard.from_json(text)
    except BadModelFile as problem:
        raise BadModelFile(f"{path.name}: {problem.what}", problem.do) from None
    if card.format_version > 1 and DIGEST not in metadata:
        raise BadModelFile(f"The model {path.name} is damaged: its digest is missing.", GET_AGAIN)
    return card


def _metadata(path: Path) -> dict[str, Any]:
    """What the JSON header of a safetensors file (8 bytes of length, header, data) says beside its tensors, if the file
    is complete and as its digest says.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise BadModelFile(f"{path.name} is not a file.", "Choose a .desam file.")  # a pipe: opening it would wait
        with path.open("rb") as file:
            start = file.read(8)
            if start[:2] in (b"PK", b"\x80\x02", b"\x80\x04"):
                raise BadModelFile(
                    f"{path.name} is a PyTorch pickle, not a model file.",
                    "A pickle can run any program, so it is not opened; import published checkpoints instead.",
                )
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= HEADER_LIMIT:
                raise BadModelFile(f"{path.name} is not a model file.", "Choose a .desam file.")
            text = file.read(length)
            if len(text) < length:
                raise BadModelFile(f"The model {path.name} is cut short.", GET_AGAIN)
            header = parse_json(text)
            metadata = header.pop("__metadata__", {})
            digest = str(metadata.get(DIGEST, ""))
            size = 8 + length + max((int(item["data_offsets"][1]) for item in header.values()), default=0)
            if path.stat().st_size < size:
                raise BadModelFile(f"The model {path.name} is cut short.", GET_AGAIN)
            if digest and digest != _digest(start + text.replace(_field(digest), _field(ZEROS), 1), file):
                raise BadModelFile(f"The model {path.name} is damaged: its SHA-256 is wrong.", GET_AGAIN)
    except IsADirectoryError:
        raise BadModelFile(f"{path} is a folder, not a model file.", "Choose a .desam file in it.") from None
    except FileNotFoundError:
        raise BadModelFile(f"There is no model file {path}.", "Check its path.", kind="no-model-file") from None
    except OSError as problem:
        raise BadModelFile(f"{path} cannot be opened ({problem.strerror}).", "Check its permissions.") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise BadModelFile(f"{path.name} is not a model file.", "Choose a .desam file.") from None
    return metadata


def _digest(head: bytes, file: IO[bytes]) -> str:
    digest = hashlib.sha256(head)
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def read_checkpoint(path: str | Path, check: bool = False) -> dict[str, Tensor]:
    """The tensors of a published .pth (or safetensors) checkpoint, unwrapped from "model" or "state_dict".

    Memory-mapped where the file allows it, so that 2.5 GB are read as they are used.

    Arguments:
      check: read all of it for its checksums; not needed where the SHA-256 of the file is known.

    Raises:
      BadModelFile: missing, damaged, or holding anything but tensors.
    """
    import pickle

    path = Path(path)
    if not path.is_file():
        raise BadModelFile(f"There is no checkpoint {path}.", "Check the spelling and the folder.")
    try:
        if check:
            check_zip(path)
        loaded = _loaded(path)
    except pickle.UnpicklingError as problem:
        if "weights_only" in str(problem).lower() or "Unsupported" in str(problem):
            raise BadModelFile(
                f"{path.name} holds more than tensors, which could run a program when opened.",
                "Ask its author for a checkpoint with weights only.",
            ) from None
        raise BadModelFile(f"{path.name} is not a checkpoint.", GET_AGAIN) from None
    except Exception as problem:  # torch raises whatever its unpickler met: all of it means a bad file
        reason = str(problem).splitlines()[0][:120] if str(problem) else type(problem).__name__
        raise BadModelFile(f"The checkpoint {path.name} cannot be read ({reason}).", GET_AGAIN) from None
    return _unwrapped(loaded, path)


def _loaded(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd pickles: they fail in words of our own
        mapped = zipfile.is_zipfile(path)  # the format before torch 1.6 cannot be mapped
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def check_zip(path: Path) -> None:
    """Compares every part of a file of torch's with its checksum, which torch's own reader does not.

    Files of torch before 1.6 have none. Raises ValueError.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except Exception as problem:  # zipfile and zlib raise whatever they met
        raise ValueError(str(problem)) from None
    if bad is not None:
        raise ValueError(f"the checksum of {bad} is wrong")


def _unwrapped(loaded: Any, path: Path) -> dict[str, Tensor]:
    import torch

    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not loaded:
        raise BadModelFile(f"{path.name} holds no tensors by name.", "Choose a checkpoint of SAM or of DeSAM.")
    tensors = {str(k).removeprefix("module."): v for k, v in loaded.items() if isinstance(v, torch.Tensor)}
    if not tensors:
        raise BadModelFile(f"{path.name} holds no tensors by name.", "Choose a checkpoint of SAM or of DeSAM.")
    return tensors
