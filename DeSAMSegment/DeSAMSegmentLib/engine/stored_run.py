"""What a training run was started with, read back from its ``config.json``; needs no torch, so the panel can ask."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..errors import BadInput
from .options import TrainOptions

CONFIG = "config.json"


def read_config(folder: str | Path) -> dict[str, Any]:
    """The configuration of the run in a folder.

    Raises:
      BadInput: when there is none, or it is damaged.
    """
    path = Path(folder) / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInput(f"{folder} holds no training run to resume.", "Start it without --resume.") from error
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    if not isinstance(config, dict) or not isinstance(config.get("options"), dict):
        raise _damaged(path, "it has no options")
    return config


def stored_options(folder: str | Path) -> TrainOptions:
    """The options of the run in a folder: an exact resume needs the same.

    Raises:
      BadInput: as ``read_config``.
    """
    known = {field.name for field in fields(TrainOptions)}
    stored: dict[str, Any] = {key: value for key, value in read_config(folder)["options"].items() if key in known}
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
    options = TrainOptions(**values)
    try:
        valid, reason = options.is_valid()
    except TypeError as error:
        valid, reason = False, str(error)
    if not valid:
        raise _damaged(Path(folder) / CONFIG, reason)
    return options


def stored_cases(folder: str | Path) -> list[str]:
    """The names of the cases of the run in a folder, in its order.

    Raises:
      BadInput: as ``read_config``.
    """
    return [str(name) for name in read_config(folder).get("cases", [])]


def _damaged(path: Path, why: object) -> BadInput:
    what = f"{path} is damaged ({why})."
    return BadInput(what, "The models best.desam and last.desam are whole: start a new run from one of them (--base).")
