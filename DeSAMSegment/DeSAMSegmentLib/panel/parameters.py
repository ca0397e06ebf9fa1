"""The panel's state in the module's parameter node, so that it is saved with the scene and restored with it.

Plain attributes and node references of a vtkMRMLScriptedModuleNode: readable in every Slicer version, and references
survive a scene that is loaded into another one, because MRML renames them along with their nodes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import slicer

from .signal import Signal

DEFAULTS: dict[str, Any] = {
    "model": "",
    "mode": "",  # "" = as the model recommends
    "points": 9,
    "iouThreshold": 0.5,
    "minimumArea": 0.0,
    "largestComponent": "",  # "" = as the model recommends, "yes", "no"
    "sliceAxis": "auto",
    "limitRange": False,
    "firstSlice": 0,
    "lastSlice": 0,
    "intensity": "auto",
    "windowLower": 0.0,
    "windowUpper": 400.0,
    "showPoints": False,
    "reviewAxis": 0,
    "reviewModel": "",
    "trainBase": "backbone:lite_medsam",
    "trainName": "my model",
    "trainMode": "grid",
    "trainProfile": "new-site",
    "trainEpochs": 30,
    "trainStyles": 3,
    "trainCases": [],
}
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
        """The stored value, or the default; a value that cannot be read counts as absent."""
        default = DEFAULTS[name]
        try:
            value = json.loads(self.node.GetParameter(PREFIX + name))
        except ValueError:
            return default
        return value if isinstance(value, type(default)) or type(default) is float else default

    def set(self, name: str, value: Any) -> None:
        if value != self.get(name):
            self.node.SetParameter(PREFIX + name, json.dumps(type(DEFAULTS[name])(value)))
            self.changed.emit(name)

    def getNode(self, role: str) -> Any:
        return self.node.GetNodeReference(PREFIX + role)

    def setNode(self, role: str, node: Any) -> None:
        if node is not self.getNode(role):
            self.node.SetNodeReferenceID(PREFIX + role, node.GetID() if node else None)
            self.changed.emit(role)

    def reload(self) -> None:
        """After a scene was closed, loaded or imported."""
        self.changed.emit("")


def isSceneAlive(node: Any) -> bool:
    """Whether the node is still part of the scene."""
    return node is not None and slicer.mrmlScene.IsNodePresent(node)
