"""What goes in and out of the model: features of slices, prompts, decoded masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device | str | None, dtype: torch.dtype | None = None) -> Tensor:
    """The tensor on a device, without waiting for all that was asked of a GPU before.

    Only towards CUDA, which keeps the order of its work: on the CPU the values might be read before they arrive.
    """
    unwaited = device is not None and torch.device(device).type == "cuda"
    return tensor.to(device=device, dtype=dtype, non_blocking=unwaited)


@dataclass
class Features:
    """What a frozen encoder says about B slices.

    levels: three tensors (B, C_i, 64, 64), shallow to deep.
    neck: (B, 256, 64, 64), the embedding SAM's own decoder reads.
    """

    levels: Sequence[Tensor]
    neck: Tensor

    @property
    def batch(self) -> int:
        return self.neck.shape[0]

    def __getitem__(self, index: int | slice | Tensor | Sequence[int]) -> Features:
        """The features of one slice (B = 1) or of several."""
        if isinstance(index, int):
            if not -self.batch <= index < self.batch:
                raise IndexError(f"slice {index} of {self.batch}")
            index = slice(index % self.batch, index % self.batch + 1)
        return Features([level[index] for level in self.levels], self.neck[index])

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Features:
        """The same features elsewhere or in another precision; no copy where nothing changes."""
        return Features([send(level, device, dtype) for level in self.levels], send(self.neck, device, dtype))

    @classmethod
    def cat(cls, parts: Sequence[Features]) -> Features:
        """Several features behind one another along the batch."""
        levels = [torch.cat(level) for level in zip(*(part.levels for part in parts), strict=True)]
        return cls(levels, torch.cat([part.neck for part in parts]))


@dataclass
class Prompts:
    """P prompts in pixels of the encoder's input frame: all points (label 1 each) or all boxes.

    xy: (P, 2) points, or None.
    xyxy: (P, 4) boxes, or None. With neither, one box: the whole image.
    """

    xy: Tensor | None = None
    xyxy: Tensor | None = None

    @classmethod
    def points(cls, xy: Tensor | Sequence[Sequence[float]]) -> Prompts:
        """One prompt per row of xy (P, 2)."""
        return cls(xy=torch.as_tensor(xy, dtype=torch.float32).reshape(-1, 2))

    @classmethod
    def box(cls, xyxy: Tensor | Sequence[float] | None = None) -> Prompts:
        """One box (4,), several (P, 4), or, with None, the whole image."""
        if xyxy is None:
            return cls()
        return cls(xyxy=torch.as_tensor(xyxy, dtype=torch.float32).reshape(-1, 4))

    @classmethod
    def grid(cls, side: int, input_size: int) -> Prompts:
        """side x side points at (i + 0.5) / side of the image, row by row."""
        ticks = (torch.arange(side, dtype=torch.float32) + 0.5) / side * input_size
        rows, columns = torch.meshgrid(ticks, ticks, indexing="ij")
        return cls(xy=torch.stack([columns, rows], dim=-1).reshape(-1, 2))

    def __len__(self) -> int:
        chosen = self.xy if self.xy is not None else self.xyxy
        return 1 if chosen is None else chosen.shape[0]

    def __getitem__(self, index: slice | Tensor | Sequence[int]) -> Prompts:
        """Some of the prompts, in the order of the index."""
        if not isinstance(index, slice):
            index = torch.as_tensor(index, dtype=torch.long).reshape(-1).cpu()
        if self.xy is None and self.xyxy is None:
            return self
        return Prompts(None if self.xy is None else self.xy[index], None if self.xyxy is None else self.xyxy[index])

    def same(self, other: Prompts) -> bool:
        """Whether both ask the same."""
        pairs = ((self.xy, other.xy), (self.xyxy, other.xyxy))
        return all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)


@dataclass
class Decoded:
    """One answer per prompt: iou (P,) as PRIM predicts it, logits (P, 1, 256, 256)."""

    iou: Tensor
    logits: Tensor
