"""Writing a run's result into a segmentation node while it arrives, and taking it back in one step."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from ...errors import BadInput
from .geometry import validateTransform, voxels
from .segments import (
    LABELMAP,
    SURFACE,
    copySegment,
    imageArray,
    indexToSegmentation,
    maskOnGrid,
    newImage,
)

Result = TypeVar("Result")
RUN_TAG = "DeSAM.Run"  # on every segment we write: which model, and a fingerprint of what we wrote


def validateOutput(segmentationNode: Any) -> str:
    """Why results cannot go into this segmentation; empty when they can. None stands for a new one."""
    if segmentationNode is None:
        return ""
    segmentation = segmentationNode.GetSegmentation()
    if segmentation.GetNumberOfSegments() and segmentation.GetSourceRepresentationName() != LABELMAP:
        text = _("{name} is made of surfaces, not voxels. Choose a new segmentation as output.")
        return text.format(name=segmentationNode.GetName())
    return validateTransform(segmentationNode)


@dataclass
class Undo:
    """What it takes to bring the scene back to before a run."""

    nodeID: str
    createdNode: bool
    added: list[str] = field(default_factory=list)
    replaced: dict[str, Any] = field(default_factory=dict)

    def restore(self) -> bool:
        """True when there was still something to take back. Segments that the run did not write stay as they are."""
        node = slicer.mrmlScene.GetNodeByID(self.nodeID)
        if node is None:
            return False
        segmentation = node.GetSegmentation()
        for identifier in self.added:
            segmentation.RemoveSegment(identifier)
        for identifier, segment in self.replaced.items():
            segmentation.AddSegment(segment, identifier)
        if self.createdNode and segmentation.GetNumberOfSegments() == 0:
            slicer.mrmlScene.RemoveNode(node)
        return True


class ResultWriter:
    """Writes slices in place as they come: one segment per label, each with a layer of its own.

    Arguments:
      volumeNode: what is being segmented; results lie on its voxels.
      segmentationNode: where to; None makes a new one beside the volume.
      labels: the model card's labels (value, name, color, terminology).
      modelName: for the segments' tag and the name of a new node.
      earlier: a result to write into, label value to segment ID. kept: (axis, slices) of it that stay as they are.
    """

    def __init__(
        self,
        volumeNode: Any,
        segmentationNode: Any,
        labels: Sequence[Any],
        modelName: str,
        earlier: Mapping[int, str] | None = None,
        kept: tuple[int, Collection[int]] = (0, ()),
    ) -> None:
        problem = validateOutput(segmentationNode)
        if problem:
            raise BadInput(problem)
        self._shape = voxels(volumeNode).shape
        self._modelName = modelName
        created = segmentationNode is None
        node = self._createNode(volumeNode) if segmentationNode is None else segmentationNode
        self._node = node
        self._matrix = indexToSegmentation(volumeNode, node)
        self._hadSurface = node.GetSegmentation().ContainsRepresentation(SURFACE)
        self.undo = Undo(node.GetID(), created)
        self._segments: dict[int, str] = {}  # label value to segment ID
        self._touched: set[int] = set()
        self._kept = np.isin(np.arange(self._shape[kept[0]]), list(kept[1]))
        self._kept = np.broadcast_to(np.expand_dims(self._kept, [a for a in range(3) if a != kept[0]]), self._shape)
        for label in labels:
            known = (earlier or {}).get(label.value, "")
            segment = node.GetSegmentation().GetSegment(known)
            self._segments[label.value] = known if segment else self._addSegment(label)
            if segment:
                self.undo.added.append(known)
                self.undo.replaced[known] = copySegment(segment)

    @property
    def segmentationNode(self) -> Any:
        """The node, or None when the user deleted it or closed the scene meanwhile."""
        return slicer.mrmlScene.GetNodeByID(self.undo.nodeID)

    @property
    def segmentIDs(self) -> dict[int, str]:
        """Label value to segment ID."""
        return dict(self._segments)

    def writeSlice(self, axis: int, index: int, labels: np.ndarray) -> None:
        """One slice of the volume, in the volume's own layout; ``flush`` makes the views follow."""
        for value in self._segments:
            array = self._array(value)
            if array is not None:
                plane, kept = (np.moveaxis(each, axis, 0)[index] for each in (array, self._kept))
                plane[:] = np.where(kept, plane, labels == value)
                self._touched.add(value)

    def writeVolume(self, labels: np.ndarray) -> Iterator[None]:
        """The final label map (K, J, I), a slice per step, so that the caller can spread it over time."""
        for index in range(self._shape[0]):
            plane = np.asarray(labels[index])
            for value in self._segments:
                array = self._array(value)
                if array is None:
                    continue
                wanted = np.where(self._kept[index], array[index], plane == value)
                if not np.array_equal(array[index], wanted):
                    array[index] = wanted
                    self._touched.add(value)
            yield

    def flush(self) -> None:
        """Tells the scene about everything written since the last time."""
        for value in self._touched:
            segment = self._segment(value)
            if segment is not None:
                segment.GetRepresentation(LABELMAP).Modified()
        self._touched.clear()

    def seal(self) -> Generator[None, None, None]:
        """After the last slice, in steps: marks the segments as ours, with a fingerprint of what was written."""
        for value in self._segments:
            segment = self._segment(value)
            if segment is not None:
                mark = yield from fingerprint(segment)
                segment.SetTag(RUN_TAG, f"{self._modelName}|{mark}")

    def close(self) -> None:
        """Last of all: what is written is shown, with surfaces again where there were some."""
        self.flush()
        if self._hadSurface and self.segmentationNode is not None:
            self._node.CreateClosedSurfaceRepresentation()

    @staticmethod
    def _createNode(volumeNode: Any) -> Any:
        scene = slicer.mrmlScene
        name = scene.GenerateUniqueName(_("{volume} segmentation").format(volume=volumeNode.GetName()))
        node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
        node.CreateDefaultDisplayNodes()
        node.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
        node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        item = hierarchy.GetItemByDataNode(volumeNode)  # none for a hidden one
        beside = hierarchy.GetItemParent(item) if item else 0
        if beside:
            hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), beside)
        return node

    def _addSegment(self, label: Any) -> str:
        segmentation = self._node.GetSegmentation()
        self._replaceEarlierResult(label.name)
        identifier = segmentation.AddEmptySegment("", self._freeName(label.name))
        segment = segmentation.GetSegment(identifier)
        segment.SetNameAutoGenerated(False)
        segment.SetColorAutoGenerated(False)
        segment.SetColor(*(part / 255 for part in label.color))
        if label.terminology:
            segment.SetTerminology(label.terminology)
        segment.SetLabelValue(1)
        segment.AddRepresentation(LABELMAP, newImage(self._shape, self._matrix))
        self.undo.added.append(identifier)
        return str(identifier)

    def _replaceEarlierResult(self, name: str) -> None:
        """A result of ours that nobody has edited since makes way; ``Undo`` keeps it."""
        segmentation = self._node.GetSegmentation()
        for number in reversed(range(segmentation.GetNumberOfSegments())):
            identifier = segmentation.GetNthSegmentID(number)
            segment = segmentation.GetSegment(identifier)
            if segment.GetName() == name and isUntouchedResult(segment):
                self.undo.replaced[identifier] = copySegment(segment)
                segmentation.RemoveSegment(identifier)

    def _freeName(self, name: str) -> str:
        segmentation = self._node.GetSegmentation()
        taken = {segmentation.GetNthSegment(n).GetName() for n in range(segmentation.GetNumberOfSegments())}
        number = 2
        free = name
        while free in taken:
            free, number = f"{name} {number}", number + 1
        return free

    def _segment(self, value: int) -> Any:
        node = self.segmentationNode
        return node.GetSegmentation().GetSegment(self._segments[value]) if node else None

    def _array(self, value: int) -> np.ndarray | None:
        """The segment's voxels, full extent, exclusively its own; None when the user deleted it."""
        segment = self._segment(value)
        if segment is None:
            return None
        image = segment.GetRepresentation(LABELMAP)
        segmentation = self._node.GetSegmentation()
        isShared = segmentation.IsSharedBinaryLabelmap(self._segments[value])
        full = tuple(bound for count in self._shape[::-1] for bound in (0, count - 1))
        if image is None or isShared or segment.GetLabelValue() != 1 or image.GetExtent() != full:
            image = self._ownLayer(value, segment)
        return imageArray(image)

    def _ownLayer(self, value: int, segment: Any) -> Any:
        """After the scene was saved or the segment edited: back to a layer of our own with full extent."""
        new = newImage(self._shape, self._matrix)
        imageArray(new)[:] = maskOnGrid(self._node, self._segments[value], self._shape, self._matrix)
        self._node.GetSegmentation().SeparateSegmentLabelmap(self._segments[value])
        segment.RemoveRepresentation(LABELMAP)
        segment.SetLabelValue(1)
        segment.AddRepresentation(LABELMAP, new)
        return new


def fingerprint(segment: Any) -> Generator[None, None, str]:
    """Returns a short text that changes when a voxel of the segment does; blind to extent and label value."""
    image = segment.GetRepresentation(LABELMAP)
    if image is None or image.GetNumberOfPoints() == 0:
        return f"{0:08x}"
    array, value = imageArray(image), segment.GetLabelValue()
    i0, _i1, j0, _j1, k0, _k1 = image.GetExtent()
    sum_ = 0
    for k, plane in enumerate(array, k0):
        rows, columns = np.nonzero(plane == value)
        if rows.size:
            places = np.stack([np.full(rows.size, k), rows + j0, columns + i0]).astype(np.int32)
            sum_ = zlib.crc32(places.tobytes(), sum_)
        yield
    return f"{sum_:08x}"


def complete(steps: Generator[None, None, Result]) -> Result:
    """All steps at once; what the generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def isUntouchedResult(segment: Any) -> bool:
    """Whether a run wrote this segment and its voxels are still the same."""
    if not segment.HasTag(RUN_TAG):
        return False
    text = vtk.mutable("")
    segment.GetTag(RUN_TAG, text)
    return str(text).rpartition("|")[2] == complete(fingerprint(segment))
