"""Where prompts go: the grid that segments, and the points that train."""

from __future__ import annotations

import numpy as np


def grid_points(side: int, size: int) -> np.ndarray:
    """(side * side, 2) float32 x, y in pixels of a square of ``size``, row by row, at (i + 0.5) / side * size."""
    line = (np.arange(side, dtype=np.float32) + 0.5) / side * size
    x, y = np.meshgrid(line, line)
    return np.stack((x.ravel(), y.ravel()), axis=1)


def sample_points(mask: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Random prompts on one slice, as many inside the organ as outside (paper, 1:1).

    An odd point goes to either side with even chance. A slice without the organ gives points outside only, one that
    it fills gives points inside only.

    Arguments:
      mask: (H, W) boolean or 0/1. count: how many points.

    Returns:
      x, y in pixels of the mask, (count, 2) float32; and which are inside, (count,) bool, in random order.
    """
    flat = np.asarray(mask).ravel() != 0
    inside, outside = np.flatnonzero(flat), np.flatnonzero(~flat)
    wanted = count // 2 + int(count % 2 == 1 and rng.random() < 0.5)
    wanted = 0 if inside.size == 0 else count if outside.size == 0 else wanted
    chosen = np.concatenate(
        [rng.choice(pool, n) for pool, n in ((inside, wanted), (outside, count - wanted)) if n > 0]
        or [np.zeros(0, np.intp)]
    )
    rng.shuffle(chosen)
    y, x = np.divmod(chosen, flat.size // len(mask) if len(mask) else 1)
    return np.stack((x, y), axis=1).astype(np.float32), flat[chosen]
