"""A signal in plain Python: a ``qt.Signal`` of a Python class crashes under PythonQt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Signal:
    """Call ``connect`` with a function; ``emit`` calls all of them in order."""

    def __init__(self) -> None:
        self._slots: list[Callable[..., Any]] = []

    def connect(self, slot: Callable[..., Any]) -> None:
        self._slots.append(slot)

    def emit(self, *arguments: Any) -> None:
        for slot in list(self._slots):
            slot(*arguments)
