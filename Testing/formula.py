"""Tensors from a formula, so that tests of the published numbers need no download.

The formula is that of the parity fixtures (made with the published code): a tensor's values follow
from its name and a salt; weights are scaled so that activations stay of order one.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from DeSAMSegmentLib.model import sam
from torch import Tensor

HERE = Path(__file__).resolve().parent
FULL = HERE.parents[1] / "shared" / "reference"  # beside the repository, on the maintainers' computers
SAMPLED = HERE / "reference"


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


def published_shapes(level_widths: Sequence[int], widths: Sequence[int] = (256, 128, 64)) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published decoder's state dict: SAM's own parts, and its mask branch "pimm".

    level_widths: of the encoder's levels, shallow to deep; widths: of the mask branch (those published).
    """
    transformer = sam.TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    prompt = sam.PromptEncoder(256, (64, 64), (1024, 1024), 16)
    parts = {"prompt_encoder": prompt, "mask_decoder": sam.MaskDecoder(transformer_dim=256, transformer=transformer)}
    shapes = {f"{p}.{n}": tuple(t.shape) for p, part in parts.items() for n, t in part.state_dict().items()}
    branch: dict[str, tuple[int, ...]] = {}

    def block(name: str, channels: int, out: int) -> None:
        branch[f"{name}.conv1.conv.weight"] = (out, channels, 3, 3)
        branch[f"{name}.conv2.conv.weight"] = (out, out, 3, 3)
        branch[f"{name}.conv3.conv.weight"] = (out, channels, 1, 1)
        branch[f"{name}.se.fc.0.weight"] = (out // 16, out)
        branch[f"{name}.se.fc.2.weight"] = (out, out // 16)

    block("mask_embedding_fusion", 256 + widths[0], widths[0])
    for depth, (channels, out) in enumerate(zip(reversed(level_widths), widths, strict=True)):
        context = f"conv_blocks_context.{depth}"
        block(f"{context}.block_init", channels, out)
        for step in range(depth):
            branch[f"{context}.residual_block.{step}.0.conv.weight"] = (out, out, 2, 2)
            block(f"{context}.residual_block.{step}.1", out, out)
    for step in range(2):
        up, out = f"conv_blocks_localization.{step}", widths[step + 1]
        branch[f"{up}.transp_conv.conv.weight"] = (widths[step], out, 2, 2)
        block(f"{up}.res_block", 2 * out, out)
        branch[f"seg_outputs.{step}.weight"] = (1, out, 1, 1)
    return shapes | {f"mask_decoder.pimm.{name}": shape for name, shape in branch.items()}


class Published:
    """Arrays of the published code's figures by name; large ones may be samples, every few elements along each axis."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as stored:
            self._arrays: dict[str, np.ndarray] = {key: stored[key] for key in stored}

    def __getitem__(self, name: str) -> np.ndarray:
        """A whole array, such as prompts."""
        assert max(self._steps(name)) == 1, f"{name} is stored as a sample"
        return self._arrays[name]

    def difference(self, name: str, ours: Tensor) -> float:
        """Between ours and the published figures: the largest at the stored positions. Shapes must be the same."""
        theirs, steps = torch.from_numpy(self._arrays[name]), self._steps(name)
        assert ours.shape == tuple(self._arrays.get(f"{name}.shape", theirs.shape))
        sample = ours[tuple(slice(None, None, step) for step in steps)]
        assert sample.shape == theirs.shape
        return float((sample - theirs).abs().max())

    def _steps(self, name: str) -> tuple[int, ...]:
        whole = (1,) * self._arrays[name].ndim
        return tuple(int(step) for step in self._arrays.get(f"{name}.steps", whole))


def fixture(name: str) -> Path:
    """A file of the parity fixtures: the full one where it is at hand, otherwise the sample in the repository."""
    full = FULL / name
    return full if full.exists() else SAMPLED / name


def fixture_arrays(name: str) -> Published:
    return Published(fixture(name))
