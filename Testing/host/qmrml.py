"""The MRML widgets that the panel uses: they show and follow the real scene."""

from __future__ import annotations

from typing import Any

import slicer

from . import qt
from .binding import Property, QtWidgets, Signal

_NODE_LIST_EVENTS = ("NodeAddedEvent", "NodeRemovedEvent", "EndCloseEvent", "EndImportEvent", "EndBatchProcessEvent")


class qMRMLWidget(qt.QWidget):
    """The root of a module's panel: hands the scene to everything inside."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._scene: Any = None

    def setMRMLScene(self, scene: Any) -> None:
        self._scene = scene
        for child in self.findChildren(QtWidgets.QWidget):
            if hasattr(child, "setMRMLScene"):
                child.setMRMLScene(scene)

    def mrmlScene(self) -> Any:
        return self._scene


def _flag(name: str) -> Any:
    def write(self: Any, value: bool) -> None:
        self._flags[name] = bool(value)
        self._refresh()

    return Property(bool, lambda self: self._flags.get(name, False), write)


class qMRMLNodeComboBox(qt.QWidget):
    """Lists the scene's nodes of given types; follows nodes that come, go and are renamed.

    As in Slicer, the first fitting node is selected as soon as there is one, unless ``noneEnabled``.
    """

    SIGNALS = ("currentNodeChanged(vtkMRMLNode*)",)
    currentNodeChanged = Signal(object)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        layout = qt.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._combo = qt.QComboBox(self)
        self._combo.setSizeAdjustPolicy(qt.QComboBox.AdjustToMinimumContentsLengthWithIcon)
        self._combo.setMinimumContentsLength(6)
        layout.addWidget(self._combo)
        self.setFocusProxy(self._combo)
        self._scene: Any = None
        self._types: list[str] = []
        self._noneDisplay = "None"
        self._flags = {"noneEnabled": False, "showChildNodeTypes": True, "showHidden": False, "addEnabled": True}
        self._currentID = ""
        self._nameTags: list[tuple[Any, int]] = []
        self._sceneTags: list[int] = []
        self._combo.activated.connect(lambda index: self.setCurrentNodeID(self._combo.itemData(index)))

    def setMRMLScene(self, scene: Any) -> None:
        if scene is self._scene:
            return
        for tag in self._sceneTags:
            self._scene.RemoveObserver(tag)
        self._sceneTags, self._scene = [], scene
        if scene is not None:
            events = [getattr(slicer.vtkMRMLScene, event) for event in _NODE_LIST_EVENTS]
            self._sceneTags = [scene.AddObserver(event, self._refresh) for event in events]
        self._observeNames()
        self._refresh()

    def mrmlScene(self) -> Any:
        return self._scene

    def _fits(self, node: Any) -> bool:
        if node.GetHideFromEditors() and not self._flags["showHidden"]:
            return False
        if self._flags["showChildNodeTypes"]:
            return any(node.IsA(name) for name in self._types)
        return node.GetClassName() in self._types

    def nodes(self) -> list[Any]:
        if self._scene is None:
            return []
        every = (self._scene.GetNthNode(index) for index in range(self._scene.GetNumberOfNodes()))
        return [node for node in every if self._fits(node)]

    def _refresh(self, caller: Any = None, event: Any = None) -> None:
        if self._scene is None or self._scene.IsBatchProcessing():
            return
        self._observeNames()
        nodes = self.nodes()
        wanted = self._currentID
        if wanted not in [node.GetID() for node in nodes]:
            wanted = nodes[0].GetID() if nodes and not self._flags["noneEnabled"] else ""
        self._fill(nodes, wanted)
        if wanted != self._currentID:
            self._currentID = wanted
            self.currentNodeChanged.emit(self.currentNode())

    def _observeNames(self) -> None:
        for node, tag in self._nameTags:
            node.RemoveObserver(tag)
        self._nameTags = [
            (node, node.AddObserver("ModifiedEvent", lambda *_: self._fill(self.nodes(), self._currentID)))
            for node in self.nodes()
        ]

    def _fill(self, nodes: list[Any], wanted: str) -> None:
        self._combo.blockSignals(True)
        self._combo.clear()
        if self._flags["noneEnabled"]:
            self._combo.addItem(self._noneDisplay, "")
        for node in nodes:
            self._combo.addItem(node.GetName(), node.GetID())
        self._combo.setCurrentIndex(self._combo.findData(wanted))
        self._combo.blockSignals(False)

    def currentNode(self) -> Any:
        return self._scene.GetNodeByID(self._currentID) if self._scene and self._currentID else None

    def setCurrentNode(self, node: Any) -> None:
        self.setCurrentNodeID(node.GetID() if node else "")

    def setCurrentNodeID(self, identifier: str) -> None:
        identifier = identifier or ""
        if identifier != self._currentID:
            self._currentID = identifier
            self._fill(self.nodes(), identifier)
            self.currentNodeChanged.emit(self.currentNode())

    def _setTypes(self, types: Any) -> None:
        self._types = list(types)
        self._refresh()

    def _setNoneDisplay(self, text: str) -> None:
        self._noneDisplay = text
        self._fill(self.nodes(), self._currentID)

    nodeTypes = Property("QStringList", lambda self: self._types, _setTypes)
    noneDisplay = Property(str, lambda self: self._noneDisplay, _setNoneDisplay)
    currentNodeID = Property(str, lambda self: self._currentID, setCurrentNodeID)
    noneEnabled, addEnabled, removeEnabled = _flag("noneEnabled"), _flag("addEnabled"), _flag("removeEnabled")
    renameEnabled, editEnabled, showHidden = _flag("renameEnabled"), _flag("editEnabled"), _flag("showHidden")
    showChildNodeTypes, selectNodeUponCreation = _flag("showChildNodeTypes"), _flag("selectNodeUponCreation")


class qMRMLCheckableNodeComboBox(qMRMLNodeComboBox):
    """A node list in which any number can be checked; shows the names of those that are."""

    checkedNodesChanged = Signal()

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._checked: set[str] = set()
        self._combo.activated.connect(lambda index: self._toggle(self._combo.itemData(index)))

    def checkedNodes(self) -> list[Any]:
        return [node for node in self.nodes() if node.GetID() in self._checked]

    def setCheckState(self, node: Any, state: Any) -> None:
        if (state == qt.Qt.Checked) != (node.GetID() in self._checked):
            self._toggle(node.GetID())

    def _toggle(self, identifier: str) -> None:
        self._checked ^= {identifier}
        self._fill(self.nodes(), self._currentID)
        self.checkedNodesChanged.emit()

    def _fill(self, nodes: list[Any], wanted: str) -> None:
        super()._fill(nodes, wanted)
        if gone := self._checked - {node.GetID() for node in nodes}:
            self._checked -= gone
            self.checkedNodesChanged.emit()
        self._combo.setPlaceholderText(", ".join(node.GetName() for node in self.checkedNodes()) or "None")
        self._combo.setCurrentIndex(-1)


qt.register(qMRMLWidget, qMRMLNodeComboBox, qMRMLCheckableNodeComboBox)
