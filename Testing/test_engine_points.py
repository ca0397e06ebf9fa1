"""Where prompts go: the grid that segments, and the points that train."""

from __future__ import annotations

import numpy as np
import pytest
from DeSAMSegmentLib.engine.train.step import draw_points
from DeSAMSegmentLib.model.types import Prompts


def drawn(targets: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points (B, 2) as x, y in pixels of the targets (B, H, W), and which lie inside (B,)."""
    points, inside = draw_points(targets, rng, targets.shape[-1])
    assert points.shape == (len(targets), 1, 2)
    assert inside.shape == (len(targets), 1)
    return points[:, 0].numpy(), inside[:, 0].numpy()


def test_grid_points_are_the_centres_of_the_cells_row_by_row() -> None:
    points = Prompts.grid(9, 1024).xy.numpy()
    assert points.shape == (81, 2)
    assert np.allclose(points[0], (56.9, 56.9), atol=0.05)
    assert np.allclose(points[1], (170.7, 56.9), atol=0.05)
    assert np.allclose(points[-1], (967.1, 967.1), atol=0.05)


def test_every_slice_of_a_batch_has_one_point_which_says_whether_it_lies_inside() -> None:
    mask = np.zeros((60, 80), bool)
    mask[10:20, 30:70] = True
    rng = np.random.default_rng(0)
    inside_shares = []
    for count in (1, 2, 5, 8):
        for _ in range(200):
            points, inside = drawn(np.repeat(mask[None], count, axis=0), rng)
            assert points.shape == (count, 2)
            x, y = points.astype(int).T
            assert np.array_equal(mask[y, x], inside)
            inside_shares.append(inside[0])
    assert 0.4 < np.mean(inside_shares) < 0.6  # the first slice of a batch prefers no side


def test_a_point_is_as_often_inside_as_outside() -> None:
    mask = np.zeros((1, 20, 20), bool)
    mask[0, 5:8, 5:8] = True
    rng = np.random.default_rng(0)
    assert np.mean([drawn(mask, rng)[1][0] for _ in range(5000)]) == pytest.approx(0.5, abs=0.03)


def test_an_empty_slice_gives_a_point_outside_and_a_full_one_a_point_inside() -> None:
    """Published: np.random.randint(0, 0) fails on an empty slice."""
    rng = np.random.default_rng(0)
    assert not drawn(np.zeros((4, 5, 6), bool), rng)[1].any()
    assert drawn(np.ones((4, 5, 6), bool), rng)[1].all()
