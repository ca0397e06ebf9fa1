"""How close a segmentation is to the truth: Dice, HD95, ASSD, volume error on the volume's own grid, in mm.

Two protocols stand side by side (E-8): ``labelled`` looks only at slices whose truth holds the label (the
paper's: it cannot see what is painted elsewhere), ``all`` looks at the whole volume. A third, ``reference``,
is the published code's Dice on the 256 x 256 grid (E-22).

Undefined values are ``None`` and stay out of every mean:

- the label is absent in truth and prediction: nothing to measure, every value is None (as in nnU-Net);
- absent in one of the two: Dice is 0, the distances are None; the volume error is -100 % when it is the
  prediction that is empty, None when it is the truth.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..data.slices import Slices

PROTOCOLS = ("labelled", "all", "reference")
MEASURES = ("dice", "hd95_mm", "assd_mm", "volume_error_percent")


@dataclass(frozen=True)
class Metrics:
    """One label of one case under one protocol."""

    dice: float | None = None
    hd95_mm: float | None = None  # the larger of the two directed 95th percentiles
    assd_mm: float | None = None  # mean over both surfaces
    volume_error_percent: float | None = None  # (prediction - truth) / truth, signed
    truth_ml: float = 0.0
    predicted_ml: float = 0.0
    slices: int = 0  # slices looked at

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float], slices: int = 0) -> Metrics:
    """All measures of one binary mask.

    Arguments:
      prediction, truth: bool (K, J, I).
      spacing: mm along K, J, I.
      slices: how many slices the caller looked at, for the report.
    """
    voxel_ml = float(np.prod(spacing)) / 1000.0
    volumes = {"truth_ml": float(truth.sum()) * voxel_ml, "predicted_ml": float(prediction.sum()) * voxel_ml}
    if not truth.any() and not prediction.any():
        return Metrics(slices=slices)
    if not truth.any():
        return Metrics(dice=0.0, slices=slices, **volumes)
    error = (volumes["predicted_ml"] / volumes["truth_ml"] - 1.0) * 100.0
    if not prediction.any():
        return Metrics(dice=0.0, volume_error_percent=error, slices=slices, **volumes)
    dice, hd95, assd = _overlap_and_distances(prediction, truth, spacing)
    return Metrics(dice, hd95, assd, error, slices=slices, **volumes)


def _overlap_and_distances(
    prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float]
) -> tuple[float, float, float]:
    """Dice, HD95 and ASSD by MONAI of two non-empty masks, within the box that holds both (plus one voxel)."""
    import torch
    from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance

    box = bounding_box(prediction | truth)
    # The empty rim lets a mask that touches the border of the volume have a surface there.
    ours, theirs = (torch.from_numpy(np.pad(mask[box], 1))[None, None] for mask in (prediction, truth))
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
    prediction: np.ndarray, truth: np.ndarray, value: int, slices: Slices, known: np.ndarray | None = None
) -> dict[str, Metrics]:
    """One label of one case under every protocol.

    Arguments:
      prediction, truth: label maps (K, J, I) on the volume's grid.
      value: the label's value in both.
      slices: the volume as the model slices it.
      known: bool per slice along ``slices.axis``, where the truth was drawn; None = everywhere. Protocol
        ``all`` then means all of these.
    """
    axis, spacing = slices.axis, slices.volume.spacing
    predicted, true = prediction == value, truth == value
    labelled = slices_with(true, axis)
    everywhere = np.ones(true.shape[axis], bool) if known is None else known
    scores = {}
    for protocol, keep in (("labelled", labelled), ("all", everywhere)):
        scores[protocol] = measure(
            only_slices(predicted, axis, keep), only_slices(true, axis, keep), spacing, int(keep.sum())
        )
    scores["reference"] = _reference(predicted, true, slices)
    return scores


def _reference(predicted: np.ndarray, true: np.ndarray, slices: Slices) -> Metrics:
    """Dice as the published code computes it (E-22, E-11): resized 256 x 256 slices from the first labelled
    slice to the last but one, stacked, without spacing; 0 when both are empty. The labels are resized to the
    nearest pixel, without the erosion of E-13.
    """
    pairs = []
    drawn, found = true.astype(np.uint8), predicted.astype(np.uint8)
    for index in range(len(slices)):
        small = slices.truth(drawn, index) > 0
        if small.any():
            pairs.append((slices.truth(found, index) > 0, small))
    if not pairs:
        return Metrics()
    pairs = pairs[:-1]
    overlap = sum(int((a & b).sum()) for a, b in pairs)
    total = sum(int(a.sum()) + int(b.sum()) for a, b in pairs)
    return Metrics(dice=2.0 * overlap / total if total else 0.0, slices=len(pairs))
