"""Learning from corrections: which slices of which results count, and the run that makes a new version of the model."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from typing import Any

from slicer.i18n import tr as _

from ...data.labels import closest, listed, match
from ...data.slices import Slices
from ...engine.options import SegmentOptions, resolve
from ...errors import BadInput
from ..models.registry import RegisteredModel, Registry
from ..scene.geometry import volumeFromNode
from ..scene.segments import segmentNames
from .cases import AnyCase, CorrectedCase, uniqueNames
from .run import TrainRun, trainOptions

UNLABELLED: dict[str, Any] = {"unlabelled": True, "minutes": None}  # what an adaptation changes of corrections
CUT = ("slice_axis", "intensity", "window")  # options that say how a volume is cut, for segmenting and training alike


def correctedCase(
    model: RegisteredModel, volumeNode: Any, segmentationNode: Any, slices: Collection[int] | None, **cut: Any
) -> CorrectedCase:
    """Slices of a segmentation, its segments matched to the model's labels by name.

    Arguments:
      slices: positions along the axis that the model cuts across; None = all. cut: options of ``CUT``.

    Raises:
      BadInput: no segment that the model knows, or a slice that does not exist.
    """
    names = segmentNames(segmentationNode)
    pairs = match([label.name for label in model.card.labels], list(names.values()))
    if not pairs:
        what = _("{case} has no segment that the model knows; it knows {names}.")
        known = [label.name for label in model.card.labels]
        what = what.format(case=segmentationNode.GetName(), names=listed(known))
        raise BadInput(f"{what}{closest(names.values(), known)}", _("Rename the segment."))
    volume = volumeFromNode(volumeNode)
    axis = Slices(volume, resolve(model.card, SegmentOptions(**cut))[1]).axis
    every = range(volume.array.shape[axis])
    chosen = tuple(every) if slices is None else tuple(sorted(slices))
    if not set(chosen) <= set(every):
        what = _("{volume} has no slice {number}.").format(volume=volume.title, number=chosen[-1])
        raise BadInput(what, _("Slices are counted from 0 to {last}.").format(last=every[-1]))
    labels = {next(key for key, name in names.items() if name == theirs): ours for ours, theirs in pairs.items()}
    return CorrectedCase(volumeNode, segmentationNode, labels=labels, axis=axis, positions=chosen)


def replayable(model: RegisteredModel, cases: Sequence[AnyCase]) -> list[AnyCase]:
    """Those of some cases that the model has learnt from, by name."""
    known = set(model.card.training.get("cases", ()))
    return [case for name, case in zip(uniqueNames(cases), cases, strict=True) if name in known]


def learningRun(
    registry: Registry,
    model: RegisteredModel,
    cases: Sequence[AnyCase],
    replay: Sequence[AnyCase],
    device: str,
    **changes: Any,
) -> TrainRun:
    """The run that makes the model's next version; what an earlier one of that name left is removed.

    Arguments:
      cases: corrected ones, or with ``unlabelled=True`` any volumes.

    Raises:
      BadInput: nothing to learn from.
    """
    if not any(case.positions for case in cases if isinstance(case, CorrectedCase)) and not changes.get("unlabelled"):
        raise BadInput(_("There is no corrected slice."), _("Edit or accept some slices of a result first."))
    mode = model.card.inference.get("mode", "grid")
    chosen = {"profile": "corrections", "name": registry.nextVersion(model.name), "mode": mode} | changes
    base = model.name if registry.find(model.name) is not None else str(model.path)
    options = trainOptions(registry, base, **chosen).check()
    folder = registry.runFolder(options.name)
    shutil.rmtree(folder, ignore_errors=True)
    return TrainRun(cases, options, folder, device, labels=model.card.labels, replay=replay)
