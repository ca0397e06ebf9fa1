"""Slices to features: from the cache where they are known, from the encoder where not, one batch ahead at most.

Features are quantised where they are computed: a GPU need not send 67 MB to the CPU for it. A run without a cache
quantises them, too, so that runs with and without one agree bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from ...data.feature_cache import DEFAULT_CODEC, FeatureCache, StoredFeatures
from ...data.slices import Slices
from ...model.registry import BackboneSpec
from ...model.types import Features, send
from . import memory
from .side_by_side import side_by_side

if TYPE_CHECKING:
    from .session import Session

R = TypeVar("R")
LEVELS = ("level0", "level1", "level2")
HEADER = 4096  # bytes of a stored file that are no features, at most
Quantised = dict[str, tuple[Tensor, Tensor | None]]  # name -> values (C, 64, 64) as stored, scale (C, 1, 1) of int8


def slice_key(slices: Slices, index: int, encoder_key: str) -> str:
    """The cache key of one slice's features: content, preparation and encoder, nothing else."""
    return f"{slices.content_key}.{index}.{encoder_key}"


def stored_bytes(spec: BackboneSpec, codec: str) -> int:
    """What the features of one image take in a cache, a little more rather than less."""
    channels = sum(spec.level_widths) + spec.neck_width
    is_int8 = codec == "int8" and spec.neck_width > 1  # single maps are kept as float16 (``_quantise``)
    value, scale = (1, 4) if is_int8 else (2, 0)
    return channels * (value * spec.map_size**2 + scale) + HEADER


@dataclass(frozen=True)
class Looked:
    """A slice, its key and what the cache had under it; or, where that is nothing, its image."""

    index: int
    key: str
    stored: StoredFeatures | None
    image: np.ndarray | None


class FeatureStream:
    """Features of one volume's slices.

    Arguments:
      slices: the volume's slices.
      session: its encoder computes what its cache does not hold; without a cache nothing is kept.
      exponent: of the greys, 0..1; 1 shows the slices as they are.
    """

    def __init__(self, slices: Slices, session: Session, exponent: float = 1.0) -> None:
        self.slices, self.session, self.exponent = slices, session, exponent
        self.cache: FeatureCache | None = session.cache
        self.keys: dict[int, str] = {}  # what was asked for, under which key it came or was kept

    def key(self, index: int) -> str:
        """The key that the encoder, where it is now, gives a slice."""
        plain = slice_key(self.slices, index, self.session.encoder.key)
        return plain if self.exponent == 1 else f"{plain}.exponent{self.exponent:g}"

    def image(self, index: int) -> np.ndarray:
        """What the encoder is shown: (256, 256) uint8."""
        image = self.slices.image(index)
        return image if self.exponent == 1 else (255 * (image / 255) ** self.exponent).round().astype(np.uint8)

    def iterate(self, indices: Collection[int]) -> Iterator[tuple[int, Features]]:
        """(slice index, its features on the encoder's device), in order."""
        return self.used(indices, lambda _, features: features)

    def used(
        self, indices: Collection[int], then: Callable[[int, Features], R]
    ) -> Generator[tuple[int, R], None, None]:
        """(slice index, what ``then`` makes of it and its features), in order.

        A GPU gets its slices in batches; the next batch is read and normalised on a thread while the device works on
        this one. A CPU has a few slices in work at once, each on a thread of its own, ``then`` included.
        """
        encoder = self.session.encoder
        at_once = min(memory.slices_at_once(encoder.backbone.spec.input_size, encoder.device), len(indices))
        if at_once > 1:
            yield from side_by_side(lambda index: self.one(index, then), indices, at_once)
            return
        remaining = iter(indices)
        with ThreadPoolExecutor(max_workers=1) as reader:
            ahead = reader.submit(self._read, list(islice(remaining, self.session.encoder.batch)))
            while batch := ahead.result():
                ahead = reader.submit(self._read, list(islice(remaining, self.session.encoder.batch)))
                for index, features in self._features(batch):
                    yield index, then(index, features)

    def one(self, index: int, then: Callable[[int, Features], R]) -> tuple[int, R]:
        """The same for a single slice."""
        ((_, features),) = self._features([self._look(index)])
        return index, then(index, features)

    def _read(self, indices: list[int]) -> list[Looked]:
        return [self._look(index) for index in indices]

    def _look(self, index: int) -> Looked:
        key = self.key(index)
        stored = self.cache.get(key) if self.cache else None
        return Looked(index, key, stored, None if stored else self.image(index))

    def _features(self, batch: list[Looked]) -> Iterator[tuple[int, Features]]:
        missing = [looked.image for looked in batch if looked.image is not None]
        fresh = self.session.encode(np.stack(missing)) if missing else None
        position = 0
        for looked in batch:
            self.keys[looked.index] = looked.key
            if looked.stored is not None:
                yield looked.index, to_features(looked.stored, self.session.device)
                continue
            assert fresh is not None
            features = fresh[position]
            position += 1
            yield looked.index, self._keep(looked.index, features)

    def _keep(self, index: int, features: Features) -> Features:
        """Puts fresh features into the cache and hands them out as they will come back from it."""
        parts = quantise(features, self.cache.codec if self.cache else DEFAULT_CODEC)
        if self.cache is not None:
            # asked for now: an encoder that has just run out of memory computed these on the CPU, which the key names
            self.keys[index] = key = self.key(index)
            with self.session.writing:
                self.cache.put(key, to_stored(parts))
        return widened(parts)

    def fill(self, indices: Iterable[int]) -> Iterator[tuple[int, str]]:
        """Makes sure that the cache holds ``indices``; yields each, and the key it has there, when it does."""
        missing = []
        for index in indices:
            key = self.key(index)
            if self.cache is not None and self.cache.get(key) is not None:
                yield index, key
            else:
                missing.append(index)
        for index, _ in self.iterate(missing):
            yield index, self.keys[index]


# ---- quantisation ---------------------------------------------------------------------------------------------------


def quantise(features: Features, codec: str) -> Quantised:
    """One slice's features (B = 1) as values and scales, on their device."""
    named = dict(zip(LEVELS, features.levels, strict=True)) | {"neck": features.neck}
    values = {name: tensor[0].float() for name, tensor in named.items()}
    peaks = {name: each.abs().amax((1, 2), keepdim=True) for name, each in values.items()}
    largest = torch.stack([peak.max() for peak in peaks.values()]).tolist()  # asked at once: a GPU waits once
    return {name: _quantise(values[name], peaks[name], most, codec) for name, most in zip(named, largest, strict=True)}


def _quantise(values: Tensor, peak: Tensor, largest: float, codec: str) -> tuple[Tensor, Tensor | None]:
    """Values as they are stored, and the scale per channel for int8. Not finite, or too large: float32.

    A single map, such as an image, stays float16: nothing averages its rounding out.

    Arguments:
      values: (C, 64, 64). peak: (C, 1, 1), the largest magnitude of each channel; largest: of all.
    """
    if len(values) == 1:
        codec = "float16"
    if not np.isfinite(largest) or (codec == "float16" and largest > float(np.finfo(np.float16).max)):
        return values, None
    if codec == "float16":
        return values.half(), None
    # divided by a tensor: by a number, a GPU multiplies with the inverse, which is not the same
    scale = (peak / torch.full_like(peak, 127.0)).clamp_min(float(np.finfo(np.float32).tiny))
    return (values / scale).round().to(torch.int8), scale


def widened(parts: Quantised) -> Features:
    """Back to float32 features (B = 1)."""
    dense = {
        name: (values.float() if scale is None else values.float() * scale)[None]
        for name, (values, scale) in parts.items()
    }
    return Features([dense[name] for name in LEVELS], dense["neck"])


def to_features(stored: StoredFeatures, device: torch.device) -> Features:
    """What a cache holds as float32 features (B = 1) on ``device``, widened there: fewer bytes travel."""

    def moved(array: np.ndarray | None) -> Tensor | None:
        return None if array is None else send(torch.tensor(array), device)

    return widened({name: (moved(array), moved(stored.scales[name])) for name, array in stored.arrays.items()})  # type: ignore[misc]


def to_stored(parts: Quantised) -> StoredFeatures:
    """What a cache takes, in the CPU's memory."""
    arrays = {name: values.cpu().numpy() for name, (values, _) in parts.items()}
    scales = {name: None if scale is None else scale.cpu().numpy() for name, (_, scale) in parts.items()}
    return StoredFeatures(arrays, scales)
