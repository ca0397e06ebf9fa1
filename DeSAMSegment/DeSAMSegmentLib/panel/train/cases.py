"""Training cases of the panel: nodes of the scene or files of a data set, and the labels they add up to."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from slicer.i18n import tr as _

from ...data.cases import Case
from ...data.labels import IGNORE, Names, Overlay, find_label, label_values, plain
from ...errors import BadInput
from ...store.card import LabelInfo
from ...store.terminology import default_label, default_labels
from ..scene.export import exportArray, exportVolume
from ..scene.geometry import validateTransform, validateVolume, voxels
from ..scene.segments import segmentMask, segmentNames, validateLabelmap


@dataclass
class SceneCase:
    """A volume node with its segmentation node; ``segment`` is a segment's name, "" means all."""

    volumeNode: Any
    segmentationNode: Any
    segment: str = ""
    slices: str = "all"

    @property
    def title(self) -> str:
        return str(self.volumeNode.GetName()) if self.volumeNode else ""

    def segments(self) -> dict[str, str]:
        """Segment ID to name of the segments to learn."""
        names = segmentNames(self.segmentationNode)
        return {key: name for key, name in names.items() if self.segment in ("", name)}

    def validate(self) -> str:
        """Why this case cannot be used; empty when it can."""
        reason = validateVolume(self.volumeNode)
        if reason:
            return reason
        if self.segmentationNode is None:
            return _("{case} has no segmentation.").format(case=self.title)
        if not self.segments():
            text = _("{segmentation} has no segment {segment}.")
            return text.format(segmentation=self.segmentationNode.GetName(), segment=self.segment)
        return validateTransform(self.segmentationNode) or validateLabelmap(self.segmentationNode)


@dataclass
class CorrectedCase(SceneCase):
    """A result of which some slices count, with nothing in them too; the others are nobody's.

    Attributes:
      labels: segment ID to label of the model. axis, positions: of the array (K, J, I), the slices that count.
    """

    labels: dict[str, str] = field(default_factory=dict)
    axis: int = 0
    positions: tuple[int, ...] = ()

    def segments(self) -> dict[str, str]:
        return self.labels

    def ignoreOthers(self, overlay: Overlay) -> Names:
        """Marks the other slices; the names of the overlay's values, that of the marked voxels included."""
        names = overlay.names
        value = 1 + max((value for values in names.values() for value in values), default=0)
        others = np.delete(np.arange(overlay.array.shape[self.axis]), self.positions)
        np.moveaxis(overlay.array, self.axis, 0)[others] = value
        return names | {IGNORE: (value,)}


class UnlabelledCase(SceneCase):
    """A volume that the model itself is to label (``TrainOptions.unlabelled``)."""

    def __init__(self, volumeNode: Any) -> None:
        super().__init__(volumeNode, None)

    def segments(self) -> dict[str, str]:
        return {}

    def validate(self) -> str:
        return validateVolume(self.volumeNode)


AnyCase = SceneCase | Case


def caseTitle(case: AnyCase) -> str:
    return case.title if isinstance(case, SceneCase) else case.name


def validateCase(case: AnyCase) -> str:
    """Why this case cannot be used; empty when it can."""
    if isinstance(case, SceneCase):
        return case.validate()
    absent = next((path for path in (case.image, case.labels) if isinstance(path, Path) and not path.exists()), None)
    return _("The file {path} was not found.").format(path=absent) if absent else ""


def validateCases(cases: Sequence[AnyCase]) -> str:
    """Why these cases cannot be trained on together; empty when they can."""
    if not cases:
        return _("Add at least one case: a volume with its segmentation.")
    reason = next(filter(None, map(validateCase, cases)), "")
    if reason:
        return reason
    files = [case for case in cases if isinstance(case, Case)]
    known = set(map(plain, label_values(files[0].names).values())) if files else set()
    if any(set(map(plain, label_values(case.names).values())) != known for case in files):
        return _("The data set folders have different labels. Train on one of them at a time.")
    scene = [case for case in cases if isinstance(case, SceneCase)]
    if files and any(set(map(plain, case.segments().values())) - known for case in scene):
        return _("Segments of the scene have names that the data set's labels do not have. Rename the segments.")
    return ""


def labelsFor(cases: Sequence[AnyCase]) -> tuple[LabelInfo, ...]:
    """What the model will find. One segment per case counts as the same label, whatever its name."""
    files = [case for case in cases if isinstance(case, Case)]
    if files:
        return default_labels(label_values(files[0].names))
    scene = [case for case in cases if isinstance(case, SceneCase)]
    if areSingle(cases):
        first = scene[0]
        identifier, name = next(iter(first.segments().items()))
        return (_labelFromSegment(1, name, first.segmentationNode, identifier),)
    labels: dict[str, LabelInfo] = {}
    for case in scene:
        for identifier, name in case.segments().items():
            if find_label(name, labels) is None:
                labels[name] = _labelFromSegment(len(labels) + 1, name, case.segmentationNode, identifier)
    return tuple(labels.values())


def areSingle(cases: Sequence[AnyCase]) -> bool:
    """Whether every case is of the scene and has exactly one segment to learn."""
    return all(isinstance(case, SceneCase) and len(case.segments()) == 1 for case in cases)


def exportCases(cases: Sequence[AnyCase], folder: Path) -> Generator[None, None, tuple[Case, ...]]:
    """The cases as the engine takes them, voxels and segments copied to files in small steps."""
    exported = []
    for name, case in zip(uniqueNames(cases), cases, strict=True):
        if isinstance(case, Case):
            exported.append(replace(case, name=name))
            continue
        image = yield from exportVolume(case.volumeNode, folder)
        if isinstance(case, UnlabelledCase):
            exported.append(Case(name, image))
            continue
        overlay = Overlay(voxels(case.volumeNode).shape)
        yield from paintSegments(overlay, case)
        names = case.ignoreOthers(overlay) if isinstance(case, CorrectedCase) else overlay.names
        mapped = yield from exportArray(overlay.array, folder)
        exported.append(Case(name, image, mapped, slices=case.slices, names=names))
    return tuple(exported)


def paintSegments(overlay: Overlay, case: SceneCase) -> Iterator[None]:
    """Paints the case's segments by name; where they overlap, a voxel is of all of them."""
    for identifier, name in case.segments().items():
        mask = segmentMask(case.segmentationNode, identifier, case.volumeNode)
        yield
        overlay.paint(name, mask > 0)
        yield
    if not overlay.array.any() and not isinstance(case, CorrectedCase):
        text = _("The segments of {case} are empty where its volume is.")
        raise BadInput(text.format(case=case.title), _("Check that volume and segmentation belong together."))


def uniqueNames(cases: Sequence[AnyCase]) -> list[str]:
    """The cases' titles, numbered where two are alike."""
    names: list[str] = []
    for case in cases:
        name, number = caseTitle(case), 2
        while name in names:
            name, number = f"{caseTitle(case)} {number}", number + 1
        names.append(name)
    return names


def readFolder(folder: Path) -> list[Case]:
    """The labelled cases of a data set folder. Raises BadDataset."""
    from ...data.cases import read_dataset

    return [case for case in read_dataset(folder).cases if case.labels is not None]


def _labelFromSegment(value: int, name: str, segmentationNode: Any, identifier: str) -> LabelInfo:
    """Name and colour as the user sees them; terminology as chosen, or as the name suggests."""
    segment = segmentationNode.GetSegmentation().GetSegment(identifier)
    red, green, blue = (round(part * 255) for part in segment.GetColor())
    suggested = default_label(value, name)
    return LabelInfo(value, name, (red, green, blue), suggested.terminology)
