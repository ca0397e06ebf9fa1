"""Training cases of the panel: nodes of the scene or files of a data set, and the labels they add up to."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BadInput
from ..jobs.requests import CaseSource
from ..store.card import LabelInfo
from ..store.terminology import default_label, default_labels
from .exporting import exportArray, exportVolume
from .geometry import transformProblem, volumeProblem, voxels
from .i18n import _
from .segments import labelmapProblem, segmentMask, segmentNames


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

    def problem(self) -> str:
        """Why this case cannot be used; empty when it can."""
        reason = volumeProblem(self.volumeNode)
        if reason:
            return reason
        if self.segmentationNode is None:
            return _("{case} has no segmentation.").format(case=self.title)
        if not self.segments():
            text = _("{segmentation} has no segment {segment}.")
            return text.format(segmentation=self.segmentationNode.GetName(), segment=self.segment)
        return transformProblem(self.segmentationNode) or labelmapProblem(self.segmentationNode)


@dataclass
class FileCase:
    """A case of a data set folder."""

    name: str
    image: Path
    labels: Path
    names: dict[int, str] = field(default_factory=dict)
    slices: str = "all"
    domain: str = ""

    @property
    def title(self) -> str:
        return self.name

    def problem(self) -> str:
        absent = next((path for path in (self.image, self.labels) if not path.exists()), None)
        return _("The file {path} is gone.").format(path=absent) if absent else ""


AnyCase = SceneCase | FileCase


def casesProblem(cases: Sequence[AnyCase]) -> str:
    """Why these cases cannot be trained on together; empty when they can."""
    if not cases:
        return _("Add at least one case: a volume with its segmentation.")
    reason = next(filter(None, (case.problem() for case in cases)), "")
    if reason:
        return reason
    files = [case for case in cases if isinstance(case, FileCase)]
    if any(case.names != files[0].names for case in files):
        return _("The data set folders have different labels. Train on one of them at a time.")
    scene = [case for case in cases if isinstance(case, SceneCase)]
    if files and any(set(case.segments().values()) - set(files[0].names.values()) for case in scene):
        return _("Segments of the scene have names that the data set's labels do not have. Rename the segments.")
    return ""


def labelsOf(cases: Sequence[AnyCase]) -> tuple[LabelInfo, ...]:
    """What the model will find. One segment per case counts as the same label, whatever its name."""
    files = [case for case in cases if isinstance(case, FileCase)]
    if files:
        return default_labels(files[0].names)
    scene = [case for case in cases if isinstance(case, SceneCase)]
    if areSingle(cases):
        first = scene[0]
        identifier, name = next(iter(first.segments().items()))
        return (_labelOfSegment(1, name, first.segmentationNode, identifier),)
    labels: dict[str, LabelInfo] = {}
    for case in scene:
        for identifier, name in case.segments().items():
            if name not in labels:
                labels[name] = _labelOfSegment(len(labels) + 1, name, case.segmentationNode, identifier)
    return tuple(labels.values())


def areSingle(cases: Sequence[AnyCase]) -> bool:
    """Whether every case is of the scene and has exactly one segment to learn."""
    return all(isinstance(case, SceneCase) and len(case.segments()) == 1 for case in cases)


def valuesToLearn(cases: Sequence[AnyCase]) -> dict[str, int]:
    """Segment name to label value, as ``labelsOf`` counts them."""
    if areSingle(cases):
        return dict.fromkeys(_segmentNames(cases), 1)
    return {label.name: label.value for label in labelsOf(cases)}


def valuesKnown(cases: Sequence[AnyCase], labels: Sequence[LabelInfo]) -> dict[str, int]:
    """Segment name to label value for the segments that a model's labels name.

    One segment per case is the label of a model that has one, whatever their names.

    Raises:
      BadInput: when a case has none of them.
    """
    if len(labels) == 1 and areSingle(cases):
        return dict.fromkeys(_segmentNames(cases), labels[0].value)
    values = {label.name: label.value for label in labels}
    for case in cases:
        if isinstance(case, SceneCase) and values.keys().isdisjoint(case.segments().values()):
            text = _("{case} has no segment that the model knows; it knows {names}.")
            what = text.format(case=case.title, names=", ".join(values))
            raise BadInput(what, _("Rename the segment, or say which one it is: labels=NAME."))
    return {name: value for name, value in values.items() if name in _segmentNames(cases)}


def exportCases(
    cases: Sequence[AnyCase], folder: Path, values: dict[str, int] | None = None
) -> Generator[None, None, tuple[CaseSource, ...]]:
    """The cases as the engine takes them, voxels and label maps copied to files in small steps.

    Arguments:
      values: segment name to label value, other segments are left out; None for ``valuesToLearn``.
    """
    values = valuesToLearn(cases) if values is None else values
    sources = []
    for name, case in zip(uniqueNames(cases), cases, strict=True):
        if isinstance(case, FileCase):
            sources.append(CaseSource(name, case.image, case.labels, case.slices, case.domain))
            continue
        image = yield from exportVolume(case.volumeNode, folder)
        labels = np.zeros(voxels(case.volumeNode).shape, np.uint16)
        yield from paintLabels(labels, case, values)
        path = yield from exportArray(labels, folder)
        sources.append(CaseSource(name, image, path, case.slices))
    return tuple(sources)


def paintLabels(labels: np.ndarray, case: SceneCase, values: dict[str, int]) -> Iterator[None]:
    """Writes the case's segments into a label map (K, J, I); later segments win where they overlap."""
    for identifier, name in case.segments().items():
        if name in values:
            mask = segmentMask(case.segmentationNode, identifier, case.volumeNode)
            yield
            labels[mask > 0] = values[name]
            yield
    if not labels.any():
        text = _("The segments of {case} are empty where its volume is.")
        raise BadInput(text.format(case=case.title), _("Check that volume and segmentation belong together."))


def uniqueNames(cases: Sequence[AnyCase]) -> list[str]:
    """The cases' titles, numbered where two are alike."""
    names: list[str] = []
    for case in cases:
        name, number = case.title, 2
        while name in names:
            name, number = f"{case.title} {number}", number + 1
        names.append(name)
    return names


def readFolder(folder: Path) -> list[FileCase]:
    """The cases of a data set folder. Raises BadDataset."""
    from ..data.cases import read_dataset

    dataset = read_dataset(folder)
    return [
        FileCase(case.name, case.image, case.labels, dataset.labels, case.slices, case.domain)
        for case in dataset.cases
        if isinstance(case.image, Path) and isinstance(case.labels, Path)
    ]


def _segmentNames(cases: Sequence[AnyCase]) -> list[str]:
    return [name for c in cases for name in (c.segments() if isinstance(c, SceneCase) else c.names).values()]


def _labelOfSegment(value: int, name: str, segmentationNode: Any, identifier: str) -> LabelInfo:
    """Name and colour as the user sees them; terminology as chosen, or as the name suggests."""
    segment = segmentationNode.GetSegmentation().GetSegment(identifier)
    red, green, blue = (round(part * 255) for part in segment.GetColor())
    suggested = default_label(value, name)
    return LabelInfo(value, name, (red, green, blue), suggested.terminology)
