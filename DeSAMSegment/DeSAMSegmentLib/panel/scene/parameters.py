"""The panel's state in the module's parameter node, so that it is saved with the scene and restored with it.

Plain attributes and node references of a vtkMRMLScriptedModuleNode: readable in every Slicer version, and references
survive a scene that is loaded into another one, because MRML renames them along with their nodes. Every option that
``engine/options.py`` declares is a parameter, ``segment.points`` or ``train.epochs``, with the default declared there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ...engine.declarations import Declaration, Options, declarations
from ...engine.options import SegmentOptions, TrainOptions
from ..kit.signal import Signal

STATE: dict[str, Any] = {  # what is no option of an engine
    "model": "",
    "showPoints": False,
    "reviewAxis": 0,
    "reviewModel": "",
    "trainBase": "backbone:lite_medsam",
    "trainCases": [],
}
GROUPS: dict[str, type[Options]] = {"segment": SegmentOptions, "train": TrainOptions}
PREFIX = "DeSAM."


class Parameters:
    """Reads and writes one parameter node; ``changed`` is emitted with the name, or "" when everything may differ.

    Arguments:
      getNode: gives the module's parameter node of the current scene, creating it when there is none.
    """

    def __init__(self, getNode: Callable[[], Any]) -> None:
        self._getNode = getNode
        self.changed = Signal()

    @property
    def node(self) -> Any:
        return self._getNode()

    def get(self, name: str) -> Any:
        """The stored value, or the default; a value that cannot be read or used counts as absent."""
        declared = declaredAs(name)
        default = declared.default if declared else STATE[name]
        try:
            value = json.loads(self.node.GetParameter(PREFIX + name))
        except ValueError:
            return default
        if declared is None:
            return value if isinstance(value, type(default)) else default
        if isinstance(value, list):
            value = tuple(value)
        isUsable = not declared.problem(value) and (declared.kind is not tuple or value is None or _isPair(value))
        return value if isUsable else default

    def set(self, name: str, value: Any) -> None:
        if value != self.get(name):
            self.node.SetParameter(PREFIX + name, json.dumps(value))
            self.changed.emit(name)

    def chosen(self, group: str) -> dict[str, Any]:
        """The options of a group that differ from their defaults."""
        values = {name: self.get(f"{group}.{name}") for name in declarations(GROUPS[group])}
        return {name: value for name, value in values.items() if value != declarations(GROUPS[group])[name].default}

    def getNode(self, role: str) -> Any:
        return self.node.GetNodeReference(PREFIX + role)

    def setNode(self, role: str, node: Any) -> None:
        if node is not self.getNode(role):
            self.node.SetNodeReferenceID(PREFIX + role, node.GetID() if node else None)
            self.changed.emit(role)

    def reload(self) -> None:
        """After a scene was closed, loaded or imported."""
        self.changed.emit("")


def _isPair(value: tuple[Any, ...]) -> bool:
    return len(value) == 2 and all(isinstance(each, int | float) for each in value)


def declaredAs(name: str) -> Declaration | None:
    """The declaration of a parameter such as ``segment.points``; None for one that is no option."""
    group, _, option = name.partition(".")
    return declarations(GROUPS[group])[option] if option else None
