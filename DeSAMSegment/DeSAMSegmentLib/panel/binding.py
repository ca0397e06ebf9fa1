"""Widgets and parameters, kept equal in both directions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .parameters import Parameters

READ_WRITE: dict[str, tuple[str, str]] = {  # widget kind -> changed signal, property
    "spin": ("valueChanged(int)", "value"),
    "double": ("valueChanged(double)", "value"),
    "check": ("toggled(bool)", "checked"),
    "text": ("textChanged(QString)", "text"),
}


class Binder:
    """Call ``bind...`` once per widget; afterwards the user and the scene may each change either side."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._show: dict[str, Callable[[], None]] = {}
        self._isShowing = False
        self.isPaused = False  # while a scene comes or goes, node lists choose by themselves: that is no decision
        parameters.changed.connect(self._onChanged)

    def bind(self, kind: str, widget: Any, name: str) -> None:
        """A spin box, check box or line edit."""
        signal, attribute = READ_WRITE[kind]
        widget.connect(signal, lambda *_: self._store(name, getattr(widget, attribute)))
        self._add(name, lambda: self._assign(widget, attribute, self._parameters.get(name)))

    def bindChoice(self, widget: Any, name: str, choices: list[tuple[str, str]]) -> None:
        """A combo box of (text, value); the value is stored."""
        for text, value in choices:
            widget.addItem(text, value)
        widget.connect("currentIndexChanged(int)", lambda *_: self._store(name, widget.itemData(widget.currentIndex)))
        self._add(name, lambda: widget.setCurrentIndex(max(0, widget.findData(self._parameters.get(name)))))

    def bindNode(self, widget: Any, role: str) -> None:
        """A node combo box; a node the widget selects by itself (the only volume) is stored as well."""

        def store(*_: Any) -> None:
            if not self._isShowing and not self.isPaused:
                self._parameters.setNode(role, widget.currentNode())

        def show() -> None:
            node = self._parameters.getNode(role)
            if node is None and not widget.noneEnabled and widget.currentNode() is not None:
                self._parameters.setNode(role, widget.currentNode())
            else:
                widget.setCurrentNode(node)

        widget.connect("currentNodeChanged(vtkMRMLNode*)", store)
        self._add(role, show)

    def show(self) -> None:
        """Brings every widget up to date."""
        self._onChanged("")

    def _add(self, name: str, show: Callable[[], None]) -> None:
        self._show[name] = show

    def _store(self, name: str, value: Any) -> None:
        if not self._isShowing:
            self._parameters.set(name, value)

    @staticmethod
    def _assign(widget: Any, attribute: str, value: Any) -> None:
        if getattr(widget, attribute) != value:  # a text that is being typed keeps its cursor
            setattr(widget, attribute, value)

    def _onChanged(self, name: str) -> None:
        previous, self._isShowing = self._isShowing, True
        try:
            for key, show in self._show.items():
                if name in ("", key):
                    show()
        finally:
            self._isShowing = previous
