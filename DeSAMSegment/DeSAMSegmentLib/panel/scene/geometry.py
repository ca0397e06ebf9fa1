"""Volume nodes as the engine sees them: an array (K, J, I) and the matrix from its indices to the world.

MRML keeps two matrices apart: IJK to RAS, which belongs to the volume, and the transforms above it in the hierarchy.
The engine gets their product, so that a volume that was registered is cut as it is seen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from ...data.volume import Volume
from ...errors import BadVolume

ALONG = 0.9  # cosine of the angle within which a view looks along an axis: 26 degrees


def validateVolume(volumeNode: Any) -> str:
    """Why this node cannot be segmented, and what to do; empty when it can."""
    if volumeNode is None:
        return _("Choose a volume.")
    name = volumeNode.GetName()
    if not volumeNode.IsA("vtkMRMLScalarVolumeNode"):
        return _("{name} is not a scalar volume. Choose an image volume.").format(name=name)
    if volumeNode.IsA("vtkMRMLLabelMapVolumeNode"):
        return _("{name} is a label map, not an image. Choose an image volume.").format(name=name)
    image = volumeNode.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0:
        return _("{name} holds no voxels. Load its file first.").format(name=name)
    if image.GetNumberOfScalarComponents() != 1:
        text = _("{name} has {count} values per voxel. The Vector to Scalar Volume module makes one channel of them.")
        return text.format(name=name, count=image.GetNumberOfScalarComponents())
    if min(image.GetDimensions()) < 2:
        return _("{name} is a single slice. Choose a 3-D volume.").format(name=name)
    return validateTransform(volumeNode)


def validateTransform(node: Any) -> str:
    """Why the transforms above this node are in the way; empty when they are linear or absent."""
    transform = node.GetParentTransformNode()
    if transform is None or transform.IsTransformToWorldLinear():
        return ""
    text = _("{name} is under the non-linear transform {transform}. Harden it in the Data module, then try again.")
    return text.format(name=node.GetName(), transform=transform.GetName())


def arrayFromMatrix(matrix: vtk.vtkMatrix4x4) -> np.ndarray:
    """(4, 4) float64."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def matrixFromArray(array: np.ndarray) -> vtk.vtkMatrix4x4:
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(array, float).ravel().tolist())
    return matrix


def parentToWorld(node: Any) -> np.ndarray:
    """(4, 4): what the (linear) transforms above the node do. Raises BadVolume when they are no matrix."""
    matrix = vtk.vtkMatrix4x4()
    transform = node.GetParentTransformNode()
    if transform is not None and not transform.GetMatrixTransformToWorld(matrix):
        raise BadVolume(validateTransform(node))
    return arrayFromMatrix(matrix)


def ijkToRas(volumeNode: Any) -> np.ndarray:
    """(4, 4) without the transforms above the node."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return arrayFromMatrix(matrix)


def ijkToWorld(volumeNode: Any) -> np.ndarray:
    """(4, 4) with the transforms above the node."""
    return parentToWorld(volumeNode) @ ijkToRas(volumeNode)


def voxels(volumeNode: Any) -> np.ndarray:
    """The node's own voxels (K, J, I), not a copy: never write to it."""
    from vtk.util.numpy_support import vtk_to_numpy

    image = volumeNode.GetImageData()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])


def volumeFromNode(volumeNode: Any) -> Volume:
    """The node as the engine takes it; its voxels are not copied.

    Raises:
      BadVolume: with the words of ``validateVolume``.
    """
    problem = validateVolume(volumeNode)
    if problem:
        raise BadVolume(problem)
    return Volume(voxels(volumeNode), ijkToWorld(volumeNode), volumeNode.GetName())


def worldFromSlicePoint(volumeNode: Any, axis: int, index: int, row: float, column: float) -> np.ndarray:
    """(3,) world position of a point of one slice; ``axis`` and ``index`` as in SliceDone."""
    kji = np.insert(np.array([row, column], float), axis, float(index))
    return (ijkToWorld(volumeNode) @ np.array([*kji[::-1], 1.0]))[:3]


def viewedSlice(volumeNode: Any, axis: int) -> int | None:
    """The slice across an array axis that a slice view shows; None when no view looks along that axis."""
    matrix = ijkToWorld(volumeNode)
    for view in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
        plane = np.linalg.inv(matrix) @ arrayFromMatrix(view.GetSliceToRAS())  # in indices
        normal = matrix[:3, 2 - axis] / np.linalg.norm(matrix[:3, 2 - axis])
        index = round(float(plane[2 - axis, 3]))
        if abs(normal @ arrayFromMatrix(view.GetSliceToRAS())[:3, 2]) > ALONG:
            return index if 0 <= index < voxels(volumeNode).shape[axis] else None
    return None


def worldFromSliceCentre(volumeNode: Any, axis: int, index: int) -> np.ndarray:
    """(3,) world position of the middle of one slice."""
    size = [count for a, count in enumerate(voxels(volumeNode).shape) if a != axis]
    return worldFromSlicePoint(volumeNode, axis, index, (size[0] - 1) / 2, (size[1] - 1) / 2)
