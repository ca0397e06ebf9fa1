"""How close a segmentation is to ground truth: Dice, HD95, ASSD, volume error on the volume's own grid, in mm.

Two protocols stand side by side: ``labelled`` looks only at slices whose ground truth holds the label (the paper's: it
cannot see what is painted elsewhere), ``all`` looks at the whole volume. A third, ``reference``, is the Dice of the
published code on the 256 x 256 grid (docs/how-it-differs.md).

Undefined values are ``None`` and stay out of every mean:

- the label is absent in ground truth and prediction: nothing to measure, every value is None (as in nnU-Net);
- absent in one of the two: Dice is 0, the distances are None; the volume error is -100 % when it is the
  prediction that is empty, None when it is the ground truth.

Whether a label is found on the right slices is a figure of its own, since one slice painted in error hardly moves the
Dice of a large organ: the share of empty slices that were painted, and of the label's slices that were missed.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...data.slices import Slices

PROTOCOLS = ("labelled", "all", "reference")
PRESENCE = ("painted_percent", "missed_percent")
MEASURES = ("dice", "hd95_mm", "assd_mm", "volume_error_percent", *PRESENCE)


@dataclass(frozen=True)
class Metrics:
    """One label of one case under one protocol."""

    dice: float | None = None
    hd95_mm: float | None = None  # the larger of the two directed 95th percentiles
    assd_mm: float | None = None  # mean over both surfaces
    volume_error_percent: float | None = None  # (prediction - ground truth) / ground truth, signed
    ground_truth_ml: float = 0.0
    predicted_ml: float = 0.0
    slices: int = 0  # slices looked at
    painted_percent: float | None = None  # of the slices without the label, those where it was found
    missed_percent: float | None = None  # of the slices with it, those where nothing was found


def measure(prediction: np.ndarray, target: np.ndarray, spacing: Sequence[float], slices: int = 0) -> Metrics:
    """All measures of one binary mask.

    Arguments:
      prediction, target: bool (K, J, I), the segmentation and the ground truth.
      spacing: mm along K, J, I.
      slices: how many slices the caller looked at, for the report.
    """
    voxel_ml = float(np.prod(spacing)) / 1000.0
    volumes = {"ground_truth_ml": float(target.sum()) * voxel_ml, "predicted_ml": float(prediction.sum()) * voxel_ml}
    if not target.any() and not prediction.any():
        return Metrics(slices=slices)
    if not target.any():
        return Metrics(dice=0.0, slices=slices, **volumes)
    error = (volumes["predicted_ml"] / volumes["ground_truth_ml"] - 1.0) * 100.0
    if not prediction.any():
        return Metrics(dice=0.0, volume_error_percent=error, slices=slices, **volumes)
    dice, hd95, assd = _overlap_and_distances(prediction, target, spacing)
    return Metrics(dice, hd95, assd, error, slices=slices, **volumes)


def _overlap_and_distances(
    prediction: np.ndarray, target: np.ndarray, spacing: Sequence[float]
) -> tuple[float, float, float]:
    """Dice, HD95 and ASSD by MONAI of two non-empty masks, within the box that holds both (plus one voxel)."""
    import torch
    from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance

    box = bounding_box(prediction | target)
    # The empty rim lets a mask that touches the border of the volume have a surface there.
    ours, theirs = (torch.from_numpy(np.pad(mask[box], 1))[None, None] for mask in (prediction, target))
    common: dict[str, Any] = {"include_background": True, "spacing": [float(step) for step in spacing]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI's own deprecations
        dice = compute_dice(ours, theirs, include_background=True)
        hd95 = compute_hausdorff_distance(ours, theirs, percentile=95, **common)
        assd = compute_average_surface_distance(ours, theirs, symmetric=True, **common)
    return float(dice), float(hd95), float(assd)


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box that holds every True of a non-empty mask."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        filled = np.flatnonzero(mask.any(axis=others))
        box.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return tuple(box)


def only_slices(mask: np.ndarray, axis: int, keep: np.ndarray) -> np.ndarray:
    """``mask`` with every slice along ``axis`` emptied whose entry in ``keep`` (bool per slice) is False."""
    shape = [1] * mask.ndim
    shape[axis] = -1
    return mask & keep.reshape(shape)


def slices_with(mask: np.ndarray, axis: int) -> np.ndarray:
    """bool per slice along ``axis``: does the mask hold anything there?"""
    return np.asarray(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))


def score_label(
    predicted: np.ndarray, target: np.ndarray, slices: Slices, known: np.ndarray | None = None
) -> dict[str, Metrics]:
    """One label of one case under every protocol.

    Arguments:
      predicted, target: bool (K, J, I) on the volume's grid, the segmentation and the ground truth.
      slices: the volume as the model slices it.
      known: bool per slice along ``slices.axis``, where there is ground truth; None = everywhere. Protocol
        ``all`` then means all of these.
    """
    axis, spacing = slices.axis, slices.volume.spacing
    labelled = slices_with(target, axis)
    everywhere = np.ones(target.shape[axis], bool) if known is None else known
    scores = {}
    for protocol, keep in (("labelled", labelled), ("all", everywhere)):
        found = only_slices(predicted, axis, keep)
        metrics = measure(found, only_slices(target, axis, keep), spacing, int(keep.sum()))
        painted, missed = presence(slices_with(found, axis), labelled, keep)
        scores[protocol] = replace(metrics, painted_percent=painted, missed_percent=missed)
    scores["reference"] = _reference(predicted, target, slices)
    return scores


def presence(found: np.ndarray, labelled: np.ndarray, keep: np.ndarray) -> tuple[float | None, float | None]:
    """Empty slices painted and slices with the label missed, in percent; None where there are none of the kind.

    Arguments:
      found, labelled, keep: bool per slice: has the prediction, has the ground truth, is looked at.
    """
    empty, filled = keep & ~labelled, keep & labelled
    painted = 100.0 * float(found[empty].mean()) if empty.any() else None
    return painted, 100.0 * float((~found[filled]).mean()) if filled.any() else None


def _reference(predicted: np.ndarray, target: np.ndarray, slices: Slices) -> Metrics:
    """Dice as the published code computes it: resized 256 x 256 slices from the first labelled slice to the last but
    one, stacked, without spacing; 0 when both are empty. The labels are resized to the nearest pixel, without the
    erosion of the published preparation.
    """
    pairs = []
    drawn, found = target.astype(np.uint8), predicted.astype(np.uint8)
    for index in range(len(slices)):
        small = slices.label_map(drawn, index) > 0
        if small.any():
            pairs.append((slices.label_map(found, index) > 0, small))
    if not pairs:
        return Metrics()
    pairs = pairs[:-1]
    overlap = sum(int((a & b).sum()) for a, b in pairs)
    total = sum(int(a.sum()) + int(b.sum()) for a, b in pairs)
    return Metrics(dice=2.0 * overlap / total if total else 0.0, slices=len(pairs))
