"""Cleaning masks removes what it should and nothing else."""

from __future__ import annotations

import numpy as np
import torch
from DeSAMSegmentLib.model.postprocess import clean_small_regions, largest_component, smooth_like_reference
from torch.nn import functional as F


def test_small_holes_are_filled_and_small_islands_dropped() -> None:
    mask = np.zeros((40, 40), bool)
    mask[5:25, 5:25] = True
    mask[10:12, 10:12] = False
    mask[35:37, 35:37] = True
    cleaned, changed = clean_small_regions(mask, 10)
    expected = np.zeros_like(mask)
    expected[5:25, 5:25] = True
    assert changed
    np.testing.assert_array_equal(cleaned, expected)
    assert not mask[10, 10], "the caller's mask must not be modified"


def test_the_largest_island_stays_when_all_are_small() -> None:
    mask = np.zeros((20, 20), bool)
    mask[2:5, 2:5] = mask[10:12, 10:12] = True
    cleaned, _ = clean_small_regions(mask, 50)
    assert cleaned.sum() == 9
    assert cleaned[3, 3]


def test_a_clean_mask_is_reported_as_unchanged() -> None:
    mask = np.zeros((20, 20), bool)
    mask[2:15, 2:15] = True
    cleaned, changed = clean_small_regions(mask, 50)
    assert not changed
    np.testing.assert_array_equal(cleaned, mask)


def test_only_the_largest_component_of_each_label_stays() -> None:
    labels = np.zeros((6, 10, 10), np.uint8)
    labels[0:3, 0:3, 0:3] = 1
    labels[5, 9, 9] = 1
    labels[4:6, 0:4, 0:4] = 2
    cleaned = largest_component(labels, (1, 2))
    assert (cleaned == 1).sum() == 27
    assert cleaned[5, 9, 9] == 0
    assert (cleaned == 2).sum() == (labels == 2).sum()


def test_voxels_that_touch_at_a_corner_belong_together() -> None:
    labels = np.zeros((4, 6, 6), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = labels[2, 2, 2] = labels[0, 5, 5] = labels[0, 5, 4] = 1
    cleaned = largest_component(labels, (1,))
    assert np.argwhere(cleaned).tolist() == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]


def test_smoothing_is_the_published_double_resize() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 256, 256)).astype(np.float32)
    up = F.interpolate(torch.from_numpy(logits)[None], (1024, 1024), mode="bilinear", align_corners=False)
    expected = F.interpolate(up, (256, 256), mode="bilinear", align_corners=False)[0].numpy()
    np.testing.assert_allclose(smooth_like_reference(logits), expected, atol=2e-5)
