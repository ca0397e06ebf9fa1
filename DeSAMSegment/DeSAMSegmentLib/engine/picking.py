"""Which of a slice's grid masks is the answer (the published rule; docs/how-it-differs.md).

The published pipeline decodes every mask, filters by predicted IoU, suppresses boxes twice, cleans small regions in
between and then reads only the first record. The same record can be found lazily: visit the accepted points by falling
predicted IoU, decode one mask at a time, and stop at the first that the clean-up leaves unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from .postprocess import clean_small_regions

BOX_OVERLAP = 0.7  # published box suppression threshold, used before and after the clean-up
REFERENCE_MIN_AREA = 1000  # pixels of the 256 x 256 grid, published


@dataclass(frozen=True)
class Candidate:
    """One decoded prompt: its number on the grid, predicted IoU, logits (256, 256) and mask (256, 256) bool."""

    prompt: int
    iou: float
    logits: np.ndarray
    mask: np.ndarray


def accepted_order(iou: np.ndarray, threshold: float) -> np.ndarray:
    """Indices of the prompts whose predicted IoU is strictly above ``threshold``, best first, ties in grid order."""
    passing = np.flatnonzero(iou > threshold)
    return passing[np.argsort(-iou[passing], kind="stable")]


def pick(
    iou: np.ndarray,
    decode: Callable[[int], np.ndarray],
    *,
    threshold: float = 0.5,
    mask_logit: float = 0.0,
    min_area: int = 0,
) -> Candidate | None:
    """The published rule's mask for one slice, or None when no point passes or every mask is empty.

    Arguments:
      iou: (P,) predicted IoU of every prompt.
      decode: gives the logits (256, 256) of a prompt by its number; called as rarely as possible.
      threshold: a prompt passes if its IoU is strictly larger.
      mask_logit: a pixel belongs to the mask if its logit is strictly larger.
      min_area: pixels below which holes are filled and islands dropped; 0 = no clean-up.
    """
    first: Candidate | None = None
    for candidate in _kept_candidates(iou, decode, threshold, mask_logit):
        cleaned, changed = clean_small_regions(candidate.mask, min_area)
        if not changed:
            return candidate
        if first is None:
            # all kept masks may turn out to need a clean-up: then the best of them, cleaned, wins
            first = Candidate(candidate.prompt, candidate.iou, candidate.logits, cleaned)
    return first


def _kept_candidates(
    iou: np.ndarray, decode: Callable[[int], np.ndarray], threshold: float, mask_logit: float
) -> Iterator[Candidate]:
    """Non-empty masks by falling IoU that survive greedy box suppression, decoded one by one.

    An empty mask has no box and would survive every suppression, so in the published code it wins (E-17): dropped.
    """
    boxes: list[tuple[int, int, int, int]] = []
    for prompt in accepted_order(iou, threshold):
        logits = decode(int(prompt))
        mask = logits > mask_logit
        if not mask.any():
            continue
        box = _bounding_box(mask)
        if any(_box_iou(box, other) > BOX_OVERLAP for other in boxes):
            continue
        boxes.append(box)
        yield Candidate(int(prompt), float(iou[prompt]), logits, mask)


def _bounding_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the set pixels, inclusive, as segment-anything's mask-to-box."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def _box_iou(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    overlap = width * height
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return overlap / (area - overlap)
