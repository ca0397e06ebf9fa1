"""What a model file says about itself: labels, backbone, preprocessing, how it was trained.

No torch here: a panel or ``desam models list`` reads cards without loading anything.
"""

from __future__ import annotations

import json
import math
import platform
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime, timezone
from importlib import metadata
from typing import Any

from .. import __version__
from ..errors import BadModelFile, printable
from ..files import parse_json

FORMAT_VERSION = 2  # 2: a digest over the whole file; PRIM may be named instead of carried
PACKAGES = ("torch", "monai", "numpy", "SimpleITK")  # that a result depends on


@dataclass(frozen=True)
class LabelInfo:
    """One label of a model: its value in a label map and how 3D Slicer shows it.

    Attributes:
      color: red, green, blue, 0..255.
      terminology: Slicer's serialised terminology entry; empty means generic tissue.
    """

    value: int
    name: str
    color: tuple[int, int, int] = (128, 174, 128)
    terminology: str = ""


@dataclass(frozen=True)
class ModelCard:
    """The JSON in the header of a .desam file.

    Attributes:
      labels: what the model finds, in the order of its decoders.
      backbone, backbone_sha256: the frozen encoder it needs, by id and by content.
      prim_sha256: of the tensors of PRIM that the file leaves to the weights of the backbone; empty if it carries all.
      architecture: ``DeSAMConfig.to_dict()``.
      slices: ``SliceSpec.to_dict()`` it was trained with.
      inference: recommended mode, points, iou_threshold, largest_component, one_stretch.
      confidence: label value -> mean probabilities of a mask for which Dice 0 and Dice 1 are expected, from validation.
      training: cases, split, seed, epochs, losses, Dice per case, time, device.
      software: versions of what trained it.
      licence: of this file's weights. created: ISO date and time.
    """

    name: str
    labels: tuple[LabelInfo, ...]
    backbone: str
    backbone_sha256: str = ""
    prim_sha256: str = ""
    title: str = ""
    description: str = ""
    architecture: dict[str, Any] = field(default_factory=dict)
    slices: dict[str, Any] = field(default_factory=dict)
    inference: dict[str, Any] = field(default_factory=dict)
    confidence: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    software: dict[str, Any] = field(default_factory=dict)
    licence: str = ""
    created: str = ""
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """One JSON object, keys in the order of the fields. Raises TypeError for what JSON cannot hold."""
        return json.dumps(json_ready(self), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """The card of a model file; fields of later versions are ignored.

        Raises:
          BadModelFile: no JSON object, a format that is too new, or without name, labels or backbone.
        """
        try:
            raw = _clean(parse_json(text))
            version = int(raw.get("format_version", 0))
            if version > FORMAT_VERSION:
                raise BadModelFile(
                    f"The model file has format {version}; this program knows formats up to {FORMAT_VERSION}.",
                    "Update DeSAM.",
                )
            known = {f.name for f in fields(cls)}
            values = {key: value for key, value in raw.items() if key in known}
            values["labels"] = tuple(_label(item) for item in raw["labels"])
            card = cls(**values)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            raise BadModelFile("The model's card cannot be read.", "Get the model file again.") from None
        card.check()
        return card

    def check(self) -> None:
        """Raises BadModelFile when the card contradicts itself."""
        values = [label.value for label in self.labels]
        tables = (self.architecture, self.slices, self.inference, self.confidence, self.training, self.software)
        texts = (self.name, self.backbone, self.backbone_sha256, self.prim_sha256, self.title, self.description,
                 self.licence, self.created)  # fmt: skip
        good = (
            bool(values)
            and len(set(values)) == len(values)
            and all(1 <= value <= 65535 for value in values)
            and all(label.name.strip() for label in self.labels)
            and all(isinstance(table, dict) for table in tables)
            and all(isinstance(text, str) for text in texts)
            and isinstance(self.inference.get("mode", ""), str)
            and not any(isinstance(value, dict | list) for value in self.inference.values())
            and all(_is_line(each) for each in self.confidence.values())
            and isinstance(self.training.get("cases", []), list)
            and self.name.strip()
            and self.backbone
        )
        if not good:
            raise BadModelFile("The model's card is not consistent.", "Get the model file again.")


def _is_line(value: Any) -> bool:
    """Whether it is two rising numbers."""
    numbers = isinstance(value, list | tuple) and all(type(each) in (int, float) for each in value)
    return numbers and len(value) == 2 and -10 < value[0] < value[1] < 10


def _label(raw: dict[str, Any]) -> LabelInfo:
    red, green, blue = (min(255, max(0, int(channel))) for channel in raw.get("color", (128, 174, 128)))
    return LabelInfo(int(raw["value"]), str(raw["name"]), (red, green, blue), str(raw.get("terminology", "")))


def _clean(value: Any) -> Any:
    """The same JSON with texts that can be shown anywhere."""
    if isinstance(value, dict):
        return {printable(key): _clean(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_clean(each) for each in value]
    return printable(value) if isinstance(value, str) else value


def json_ready(value: Any) -> Any:
    """What JSON knows: records, numpy values, paths and sets converted; numbers that are not finite become null.

    Raises:
      TypeError: for anything else.
    """
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        return {str(key): json_ready(each) for key, each in value.items()}
    if isinstance(value, set | frozenset):
        value = sorted(value)
    if isinstance(value, list | tuple):
        return [json_ready(each) for each in value]
    if hasattr(value, "tolist"):
        return json_ready(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None  # the Dice of a case that never had the label must not cost a finished training
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if hasattr(value, "__fspath__"):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in JSON")


def software() -> dict[str, str]:
    """Versions of this program and of the packages that a result depends on."""
    versions = {"desam-segment": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def utc_now() -> str:
    """Now, as ISO 8601 in UTC, to the second."""
    return datetime.now(timezone.utc).replace(microsecond=0).isoformat()
