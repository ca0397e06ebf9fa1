"""Small volumes with a bright ellipsoid in noise, and its segmentation: enough for a decoder to learn in seconds."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk

SHAPE = (8, 96, 80)


def ellipsoid(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """(K, J, I) uint8, 1 inside; the first and last slice are empty."""
    rng = np.random.default_rng(seed)
    centre = np.array(shape) / 2 + rng.uniform(-0.06, 0.06, 3) * shape * np.array([0, 1, 1])
    radius = np.array(shape) * np.array([0.4, 0.24, 0.26])
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    mask = ((((grid - centre) / radius) ** 2).sum(axis=-1) < 1).astype(np.uint8)
    mask[[0, -1]] = 0
    return mask


def image(mask: np.ndarray, seed: int) -> np.ndarray:
    """(K, J, I) int16: organ bright, body grey, noise everywhere."""
    rng = np.random.default_rng(seed + 1000)
    body = np.zeros(mask.shape)
    body[:, 6:-6, 6:-6] = 120
    return (body + 180 * mask + rng.normal(0, 12, mask.shape)).astype(np.int16)


def addVolume(name: str, seed: int, matrix: np.ndarray | None = None, shape: tuple[int, int, int] = SHAPE) -> Any:
    """A volume node in the scene."""
    matrix = np.diag([1.0, 1.0, 3.0, 1.0]) if matrix is None else matrix
    return slicer.util.addVolumeFromArray(image(ellipsoid(shape, seed), seed), matrix, name)


def addSegmentation(name: str, seed: int, volume: Any, segment: str = "organ") -> Any:
    """A segmentation node with the volume's ellipsoid."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    identifier = node.GetSegmentation().AddEmptySegment(segment, segment, [0.9, 0.4, 0.2])
    mask = ellipsoid(slicer.util.arrayFromVolume(volume).shape, seed)
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, identifier, volume)
    return node


def addTransform(node: Any) -> Any:
    """Puts a node under a rotation and a shift."""
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "registration")
    rotation = vtk.vtkTransform()
    rotation.Translate(12, -7, 30)
    rotation.RotateZ(20)
    rotation.RotateX(-15)
    transform.SetMatrixTransformToParent(rotation.GetMatrix())
    node.SetAndObserveTransformNodeID(transform.GetID())
    return transform


def addWarp(name: str) -> Any:
    """A non-linear transform node."""
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", name)
    warp = vtk.vtkThinPlateSplineTransform()
    warp.SetBasisToR()
    points = vtk.vtkPoints()
    for point in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
        points.InsertNextPoint(*point)
    warp.SetSourceLandmarks(points)
    warp.SetTargetLandmarks(points)
    transform.SetAndObserveTransformToParent(warp)
    return transform
