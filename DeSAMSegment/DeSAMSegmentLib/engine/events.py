"""What the engines say while they work: small frozen records, in order, from one generator per job.

``segment``, ``train`` and ``evaluate`` are generators of these events. The Python console iterates them in process,
the command line draws them, the panel receives the same events from a child process as JSON lines
(``jobs/protocol.py``). A consumer that stops iterating (``generator.close()``) cancels the job; what was announced
by then is finished and stays.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

LOW_CONFIDENCE, LOW_AGREEMENT = 0.65, 0.8  # measured: benchmarks/README.md


@dataclass(frozen=True)
class Started:
    """First event of every job: what is about to happen, on which device, in how many units."""

    job: str  # "segment" | "train" | "evaluate"
    title: str
    total: int  # slices, epochs or cases
    unit: str  # "slice" | "epoch" | "case"
    device: str  # in words, e.g. "CPU, 2 threads" or "NVIDIA RTX 3060, 12 GB"


@dataclass(frozen=True)
class Log:
    """A sentence for the log: a step back after out-of-memory, a slice skipped, a file found."""

    text: str
    level: str = "info"  # "info" | "warning"


@dataclass(frozen=True)
class Progress:
    """Somewhere inside a unit: features computed, steps of an epoch. At most a few per second."""

    text: str
    done: int
    total: int


@dataclass(frozen=True)
class PointScore:
    """One grid point on one slice: where it is in the slice's own array and what PRIM thinks of it."""

    row: float
    column: float
    iou: float
    chosen: bool


@dataclass(frozen=True)
class SliceDone:
    """One slice of the volume is segmented, before any 3-D clean-up.

    ``labels`` is ``volume.array.take(index, axis)`` in shape and orientation: write it there and it is right.
    """

    axis: int  # array axis (KJI) the slice is perpendicular to
    index: int  # position along that axis
    labels: np.ndarray  # (rows, columns) uint8, values are the card's label values, 0 is background
    confidence: float  # expected Dice of the slice (``segment/confidence.py``), lowest of the labels; 0..1
    agreement: float  # Dice between the best two accepted prompts, 1.0 when there is one or none
    done: int
    total: int
    seconds: float
    points: tuple[PointScore, ...] = ()

    @property
    def flagged(self) -> bool:
        """Whether somebody should look at it."""
        return self.confidence < LOW_CONFIDENCE or self.agreement < LOW_AGREEMENT


@dataclass(frozen=True)
class EpochDone:
    """One epoch of training; ``validation_dice`` is None in epochs without validation."""

    epoch: int  # counted from 1
    epochs: int
    loss: float
    parts: dict[str, float]  # dice, ce, iou
    learning_rate: float
    validation_dice: float | None
    best: bool
    seconds: float


@dataclass(frozen=True)
class CaseDone:
    """One case is evaluated or segmented; metrics per label name, under both protocols."""

    case: str
    domain: str
    metrics: dict[str, Any]
    done: int
    total: int


@dataclass(frozen=True)
class CaseFailed:
    """One case of many could not be read or segmented; the job goes on."""

    case: str
    reason: str
    done: int
    total: int


@dataclass(frozen=True)
class Saved:
    """A file is complete on disk under its final name."""

    path: Path
    what: str  # "model" | "segmentation" | "report" | "curves" | "figure"


@dataclass(frozen=True)
class Finished:
    """Last event of every job that was not cancelled; ``result`` is the job's own result object."""

    job: str
    seconds: float
    result: Any = None
    summary: dict[str, Any] = field(default_factory=dict)


Event = Started | Log | Progress | SliceDone | EpochDone | CaseDone | CaseFailed | Saved | Finished
