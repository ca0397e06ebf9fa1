"""Tensors from a formula, so that tests of the published numbers need no download.

The formula is that of the parity fixtures (../shared/docs/reference-code.md, E0): a tensor's values follow
from its name and a salt; weights are scaled so that activations stay of order one.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

REFERENCE = Path(__file__).resolve().parents[2] / "shared" / "reference"


def values(name: str, shape: Sequence[int], salt: int = 0) -> Tensor:
    """Standard normal values that depend on the name and the salt alone."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(f"{salt}:{name}".encode())))
    size = int(np.prod(shape))
    return torch.from_numpy(generator.standard_normal(size, dtype=np.float32)).reshape(tuple(shape))


def weight(name: str, shape: Sequence[int], salt: int = 0) -> Tensor:
    """Values scaled for the kind of parameter that the name and shape say it is."""
    raw = values(name, shape, salt)
    if len(shape) >= 2:
        return raw / float(np.sqrt(np.prod(shape[1:])))
    if ("norm" in name and name.endswith("weight")) or name.endswith(".1.weight"):
        return 1 + 0.1 * raw
    return 0.02 * raw


def weights(shapes: Mapping[str, Sequence[int]], salt: int = 0) -> dict[str, Tensor]:
    return {name: weight(name, shape, salt) for name, shape in shapes.items()}


def features(level_width: int, salt: int = 0) -> tuple[list[Tensor], Tensor]:
    """The fixture's inputs: three levels (1, level_width, 64, 64) and the neck (1, 256, 64, 64)."""
    levels = [values(f"input.level{i}", (1, level_width, 64, 64), salt) for i in range(3)]
    return levels, values("input.neck", (1, 256, 64, 64), salt)


def published_shapes(width: int) -> dict[str, list[int]]:
    """Names and shapes of the published decoder's state dict for an encoder of this width."""
    shapes = json.loads(fixture("state_dict_dim768.json").read_text())
    return {name: [width if size == 768 else size for size in shape] for name, shape in shapes.items()}


def fixture(name: str) -> Path:
    """A file of the parity fixtures; the test is skipped, saying so, where they are not at hand."""
    path = REFERENCE / name
    if not path.exists():
        pytest.skip(f"the parity fixture {path.name} is not on this machine (looked in ../shared/reference)")
    return path


def fixture_arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(fixture(name)) as stored:
        return {key: stored[key] for key in stored}
