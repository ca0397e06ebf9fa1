"""Reading and writing single segments, voxel by voxel, without temporary nodes and without touching their neighbours.

What Slicer does to a segment's image behind one's back: saving collapses the segments into shared layers with new
label values and smaller extents, the Segment Editor shrinks extents and swaps images. So nothing is remembered: the
image, its extent and the label value are asked for again before every access.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from ...data.grid import nearest
from .geometry import arrayFromMatrix, ijkToRas, ijkToWorld, matrixFromArray, parentToWorld, voxels

LABELMAP = "Binary labelmap"
SURFACE = "Closed surface"


def newImage(shape: tuple[int, ...], matrix: np.ndarray) -> Any:
    """An empty vtkOrientedImageData of full extent: (K, J, I) voxels, index-to-segmentation matrix."""
    image = slicer.vtkOrientedImageData()
    image.SetImageToWorldMatrix(matrixFromArray(matrix))
    image.SetDimensions(*reversed(shape))
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    image.GetPointData().GetScalars().Fill(0)
    return image


def imageArray(image: Any) -> np.ndarray:
    """The image's own voxels (K, J, I) of its extent; writing to it writes to the image."""
    from vtk.util.numpy_support import vtk_to_numpy

    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])


def indexToSegmentation(volumeNode: Any, segmentationNode: Any) -> np.ndarray:
    """(4, 4) from the volume's indices to the segmentation node's own space, whatever transforms each is under."""
    if volumeNode.GetTransformNodeID() == segmentationNode.GetTransformNodeID():
        return ijkToRas(volumeNode)  # exactly, without rounding
    return np.linalg.inv(parentToWorld(segmentationNode)) @ ijkToWorld(volumeNode)


def segmentMask(segmentationNode: Any, segmentID: str, volumeNode: Any) -> np.ndarray:
    """One segment on the volume's grid: (K, J, I) uint8, 0 or 1, nearest voxel."""
    matrix = indexToSegmentation(volumeNode, segmentationNode)
    return maskOnGrid(segmentationNode, segmentID, voxels(volumeNode).shape, matrix)


def maskOnGrid(segmentationNode: Any, segmentID: str, shape: tuple[int, ...], toSegmentation: np.ndarray) -> np.ndarray:
    """One segment on any grid, given its index-to-segmentation matrix. Exact where the grids coincide."""
    mask = np.zeros(shape, np.uint8)
    image = slicer.vtkOrientedImageData()
    if not segmentationNode.GetBinaryLabelmapRepresentation(segmentID, image) or image.GetNumberOfPoints() == 0:
        return mask
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    toImage = np.linalg.inv(arrayFromMatrix(matrix)) @ toSegmentation
    source = imageArray(image) > 0
    offset = np.array(image.GetExtent()[::2], float)
    rounded = np.round(toImage)
    if np.allclose(toImage, rounded, atol=1e-3) and np.array_equal(rounded[:3, :3], np.eye(3)):
        _paste(mask, source, (offset - rounded[:3, 3]).astype(int)[::-1])
    else:
        toImage[:3, 3] -= offset
        mask[:] = nearest(source.view(np.uint8), toImage, shape)
    return mask


def _paste(mask: np.ndarray, source: np.ndarray, start: np.ndarray) -> None:
    """Copies a block whose first voxel lies at ``start`` (k, j, i) of the mask; parts outside are dropped."""
    low = np.maximum(start, 0)
    high = np.minimum(start + source.shape, mask.shape)
    if (high > low).all():
        into = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        out = tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))
        mask[into] = source[out]


def copySegment(segment: Any) -> Any:
    copy = slicer.vtkSegment()
    copy.DeepCopy(segment)
    return copy


def validateLabelmap(segmentationNode: Any) -> str:
    """Why its segments cannot be read voxel by voxel (surfaces of an RT structure set or STL); empty when they can."""
    segmentation = segmentationNode.GetSegmentation()
    if segmentation.GetSourceRepresentationName() == LABELMAP or segmentation.ContainsRepresentation(LABELMAP):
        return ""
    text = _("{name} consists of surfaces. Create its binary labelmap in the Segmentations module, then try again.")
    return text.format(name=segmentationNode.GetName())


def segmentNames(segmentationNode: Any) -> dict[str, str]:
    """Segment ID to name, in the order of the segmentation."""
    segmentation = segmentationNode.GetSegmentation()
    identifiers = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
    return {identifier: segmentation.GetSegment(identifier).GetName() for identifier in identifiers}
