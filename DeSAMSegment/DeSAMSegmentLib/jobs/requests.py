"""What can be asked for. The same records go to the child process as JSON and to ``Runner`` in process."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..engine.options import SegmentOptions, TrainOptions
from ..store.card import LabelInfo


@dataclass(frozen=True)
class VolumeSource:
    """A volume: its voxels (K, J, I) in memory or in an ``.npy`` file, and its 4 x 4 index-to-world matrix."""

    voxels: np.ndarray | Path
    ijk_to_ras: tuple[tuple[float, ...], ...]
    name: str = ""


@dataclass(frozen=True)
class CaseSource:
    """A labelled case: files on disk, or a volume of the scene with its label map (K, J, I)."""

    name: str
    image: VolumeSource | Path
    labels: np.ndarray | Path | None
    slices: str = "all"
    domain: str = ""


@dataclass(frozen=True)
class SegmentRequest:
    volume: VolumeSource
    model: str
    options: SegmentOptions = field(default_factory=SegmentOptions)
    device: str = "auto"
    cache_bytes: float = 20e9


@dataclass(frozen=True)
class TrainRequest:
    """``labels``: value to name, or with colours and terminology."""

    cases: tuple[CaseSource, ...]
    labels: dict[int, str] | tuple[LabelInfo, ...]
    folder: Path
    options: TrainOptions = field(default_factory=TrainOptions)
    device: str = "auto"
    cache_bytes: float = 20e9
    resume: bool = False


@dataclass(frozen=True)
class EvaluateRequest:
    cases: tuple[CaseSource, ...]
    labels: dict[int, str]
    folder: Path
    model: str
    options: SegmentOptions = field(default_factory=SegmentOptions)
    device: str = "auto"
    cache_bytes: float = 20e9


@dataclass(frozen=True)
class DownloadRequest:
    """Fetch the weights of a backbone; only ever sent after the user agreed."""

    weights: str


@dataclass(frozen=True)
class ImportRequest:
    """Turn a checkpoint of the published code into a model file."""

    checkpoint: Path
    model: Path


Request = SegmentRequest | TrainRequest | EvaluateRequest | DownloadRequest | ImportRequest
"""Any of the above."""
