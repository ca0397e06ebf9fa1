"""Slices to features: from the cache where they are known, from the encoder where not, one batch ahead at most."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np

from ..data.features import FeatureCache, StoredFeatures
from ..data.slices import Slices
from ..model.types import Features
from .loading import Encoder
from .rounding import rounded, to_features, to_rounded, to_stored, widened


def slice_key(slices: Slices, index: int, encoder_key: str) -> str:
    """The cache key of one slice's features: content, preparation and encoder, nothing else."""
    return f"{slices.content_key}.{index}.{encoder_key}"


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

    def key(self, index: int) -> str:
        return slice_key(self.slices, index, self.encoder.key)

    def picture(self, index: int) -> np.ndarray:
        """What the encoder is shown: (256, 256) uint8."""
        return self.slices.image(index)

    def stored(self, index: int) -> StoredFeatures | None:
        return self.cache.get(self.key(index)) if self.cache else None

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

    def _read(self, indices: list[int]) -> list[tuple[int, StoredFeatures | None, np.ndarray | None]]:
        batch = []
        for index in indices:
            stored = self.stored(index)
            batch.append((index, stored, None if stored else self.picture(index)))
        return batch

    def _features(
        self, batch: list[tuple[int, StoredFeatures | None, np.ndarray | None]]
    ) -> Iterator[tuple[int, Features]]:
        missing = [image for _, _, image in batch if image is not None]
        fresh = self.encoder.encode(np.stack(missing)) if missing else None
        position = 0
        for index, stored, _ in batch:
            if stored is not None:
                yield index, to_features(stored, self.encoder.device)
                continue
            assert fresh is not None
            features = fresh[position]
            position += 1
            yield index, self._keep(index, features)

    def _keep(self, index: int, features: Features) -> Features:
        """Puts fresh features into the cache and hands them out as they will come back from it."""
        if self.cache is None:
            return rounded(features)
        parts = to_rounded(features, self.cache.codec)
        self.cache.put(self.key(index), to_stored(parts))
        return widened(parts)

    def fill(self, indices: Iterable[int]) -> Iterator[int]:
        """Makes sure that the cache holds ``indices``; yields each when it does."""
        missing = [index for index in indices if self.stored(index) is None]
        for index, _ in self.iterate(missing):
            yield index
