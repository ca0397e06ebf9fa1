"""The grid's points of one slice as a markups node, made when asked for and never saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import slicer
from slicer.i18n import tr as _

from .geometry import worldFromSlicePoint

ACCEPTED, OTHERS = (0.2, 0.8, 0.2), (1.0, 0.6, 0.0)  # colours of the chosen point and of the rest


class GridPoints:
    """Shows the points of one slice at a time; the label of a point is its predicted IoU."""

    def __init__(self) -> None:
        self._node: Any = None

    def show(self, volumeNode: Any, axis: int, index: int, points: Sequence[Any]) -> None:
        """Replaces what was shown; ``points`` as in SliceDone."""
        node = self._markups()
        wasModifying = node.StartModify()
        node.SetLocked(False)
        node.RemoveAllControlPoints()
        for point in points:
            world = worldFromSlicePoint(volumeNode, axis, index, point.row, point.column)
            number = node.AddControlPoint(*world, f"{point.iou:.2f}")
            node.SetNthControlPointSelected(number, point.chosen)
            node.SetNthControlPointLocked(number, True)
        node.SetLocked(True)
        node.EndModify(wasModifying)

    def hide(self) -> None:
        if self._node is not None and slicer.mrmlScene.IsNodePresent(self._node):
            slicer.mrmlScene.RemoveNode(self._node)
        self._node = None

    def _markups(self) -> Any:
        if self._node is None or not slicer.mrmlScene.IsNodePresent(self._node):
            selection = slicer.app.applicationLogic().GetSelectionNode()
            active = selection.GetActivePlaceNodeID()
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", _("DeSAM grid points"))
            selection.SetActivePlaceNodeID(active)  # a new list takes the place: the user's next point would go into it
            node.SetSaveWithScene(False)
            node.CreateDefaultDisplayNodes()
            display = node.GetDisplayNode()
            display.SetSaveWithScene(False)
            display.SetSelectedColor(*ACCEPTED)
            display.SetColor(*OTHERS)
            display.SetPropertiesLabelVisibility(False)
            display.SetPointLabelsVisibility(True)
            display.SetTextScale(1.8)
            display.SetGlyphScale(1.2)
            self._node = node
        return self._node
