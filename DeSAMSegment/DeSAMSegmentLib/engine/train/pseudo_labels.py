"""A new site without labels: slices that the base model is sure of become ground truth, the others teach nothing.

Self-training (the field's names: pseudo-labels, source-free adaptation). The confidence is the calibrated one of
``engine/segment/confidence.py``; what holds the model near its base, or mixes its earlier data in, is that of learning
from corrections.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace

import numpy as np

from ...data.cases import Case, load_case
from ...data.labels import IGNORE
from ...errors import BadInput, is_full, reason
from ..events import LOW_CONFIDENCE, Event, Finished, Log, Progress
from ..options import SegmentOptions
from ..runtime.loading import DeSAM
from ..runtime.session import Session
from ..segment.segment import Segmentation, SegmentResult

FEWEST = 8  # slices that are enough to learn from


def taught(
    cases: Sequence[Case], base: DeSAM, session: Session
) -> Generator[Event, None, tuple[list[Case], dict[str, float]]]:
    """The cases labelled by the base model, as far as it is sure, and figures for the summary of the run.

    Raises:
      BadInput: as ``pseudo_labelled``.
    """
    found = yield from segmented(cases, base.eval(), session)
    labelled, confident = pseudo_labelled(found)
    slices = sum(len(result.confidence) for _, result in found)
    if not base.card.confidence:
        yield Log("The confidence of this model was not calibrated: compare the new version with it.", "warning")
    yield Log(f"{confident} of {slices} slices are confident and teach; the others are left out.")
    return labelled, {"slices": slices, "confident_slices": confident, "confidence": confidence_of(found)}


def compared(
    cases: Sequence[Case], model: DeSAM, session: Session, figures: dict[str, float]
) -> Generator[Event, None, None]:
    """Adds to the figures of ``taught`` how confident the adapted model is, and says both."""
    found = yield from segmented(cases, model.eval(), session)
    figures["confidence_after"] = after = confidence_of(found)
    before = figures["confidence"]
    yield Log(f"Mean confidence of these volumes: {before:.2f} before, {after:.2f} now. It is not their accuracy.")


Pairs = list[tuple[Case, SegmentResult]]


def segmented(cases: Sequence[Case], model: DeSAM, session: Session) -> Generator[Event, None, Pairs]:
    """What the model finds in each case, whatever its labels are; yields Progress and what was worth a Log.

    A case that cannot be segmented is said and left out, the last one's error is raised where all are.
    """
    found: Pairs = []
    for number, case in enumerate(cases, 1):
        try:
            volume, _ = load_case(replace(case, labels=None))
            for event in Segmentation(volume, model, SegmentOptions(), session).events():
                if isinstance(event, Finished):
                    found.append((case, event.result))
                elif isinstance(event, Log):
                    yield event
        except Exception as error:  # whatever a library raises: it costs this case and no other
            if is_full(error) or (number == len(cases) and not found):
                raise
            yield Log(f"{case.name} is left out: {reason(error)}", "warning")
        yield Progress("Segmenting the volumes", number, len(cases))
    return found


def confidence_of(found: Pairs) -> float:
    """Mean confidence of all slices in which something was found; 0 where nothing was."""
    said = [result.confidence[position] for _, result in found for position in _found(result)]
    return float(np.mean(said)) if said else 0.0


def pseudo_labelled(found: Pairs) -> tuple[list[Case], int]:
    """The cases with their confident slices as ground truth and all others ignored; how many slices teach.

    Raises:
      BadInput: fewer than ``FEWEST`` slices are confident: the model would learn its own mistakes.
    """
    labelled, taught = [], 0
    for case, result in found:
        sure = [position for position in _found(result) if result.confidence[position] >= LOW_CONFIDENCE]
        if not sure:
            continue
        taught += len(sure)
        unknown = max(label.value for label in result.card.labels) + 1
        labels = result.labels.astype(np.uint32 if unknown > 255 else np.uint8)
        stack = np.moveaxis(labels, result.axis, 0)
        stack[np.delete(np.arange(len(stack)), sure)] = unknown
        names = {label.name: (label.value,) for label in result.card.labels} | {IGNORE: (unknown,)}
        labelled.append(replace(case, labels=labels, names=names))
    if taught < FEWEST:
        slices = sum(len(result.confidence) for _, result in found)
        raise BadInput(
            f"The model is sure of {taught} of {slices} slices only: it would learn its own mistakes.",
            "Label a few slices of the new site and fine-tune on them.",
        )
    return labelled, taught


def _found(result: SegmentResult) -> list[int]:
    """Positions of the slices in which something was found."""
    filled = np.asarray(np.moveaxis(result.labels, result.axis, 0).any((1, 2)))
    return [position for position in sorted(result.confidence) if filled[position]]
