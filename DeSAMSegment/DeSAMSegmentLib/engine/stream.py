"""Slices to features: from the cache where they are known, from the encoder where not, one batch ahead at most."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from ..data.features import FeatureCache, StoredFeatures
from ..data.slices import Slices
from ..model.backbones import PICTURE
from ..model.config import EMBED_DIM, EMBED_SIZE, MASK_SIZE
from ..model.types import Features
from .loading import Encoder
from .rounding import rounded, to_features, to_rounded, to_stored, widened

HEADER = 4096  # bytes of a stored file that are no features, at most


def slice_key(slices: Slices, index: int, encoder_key: str) -> str:
    """The cache key of one slice's features: content, preparation and encoder, nothing else."""
    return f"{slices.content_key}.{index}.{encoder_key}"


def stored_bytes(encoder: Encoder, codec: str) -> int:
    """What the features of one picture take in a cache, a little more rather than less."""
    if encoder.id == PICTURE:
        return 4 * 2 * MASK_SIZE**2 + HEADER
    channels = sum(encoder.backbone.spec.level_widths) + EMBED_DIM
    value, scale = (1, 4) if codec == "int8" else (2, 0)
    return channels * (value * EMBED_SIZE**2 + scale) + HEADER


@dataclass(frozen=True)
class Looked:
    """A slice, its key and what the cache had under it; or, where that is nothing, its picture."""

    index: int
    key: str
    stored: StoredFeatures | None
    image: np.ndarray | None


class FeatureStream:
    """Features of one volume's slices.

    Arguments:
      slices: the volume's slices.
      encoder: computes what the cache does not hold.
      cache: None computes everything and keeps nothing.
    """

    def __init__(self, slices: Slices, encoder: Encoder, cache: FeatureCache | None) -> None:
        self.slices = slices
        self.encoder = encoder
        self.cache = cache
        self.keys: dict[int, str] = {}  # what was asked for, under which key it came or was kept

    def key(self, index: int) -> str:
        """The key that the encoder, where it is now, gives a slice."""
        return slice_key(self.slices, index, self.encoder.key)

    def picture(self, index: int) -> np.ndarray:
        """What the encoder is shown: (256, 256) uint8."""
        return self.slices.image(index)

    def iterate(self, indices: Iterable[int]) -> Iterator[tuple[int, Features]]:
        """(slice index, its features on the encoder's device), in order; a GPU gets its slices in batches.

        The next batch is read and normalised on a thread while the device works on this one; on the CPU the batch is
        a single slice, so that never more than one slice's features are in memory.
        """
        remaining = iter(indices)
        with ThreadPoolExecutor(max_workers=1) as reader:
            ahead = reader.submit(self._read, list(islice(remaining, self.encoder.batch)))
            while batch := ahead.result():
                ahead = reader.submit(self._read, list(islice(remaining, self.encoder.batch)))
                yield from self._features(batch)

    def _read(self, indices: list[int]) -> list[Looked]:
        return [self._look(index) for index in indices]

    def _look(self, index: int) -> Looked:
        key = self.key(index)
        stored = self.cache.get(key) if self.cache else None
        return Looked(index, key, stored, None if stored else self.picture(index))

    def _features(self, batch: list[Looked]) -> Iterator[tuple[int, Features]]:
        missing = [looked.image for looked in batch if looked.image is not None]
        fresh = self.encoder.encode(np.stack(missing)) if missing else None
        position = 0
        for looked in batch:
            self.keys[looked.index] = looked.key
            if looked.stored is not None:
                yield looked.index, to_features(looked.stored, self.encoder.device)
                continue
            assert fresh is not None
            features = fresh[position]
            position += 1
            yield looked.index, self._keep(looked.index, features)

    def _keep(self, index: int, features: Features) -> Features:
        """Puts fresh features into the cache and hands them out as they will come back from it."""
        if self.cache is None:
            return rounded(features)
        parts = to_rounded(features, self.cache.codec)
        # asked for now: an encoder that has just run out of memory computed these on the CPU, which the key names
        self.keys[index] = key = self.key(index)
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
