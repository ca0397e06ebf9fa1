"""Frames of a volume sequence: each as a volume of the scene while it is segmented, the results as a sequence beside.

A sequence keeps its frames in a scene of its own. What works on nodes of the main scene gets a hidden node there that
shares the frame's voxels.
"""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _

from ...errors import BadVolume
from .geometry import ijkToRas, matrixFromArray


def validateSequence(sequenceNode: Any) -> str:
    """Why the frames of this sequence cannot be segmented; empty when they can."""
    name = sequenceNode.GetName()
    if not sequenceNode.GetNumberOfDataNodes():
        return _("{name} holds no frames. Load its file first.").format(name=name)
    if not sequenceNode.GetNthDataNode(0).IsA("vtkMRMLScalarVolumeNode"):
        return _("{name} is not a sequence of volumes. Choose another one.").format(name=name)
    return ""


class FrameSequence:
    """A sequence of volumes and, made with the first result, its sequence of segmentations in the same browser.

    Raises:
      BadVolume: with the words of ``validateSequence``.
    """

    def __init__(self, sequenceNode: Any) -> None:
        if problem := validateSequence(sequenceNode):
            raise BadVolume(problem)
        self._sequence = sequenceNode
        self.results: Any = None

    def __len__(self) -> int:
        return int(self._sequence.GetNumberOfDataNodes())

    def title(self, index: int) -> str:
        name, value = self._sequence.GetName(), self._sequence.GetNthIndexValue(index)
        axis, unit = self._sequence.GetIndexName(), self._sequence.GetIndexUnit()
        return f"{name}, {axis or _('frame')} {value} {unit or ''}".strip()

    def volume(self, index: int) -> Any:
        """A hidden node with the frame's voxels, under the transform of the volume that the browser shows."""
        frame, node = self._sequence.GetNthDataNode(index), slicer.vtkMRMLScalarVolumeNode()
        node.SetName(self.title(index))
        node.SetHideFromEditors(True)
        node.SetSaveWithScene(False)
        node.SetAndObserveImageData(frame.GetImageData())
        node.SetIJKToRASMatrix(matrixFromArray(ijkToRas(frame)))
        node = slicer.mrmlScene.AddNode(node)
        if (shown := self._shown(self._sequence)) is not None:
            node.SetAndObserveTransformNodeID(shown.GetTransformNodeID())
        return node

    def keep(self, index: int, segmentationNode: Any) -> None:
        """Moves a segmentation from the scene into the sequence of results, at the place of its frame."""
        if self.results is None or slicer.mrmlScene.GetNodeByID(self.results.GetID()) is None:
            self.results = self._createResults()
        transform = segmentationNode.GetTransformNodeID()
        segmentationNode.SetDisplayVisibility(True)
        segmentationNode.SetNodeReferenceID(slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole(), "")
        self.results.SetDataNodeAtValue(segmentationNode, self._sequence.GetNthIndexValue(index))
        slicer.mrmlScene.RemoveNode(segmentationNode)
        browser = self._browser()
        if not browser.IsSynchronizedSequenceNodeID(self.results.GetID(), True):
            browser.AddSynchronizedSequenceNode(self.results)
            # the default shows a frame without a result with that of its neighbour
            browser.SetMissingItemMode(self.results, slicer.vtkMRMLSequenceBrowserNode.MissingItemSetToDefault)
        slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
        if (shown := self._shown(self.results)) is not None:
            shown.SetAndObserveTransformNodeID(transform)

    def _createResults(self) -> Any:
        name = _("{sequence} segmentation").format(sequence=self._sequence.GetName())
        unique = slicer.mrmlScene.GenerateUniqueName(name)
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", unique)
        node.SetIndexName(self._sequence.GetIndexName())
        node.SetIndexUnit(self._sequence.GetIndexUnit())
        node.SetIndexType(self._sequence.GetIndexType())
        return node

    def _browser(self) -> Any:
        """The browser that shows the sequence; made where there is none."""
        logic = slicer.modules.sequences.logic()
        browser = logic.GetFirstBrowserNodeForSequenceNode(self._sequence)
        if browser is None:
            name = _("{sequence} browser").format(sequence=self._sequence.GetName())
            browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", name)
            browser.SetAndObserveMasterSequenceNodeID(self._sequence.GetID())
        return browser

    @staticmethod
    def _shown(sequenceNode: Any) -> Any:
        """The node of the scene in which a browser shows a sequence; None where there is none."""
        browser = slicer.modules.sequences.logic().GetFirstBrowserNodeForSequenceNode(sequenceNode)
        return browser.GetProxyNode(sequenceNode) if browser is not None else None
