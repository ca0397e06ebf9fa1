"""Results land on the right voxels of the scene, and on nothing else; read back with Slicer's own functions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import host
import numpy as np
import pytest

slicer = host.start()

import vtk  # noqa: E402
from DeSAMSegmentLib.errors import BadInput, BadVolume, DiskFull  # noqa: E402
from DeSAMSegmentLib.panel.scene import geometry, results, segments  # noqa: E402
from DeSAMSegmentLib.panel.scene.export import exportVolume  # noqa: E402
from DeSAMSegmentLib.store.card import LabelInfo  # noqa: E402
from DeSAMSegmentLib.store.terminology import default_label  # noqa: E402
from host import phantom  # noqa: E402

SHAPE = (9, 11, 13)
LABELS = [LabelInfo(1, "prostate", (200, 100, 50)), LabelInfo(4, "lesion", (0, 255, 0))]
RNG = np.random.default_rng(0)
TRUTH = np.where(RNG.random(SHAPE) > 0.7, 1, 0).astype(np.uint8) + 4 * (RNG.random(SHAPE) > 0.9).astype(np.uint8)
TRUTH[TRUTH == 5] = 4


@pytest.fixture(autouse=True)
def emptyScene() -> Any:
    slicer.mrmlScene.Clear(0)
    host.failures.clear()
    yield
    assert host.failures == []


def rotation() -> np.ndarray:
    a, b = np.cos(0.4), np.sin(0.4)
    return np.array([[a, -b, 0], [b, a, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, a, -b], [0, b, a]])


def matrix(kind: str) -> np.ndarray:
    m = np.eye(4)
    spacing = np.diag([0.7, 0.8, 2.5])
    m[:3, :3] = {
        "axial": spacing,
        "oblique": rotation() @ spacing,
        "flipped": spacing @ np.diag([-1, -1, 1]),
        "upside down": spacing @ np.diag([1, -1, -1]),
        "sagittal": np.array([[0, 0, 2.5], [0.7, 0, 0], [0, 0.8, 0]]),
        "left-handed": spacing @ np.diag([-1, 1, 1]),
    }[kind]
    m[:3, 3] = 10, -20, 30
    return m


GEOMETRIES = ["axial", "oblique", "flipped", "upside down", "sagittal", "left-handed"]


def makeVolume(kind: str = "axial", shape: tuple[int, ...] = SHAPE) -> Any:
    array = RNG.integers(0, 1000, shape).astype(np.int16)
    return slicer.util.addVolumeFromArray(array, matrix(kind), kind)


def putUnderTransform(node: Any, shift: tuple[float, float, float] = (5, 6, 7)) -> Any:
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "registration")
    m = np.eye(4)
    m[:3, :3], m[:3, 3] = rotation(), shift
    transform.SetMatrixTransformToParent(geometry.matrixFromArray(m))
    node.SetAndObserveTransformNodeID(transform.GetID())
    return transform


def write(volume: Any, segmentation: Any = None, axis: int = 0) -> results.ResultWriter:
    writer = results.ResultWriter(volume, segmentation, LABELS, "test model")
    for index in range(SHAPE[axis]):
        writer.writeSlice(axis, index, np.take(TRUTH, index, axis))
    results.complete(writer.seal())
    writer.close()
    return writer


def seen(writer: results.ResultWriter, volume: Any) -> np.ndarray:
    """The segments as Slicer itself resamples them onto the volume."""
    found = np.zeros(SHAPE, np.uint8)
    for value, identifier in writer.segmentIDs.items():
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(writer.segmentationNode, identifier, volume)
        found[mask > 0] = value
    return found


@pytest.mark.parametrize("kind", GEOMETRIES)
@pytest.mark.parametrize("transformed", [False, True], ids=["plain", "transformed"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_voxel_is_where_it_was_computed(kind: str, transformed: bool, axis: int) -> None:
    volume = makeVolume(kind)
    if transformed:
        putUnderTransform(volume)
    writer = write(volume, axis=axis)
    assert np.array_equal(seen(writer, volume), TRUTH)
    for value, identifier in writer.segmentIDs.items():
        assert np.array_equal(segments.segmentMask(writer.segmentationNode, identifier, volume), value == TRUTH)


def test_a_new_segmentation_is_named_placed_and_drawn_as_the_card_says() -> None:
    volume = makeVolume("oblique")
    transform = putUnderTransform(volume)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    study = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "patient")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(volume), study)
    node = write(volume).segmentationNode
    assert node.GetName() == "oblique segmentation"
    assert node.GetParentTransformNode() is transform
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study
    assert list(segments.segmentNames(node).values()) == ["prostate", "lesion"]
    segment = node.GetSegmentation().GetNthSegment(0)
    assert segment.GetColor() == pytest.approx((200 / 255, 100 / 255, 50 / 255))
    assert node.GetNodeReference("referenceImageGeometryRef") is volume


def addUserSegments(node: Any, volume: Any) -> dict[str, np.ndarray]:
    """Two overlapping hand-drawn segments."""
    masks = {}
    for name, start in (("tumour", 2), ("margin", 3)):
        mask = np.zeros(slicer.util.arrayFromVolume(volume).shape, np.uint8)
        mask[start : start + 3, start : start + 4, start : start + 5] = 1
        identifier = node.GetSegmentation().AddEmptySegment(name, name)
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, identifier, volume)
        masks[identifier] = mask
    return masks


def userSegmentsAreIntact(node: Any, volume: Any, masks: dict[str, np.ndarray]) -> bool:
    return all(
        np.array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(node, identifier, volume), mask)
        for identifier, mask in masks.items()
    )


@pytest.mark.parametrize("sameGeometry", [True, False])
@pytest.mark.parametrize("surfaces", [True, False])
def test_other_segments_of_a_chosen_segmentation_are_never_touched(sameGeometry: bool, surfaces: bool) -> None:
    volume = makeVolume("oblique")
    other = volume if sameGeometry else makeVolume("sagittal", (8, 14, 10))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    node.SetReferenceImageGeometryParameterFromVolumeNode(other)
    masks = addUserSegments(node, other)
    if surfaces:
        node.CreateClosedSurfaceRepresentation()
    writer = write(volume, node)
    assert writer.segmentationNode is node
    assert userSegmentsAreIntact(node, other, masks)
    assert np.array_equal(seen(writer, volume), TRUTH)
    assert node.GetSegmentation().ContainsRepresentation(segments.SURFACE) == surfaces
    assert node.GetNodeReference("referenceImageGeometryRef") is other


def test_a_chosen_segmentation_under_another_transform_stays_there() -> None:
    volume = makeVolume("oblique")
    putUnderTransform(volume)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    transform = putUnderTransform(node, (1, 2, 3))
    writer = write(volume, node)
    assert node.GetParentTransformNode() is transform
    for value, identifier in writer.segmentIDs.items():
        assert np.array_equal(segments.segmentMask(node, identifier, volume), value == TRUTH)


def test_saving_the_scene_in_the_middle_of_a_run_loses_nothing(tmp_path: Any) -> None:
    volume = makeVolume()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    masks = addUserSegments(node, volume)
    writer = results.ResultWriter(volume, node, LABELS, "test model")
    for index in range(SHAPE[0]):
        if index == 4:
            writer.flush()
            slicer.util.saveNode(node, str(tmp_path / "mine.seg.nrrd"), {})
        writer.writeSlice(0, index, TRUTH[index])
    writer.close()
    assert np.array_equal(seen(writer, volume), TRUTH)
    assert userSegmentsAreIntact(node, volume, masks)


def test_the_final_label_map_replaces_what_clean_up_changed() -> None:
    volume = makeVolume()
    writer = write(volume)
    final = TRUTH.copy()
    final[2:5] = 0
    for _ in writer.writeVolume(final):
        pass
    writer.close()
    assert np.array_equal(seen(writer, volume), final)


def test_undo_of_a_run_is_one_step() -> None:
    volume = makeVolume()
    writer = write(volume)
    assert writer.undo.restore()
    assert writer.segmentationNode is None
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    masks = addUserSegments(node, volume)
    writer = write(volume, node)
    assert writer.undo.restore()
    assert list(segments.segmentNames(node)) == list(masks)
    assert userSegmentsAreIntact(node, volume, masks)


def test_undo_removes_no_node_that_the_user_made_or_drew_in() -> None:
    volume = makeVolume()
    writer = write(volume)
    node = writer.segmentationNode
    masks = addUserSegments(node, volume)
    assert writer.undo.restore()
    assert list(segments.segmentNames(node)) == list(masks)
    assert slicer.mrmlScene.IsNodePresent(node)
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    assert write(volume, empty).undo.restore()
    assert slicer.mrmlScene.IsNodePresent(empty)


def test_a_segment_carries_the_terminology_of_its_label() -> None:
    label = default_label(1, "prostate")
    writer = results.ResultWriter(makeVolume(), None, [label], "test model")
    segment = writer.segmentationNode.GetSegmentation().GetSegment(writer.segmentIDs[1])
    assert segment.GetTerminology() == label.terminology


def test_a_second_run_replaces_its_own_result_and_undo_brings_the_first_back() -> None:
    volume = makeVolume()
    first = write(volume)
    node = first.segmentationNode
    second = results.ResultWriter(volume, node, LABELS, "test model")
    results.complete(second.seal())
    second.close()
    assert len(segments.segmentNames(node)) == 2
    assert not seen(second, volume).any()
    assert second.undo.restore()
    assert np.array_equal(seen(first, volume), TRUTH)


def test_a_result_that_was_corrected_by_hand_is_never_replaced() -> None:
    volume = makeVolume()
    writer = write(volume)
    node, identifier = writer.segmentationNode, writer.segmentIDs[1]
    corrected = (TRUTH == 1).astype(np.uint8)
    corrected[0, 0, 0] = 1 - corrected[0, 0, 0]
    slicer.util.updateSegmentBinaryLabelmapFromArray(corrected, node, identifier, volume)
    write(volume, node)
    assert sorted(segments.segmentNames(node).values()) == ["lesion", "prostate", "prostate 2"]
    assert np.array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(node, identifier, volume), corrected)


def test_a_segmentation_deleted_in_the_middle_of_a_run_is_no_error() -> None:
    volume = makeVolume()
    writer = results.ResultWriter(volume, None, LABELS, "test model")
    slicer.mrmlScene.RemoveNode(writer.segmentationNode)
    writer.writeSlice(0, 0, TRUTH[0])
    writer.close()
    assert not writer.undo.restore()


def test_the_engine_gets_the_world_matrix_and_a_view_of_the_voxels() -> None:
    volume = makeVolume("oblique")
    transform = putUnderTransform(volume)
    source = geometry.volumeFromNode(volume)
    m = vtk.vtkMatrix4x4()
    transform.GetMatrixTransformToWorld(m)
    assert np.allclose(source.ijk_to_ras, geometry.arrayFromMatrix(m) @ matrix("oblique"))
    assert np.shares_memory(source.array, slicer.util.arrayFromVolume(volume))


def makeRefused(kind: str) -> Any:
    if kind == "label map":
        return slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", kind)
    if kind == "empty":
        return slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", kind)
    if kind == "flat":
        return makeVolume("axial", (1, 20, 20))
    if kind == "colour":
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", kind)
        image = vtk.vtkImageData()
        image.SetDimensions(4, 5, 6)
        image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
        node.SetAndObserveImageData(image)
        return node
    volume = makeVolume()
    volume.SetAndObserveTransformNodeID(phantom.addWarp("warp").GetID())
    return volume


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("label map", "label map"), ("empty", "no voxels"), ("flat", "single slice"), ("colour", "values per voxel"),
        ("warped", "non-linear transform warp"),
    ],
)  # fmt: skip
def test_what_cannot_be_segmented_is_refused_with_a_reason(kind: str, words: str) -> None:
    with pytest.raises(BadVolume, match=words):
        geometry.volumeFromNode(makeRefused(kind))


def test_a_segmentation_made_of_surfaces_is_refused_as_output() -> None:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "model")
    sphere = vtk.vtkSphereSource()
    sphere.Update()
    node.SetSourceRepresentationToClosedSurface()
    node.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "ball", [1, 0, 0])
    with pytest.raises(BadInput, match="surfaces"):
        results.ResultWriter(makeVolume(), node, LABELS, "m")


def test_a_segment_nobody_has_painted_yet_is_not_called_a_surface() -> None:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "new")
    node.GetSegmentation().AddEmptySegment("a", "a")
    assert segments.validateLabelmap(node) == ""


def test_a_segment_on_another_grid_is_read_at_the_nearest_voxel() -> None:
    volume, fine = makeVolume("oblique"), makeVolume("oblique", (18, 22, 26))
    m = matrix("oblique")
    m[:3, :3] /= 2
    fine.SetIJKToRASMatrix(geometry.matrixFromArray(m))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn on the coarse one")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    identifier, mask = next(iter(addUserSegments(node, volume).items()))
    expected = slicer.util.arrayFromSegmentBinaryLabelmap(node, identifier, fine)
    assert np.mean(segments.segmentMask(node, identifier, fine) != expected) < 0.01
    assert segments.segmentMask(node, identifier, fine).sum() == pytest.approx(8 * mask.sum(), rel=0.05)


@pytest.mark.skipif(sys.platform == "win32", reason="a limit on the size of files is POSIX")
def test_a_full_temporary_folder_is_an_error_and_not_the_end_of_slicer(tmp_path: Path) -> None:
    """Through a memory map the process died of SIGBUS, and Slicer with it."""
    import resource

    volume = makeVolume(shape=(40, 64, 64))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(DiskFull, match=r"could not be copied to .*Free some space"):
            results.complete(exportVolume(volume, tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
