"""What a decoder is trained on: slices with their truth, features computed beforehand, epochs drawn by seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from ..data.cases import Case, labelled_slices, load
from ..data.features import FeatureCache
from ..data.prompts import sample_points
from ..data.slices import Slices, SliceSpec
from ..data.volume import Volume
from ..errors import BadDataset, BadLabels
from ..model.types import Features
from .events import Event, Progress
from .loading import Encoder
from .options import TrainOptions
from .stream import FeatureStream, to_features


@dataclass(frozen=True)
class Example:
    """One slice to learn from: where its features lie and its truth (256, 256) uint8 of label values."""

    case: str
    key: str
    truth: np.ndarray

    @property
    def empty(self) -> bool:
        return not self.truth.any()


@dataclass(frozen=True)
class Batch:
    """Features (B) on the device and truth (B, 256, 256) uint8."""

    features: Features
    truth: np.ndarray


def common_spec(volumes: Sequence[Volume], options: TrainOptions) -> SliceSpec:
    """One way to cut and normalise all volumes; percentiles when they do not agree (CT mixed with MR)."""
    specs = [
        SliceSpec.for_volume(volume, axis=options.slice_axis, intensity=options.intensity, window=options.window)
        for volume in volumes
    ]
    if any(spec != specs[0] for spec in specs):
        return SliceSpec.from_dict(specs[0].to_dict() | {"intensity": "percentile", "window": None})
    return specs[0]


def restricted(labels: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """The label map with only the values that are trained, as uint8."""
    return np.where(np.isin(labels, values), labels, 0).astype(np.uint8)


class TrainingSet:
    """Slices of the training cases.

    Arguments:
      cases: training cases; each is read once, its slices encoded into ``cache``.
      values: label values that are trained.
      spec: how volumes are cut and normalised.
      excluded: per case name, positions along the slice axis that are held out for validation.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        values: Sequence[int],
        spec: SliceSpec,
        options: TrainOptions,
        encoder: Encoder,
        cache: FeatureCache,
        excluded: dict[str, set[int]] | None = None,
    ) -> None:
        self.cases, self.values, self.spec, self.options = cases, values, spec, options
        self.encoder, self.cache = encoder, cache
        self.excluded = excluded or {}
        self.examples: list[Example] = []

    def prepare(self) -> Iterator[Event]:
        """Reads the cases and computes the features that the cache lacks, saying how far it is."""
        found: set[int] = set()
        for number, case in enumerate(self.cases, 1):
            volume, labels = load(case)
            if labels is None:
                raise BadLabels(f"The case {case.name} has no labels.", "Add its label map or leave the case out.")
            labels = restricted(labels, self.values)
            found |= set(np.unique(labels).tolist())
            stream = FeatureStream(Slices(volume, self.spec), self.encoder, self.cache)
            chosen = self._chosen(case, stream.slices, labels)
            text = f"Features of {case.name} ({number} of {len(self.cases)})"
            for done, _ in enumerate(stream.fill(chosen), 1):
                yield Progress(text, done, len(chosen))
            for index in chosen:
                self.examples.append(Example(case.name, stream.key(index), stream.slices.truth(labels, index)))
        self._check(found)

    def _chosen(self, case: Case, slices: Slices, labels: np.ndarray) -> list[int]:
        """Slice numbers that carry truth: all of a fully labelled case, the drawn ones of a partial one."""
        every = range(len(slices))
        if case.slices == "labelled" or self.options.slices == "labelled" or self.options.empty_fraction == 0:
            drawn = set(labelled_slices(labels, slices.axis))
            every = [i for i in every if slices.position(i) in drawn]  # type: ignore[assignment]
        held_out = self.excluded.get(case.name, set())
        return [i for i in every if slices.position(i) not in held_out]

    def _check(self, found: set[int]) -> None:
        absent = [value for value in self.values if value not in found]
        if absent:
            raise BadLabels(
                f"No training case holds the label value {', '.join(map(str, absent))}.",
                f"Values present: {', '.join(str(v) for v in sorted(found - {0})) or 'none'}.",
            )
        if not self.examples:
            raise BadDataset("There is no slice to train on.", "Add cases with labels.")

    def epoch(self, number: int) -> list[list[int]]:
        """Batches of example numbers of one epoch, a function of seed and epoch alone.

        Every slice with an organ is visited once; organ-free ones are drawn so that they make up
        ``empty_fraction`` of the epoch (E-8: a decoder that never saw an empty slice paints on all of them).
        """
        rng = np.random.default_rng([self.options.seed, number])
        full = [i for i, example in enumerate(self.examples) if not example.empty]
        empty = [i for i, example in enumerate(self.examples) if example.empty]
        share = self.options.empty_fraction
        wanted = min(len(empty), round(len(full) * share / (1 - share)))
        order = rng.permutation(full + rng.permutation(empty)[:wanted].tolist()).tolist()
        size = self.options.batch_size
        return [order[i : i + size] for i in range(0, len(order), size)]

    def batches(self, number: int) -> Iterator[Batch]:
        """The batches of an epoch; the next one is read while this one is learnt from."""
        groups = self.epoch(number)
        with ThreadPoolExecutor(max_workers=1) as reader:
            ahead = reader.submit(self._load, groups[0]) if groups else None
            for following in [*groups[1:], None]:
                assert ahead is not None
                batch = ahead.result()
                ahead = reader.submit(self._load, following) if following else None
                yield batch

    def _load(self, numbers: list[int]) -> Batch:
        parts = []
        for number in numbers:
            stored = self.cache.get(self.examples[number].key)
            if stored is None:
                raise BadDataset(
                    "Features vanished from the cache during training.",
                    "Give the cache more room (it holds all slices of a training) and resume.",
                )
            parts.append(to_features(stored, self.encoder.device))
        return Batch(Features.cat(parts), np.stack([self.examples[number].truth for number in numbers]))


def draw_points(truth: np.ndarray, rng: np.random.Generator, input_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One point per slice, inside or outside with equal chance (paper, section 3.2); an empty slice has only outsides.

    Arguments:
      truth: (B, 256, 256) bool of one label.

    Returns:
      points (B, 1, 2), xy in the encoder's input frame, and inside (B, 1), 0 or 1.
    """
    drawn = [sample_points(mask, 1, rng) for mask in truth]
    xy = np.stack([points for points, _ in drawn]) * (input_size / truth.shape[-1])
    inside = np.stack([flags for _, flags in drawn])
    return torch.from_numpy(xy.astype(np.float32)), torch.from_numpy(inside.astype(np.float32))
