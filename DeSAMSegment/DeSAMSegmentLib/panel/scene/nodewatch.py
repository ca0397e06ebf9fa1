"""Following one node at a time: a volume may get its voxels, its transform or its name after it was chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
import vtk


class NodeWatch:
    """Calls ``slot`` when the watched node, its image or its transform changes."""

    def __init__(self, slot: Callable[[], None]) -> None:
        self._slot = slot
        self._node: Any = None
        self._tags: list[int] = []

    def watch(self, node: Any) -> None:
        """Follows this node from now on, and no other; None follows nothing."""
        if node is self._node:
            return
        for tag in self._tags:
            self._node.RemoveObserver(tag)
        self._node, self._tags = node, []
        if node is not None:
            events = [vtk.vtkCommand.ModifiedEvent, slicer.vtkMRMLTransformableNode.TransformModifiedEvent]
            if node.IsA("vtkMRMLVolumeNode"):
                events.append(slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent)
            self._tags = [node.AddObserver(event, lambda *_: self._slot()) for event in events]
