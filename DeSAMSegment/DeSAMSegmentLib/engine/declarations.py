"""How an option is declared: a field of an options class with its default, what it may be, its label and its tip.

The command line's options and help, the panel's widgets and stored parameters, and the checks of all faces are read
from the declarations of ``options.py``. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from numbers import Real
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from ..errors import BadInput

Own = TypeVar("Own", bound="Options")


@dataclass(frozen=True)
class Range:
    """The numbers that an option may be. Open ends are not included."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below  # false for NaN

    def __str__(self) -> str:
        low, high = (int(end) if math.isfinite(end) and end == int(end) else end for end in (self.low, self.high))
        if self.high == math.inf:
            return f"{'above' if self.open_low else 'at least'} {low}"
        open_end = " (exclusive)" if self.open_low or self.open_high else ""
        return f"between {low} and {high}{open_end}"


@dataclass(frozen=True)
class Declaration:
    """What the faces know of an option.

    Attributes:
      name: of the field. kind: bool, int, float, str or tuple. label: in the panel and in messages. tip: one sentence.
      default: None where the card recommends, or where nothing is a choice of its own.
      choices: value -> words. range: of a number. unit: in the panel, after the number. step: of its spin box.
      recommended: whether the card may recommend it. fallback: what holds where neither user nor card says anything.
      zero_is_none: whether the number 0 stands for None where only numbers can be given.
      renamed: names of choices in earlier versions -> theirs today. expert: left to command line and console.
    """

    name: str
    kind: type
    label: str
    tip: str
    default: Any = None
    choices: Mapping[str, str] | None = None
    range: Range | None = None
    unit: str = ""
    step: float = 1
    recommended: bool = False
    fallback: Any = None
    zero_is_none: bool = False
    renamed: Mapping[str, str] | None = None
    expert: bool = False

    def problem(self, value: Any) -> str:
        """Why the option cannot be this; empty when it can."""
        if value is None and (self.default is None or self.zero_is_none):
            return ""
        if not self._is_of_kind(value):
            return f"{self.label} must be {_KINDS[self.kind]}, not {value!r}."
        if self.choices is not None and value not in self.choices:
            return f"{self.label} must be one of {', '.join(self.choices)}, not {value!r}."
        if self.range is not None and value not in self.range:
            return f"{self.label} must be {self.range}, not {value}."
        return ""

    def _is_of_kind(self, value: Any) -> bool:
        if self.kind is float:
            return isinstance(value, int | float) and not isinstance(value, bool)
        if self.kind is int:
            return isinstance(value, int) and not isinstance(value, bool)
        if self.kind is tuple:
            return isinstance(value, tuple) and all(isinstance(each, Real) for each in value)
        return isinstance(value, self.kind)


_KINDS = {bool: "yes or no", int: "a whole number", float: "a number", str: "a text", tuple: "numbers"}


def option(default: Any, label: str, tip: str, **more: Any) -> Any:
    """A field of an options class (``Declaration``)."""
    return field(default=default, metadata={"label": label, "tip": tip, **more})


@dataclass(frozen=True)
class Options:
    """What the option classes share: they are checked by their declarations."""

    def __post_init__(self) -> None:
        for each in declarations(type(self)).values():
            value = getattr(self, each.name)
            if each.kind is tuple and isinstance(value, list):
                object.__setattr__(self, each.name, tuple(value))
            if each.renamed and isinstance(value, str) and value in each.renamed:
                object.__setattr__(self, each.name, each.renamed[value])

    def is_valid(self) -> tuple[bool, str]:
        """Whether the options make sense, and if not, the first reason."""
        for each in declarations(type(self)).values():
            problem = each.problem(getattr(self, each.name))
            if problem:
                return False, problem
        problem = self._contradiction()
        return not problem, problem

    def check(self: Own) -> Own:
        """The options as they are.

        Raises:
          BadInput: with the reason of ``is_valid``.
        """
        valid, reason = self.is_valid()
        if not valid:
            raise BadInput(reason)
        return self

    def _contradiction(self) -> str:
        """What no single option says: options that do not go together."""
        return ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, for config.json and the model card."""
        return asdict(self)


def declarations(kind: type[Options]) -> dict[str, Declaration]:
    """The options of a class, in order."""
    if kind not in _DECLARED:
        hints = get_type_hints(kind)
        _DECLARED[kind] = {each.name: _declared(each, hints[each.name]) for each in fields(kind)}
    return _DECLARED[kind]


_DECLARED: dict[type[Options], dict[str, Declaration]] = {}


def _declared(each: Any, hint: Any) -> Declaration:
    kinds = get_args(hint)
    plain = next(kind for kind in kinds if kind is not NoneType) if NoneType in kinds else hint
    return Declaration(each.name, get_origin(plain) or plain, default=each.default, **each.metadata)
