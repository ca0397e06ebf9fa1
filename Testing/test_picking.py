"""The lazy pick gives the mask that the published pipeline gives, and decodes a handful of prompts instead of 81."""

from __future__ import annotations

import numpy as np
import pytest
from DeSAMSegmentLib.model.prediction import pick
from scipy import ndimage

SIZE, POINTS, MIN_AREA = 64, 25, 60
EIGHT = np.ones((3, 3))


def synthetic_slice(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Predicted IoU (P,) and logits (P, 64, 64): discs with holes and crumbs, some masks empty, some IoU tied."""
    rng = np.random.default_rng(seed)
    iou = rng.choice(np.round(rng.uniform(0.2, 1.0, 12), 2), POINTS)
    logits = np.full((POINTS, SIZE, SIZE), -1.0)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for mask in logits:
        if rng.random() < 0.1:
            continue
        row, column, radius = rng.uniform(10, 54), rng.uniform(10, 54), rng.uniform(3, 16)
        mask[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = 1.0
        for _ in range(rng.integers(0, 3)):
            row, column = rng.integers(0, SIZE - 3, 2)
            mask[row : row + 3, column : column + 3] = rng.choice([-1.0, 1.0])
    return iou, logits


def clean_eagerly(mask: np.ndarray) -> tuple[np.ndarray, bool]:
    """Holes, then islands, component by component."""
    result = mask.copy()
    for value in (False, True):
        components, count = ndimage.label(result == value, structure=EIGHT)
        sizes = {n: int((components == n).sum()) for n in range(1, count + 1)}
        small = [n for n, size in sizes.items() if size < MIN_AREA]
        if value and small and len(small) == count:
            small.remove(max(sizes, key=sizes.__getitem__))
        for n in small:
            result[components == n] = not value
    return result, bool((result != mask).any())


def box_of(mask: np.ndarray) -> list[int]:
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), columns.max(), rows.max()]


def suppress(boxes: list[list[int]], scores: list[float]) -> list[int]:
    """Greedy box suppression at IoU 0.7, stable: what torchvision's nms computes."""
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda n: -scores[n]):
        a = boxes[i]
        for j in kept:
            b = boxes[j]
            width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            overlap = max(0, width) * max(0, height)
            area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
            if area and overlap / area > 0.7:
                break
        else:
            kept.append(i)
    return kept


def pick_eagerly(iou: np.ndarray, logits: np.ndarray) -> np.ndarray | None:
    """The published order of things on all masks at once, empty masks dropped first (E3, E-17)."""
    passing = [i for i in range(len(iou)) if iou[i] > 0.5 and (logits[i] > 0).any()]
    kept = [passing[n] for n in suppress([box_of(logits[i] > 0) for i in passing], [iou[i] for i in passing])]
    cleaned = [clean_eagerly(logits[i] > 0) for i in kept]
    order = suppress([box_of(mask) for mask, _ in cleaned], [0.0 if changed else 1.0 for _, changed in cleaned])
    return cleaned[order[0]][0] if order else None


@pytest.mark.parametrize("seed", range(150))
def test_lazy_pick_equals_the_eager_published_rule(seed: int) -> None:
    iou, logits = synthetic_slice(seed)
    decoded: list[int] = []

    def decode(prompt: int) -> np.ndarray:
        decoded.append(prompt)
        return logits[prompt]

    lazy = pick(iou, decode, min_area=MIN_AREA)
    eager = pick_eagerly(iou, logits)
    assert (lazy is None) == (eager is None)
    if lazy is not None:
        np.testing.assert_array_equal(lazy.mask, eager)
    assert len(decoded) == len(set(decoded)) <= (iou > 0.5).sum()


def test_a_predicted_iou_of_exactly_the_threshold_does_not_pass() -> None:
    logits = np.ones((1, 8, 8))
    assert pick(np.array([0.5]), lambda i: logits[i]) is None
    assert pick(np.array([0.5001]), lambda i: logits[i]) is not None


def test_an_empty_mask_with_the_highest_iou_does_not_win() -> None:
    logits = np.full((2, 8, 8), -1.0)
    logits[1, 2:5, 2:5] = 1.0
    best = pick(np.array([0.99, 0.6]), lambda i: logits[i])
    assert best is not None
    assert best.prompt == 1


def test_a_mask_whose_box_is_nearly_that_of_a_better_one_is_no_second_choice() -> None:
    """Boxes that share four fifths: more than the published 0.7."""
    logits = np.full((2, 64, 64), -1.0)
    logits[0, 10:51, 10:51] = logits[1, 10:51, 10:44] = 1.0
    logits[0, 30, 30] = -1.0  # the better one needs a clean-up
    best = pick(np.array([0.9, 0.8]), lambda i: logits[i], min_area=20)
    assert best is not None
    assert best.prompt == 0
    assert best.mask[30, 30]


def test_without_clean_up_only_the_best_prompt_is_decoded() -> None:
    decoded: list[int] = []

    def decode(prompt: int) -> np.ndarray:
        decoded.append(prompt)
        return np.ones((8, 8))

    pick(np.linspace(0.6, 0.9, 81), decode)
    assert decoded == [80]
