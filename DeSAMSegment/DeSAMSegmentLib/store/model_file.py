"""A model is one file, NAME.desam: safetensors with the card in the header. Nothing is ever unpickled from it.

Published checkpoints are pickles; ``read_checkpoint`` lets torch read tensors out of them and nothing else.
"""

from __future__ import annotations

import json
import struct
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadModelFile
from ..files import atomic_path
from .card import ModelCard

if TYPE_CHECKING:
    from torch import Tensor

KEY = "desam"  # the header field that holds the card
HEADER_LIMIT = 100_000_000  # bytes; the limit of the safetensors format
GET_AGAIN = "Copy or download it again."


def write_model(path: str | Path, tensors: dict[str, Tensor], card: ModelCard) -> None:
    """Writes a model in one piece.

    Arguments:
      path: by custom NAME.desam. tensors: on any device; stored contiguous on the CPU.

    Raises:
      DiskFull: an older file of that name is then untouched.
    """
    from safetensors.torch import save

    card.check()
    plain = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}
    data = save(plain, metadata={"format": "pt", KEY: card.to_json()})
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def read_model(path: str | Path) -> tuple[dict[str, Tensor], ModelCard]:
    """All tensors, on the CPU, and the card.

    Raises:
      BadModelFile: missing, cut, a pickle, or safetensors of something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(path)
    card = read_card(path)
    try:
        return load(path.read_bytes()), card
    except (SafetensorError, OSError, ValueError, KeyError) as problem:
        raise BadModelFile(f"The model {path.name} cannot be read ({problem}).", GET_AGAIN) from None


def read_card(path: str | Path) -> ModelCard:
    """The card alone; also checks that the file is as long as its header says. No torch.

    Raises:
      BadModelFile: as ``read_model``.
    """
    path = Path(path)
    header = _header(path)
    text = header.get("__metadata__", {}).get(KEY)
    if not isinstance(text, str):
        raise BadModelFile(
            f"{path.name} holds tensors, but not a DeSAM model.",
            "Choose a .desam file made by training, or import a published checkpoint.",
        )
    try:
        return ModelCard.from_json(text)
    except BadModelFile as problem:
        raise BadModelFile(f"{path.name}: {problem.what}", problem.do) from None


def _header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file that is complete (8 bytes of length, header, data)."""
    try:
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
            size = path.stat().st_size
        if len(text) < length:
            raise BadModelFile(f"The model {path.name} is cut short.", GET_AGAIN)
        header = json.loads(text)
        ends = [item["data_offsets"][1] for name, item in header.items() if name != "__metadata__"]
        if not isinstance(header.get("__metadata__", {}), dict):
            raise ValueError("metadata")
    except IsADirectoryError:
        raise BadModelFile(f"{path} is a folder, not a model file.", "Choose a .desam file in it.") from None
    except FileNotFoundError:
        raise BadModelFile(f"There is no model file {path}.", "Check its path.", kind="no-model-file") from None
    except OSError as problem:
        raise BadModelFile(f"{path} cannot be opened ({problem.strerror}).", "Check its permissions.") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise BadModelFile(f"{path.name} is not a model file.", "Choose a .desam file.") from None
    if size < 8 + length + max(ends, default=0):
        raise BadModelFile(f"The model {path.name} is cut short.", GET_AGAIN)
    return header


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a published .pth (or safetensors) checkpoint, unwrapped from "model" or "state_dict".

    Memory-mapped where the file allows it, so that 2.5 GB are read as they are used.

    Raises:
      BadModelFile: missing, damaged, or holding anything but tensors.
    """
    import pickle

    import torch

    path = Path(path)
    if not path.is_file():
        raise BadModelFile(f"There is no checkpoint {path}.", "Check the spelling and the folder.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            loaded: Any = load_file(path)
        else:
            mapped = zipfile.is_zipfile(path)  # the format before torch 1.6 cannot be mapped
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about odd pickles: they fail in words of our own
                loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
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
