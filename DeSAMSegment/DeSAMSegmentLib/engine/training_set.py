"""What a decoder is trained on: slices with their truth, features computed beforehand, epochs drawn by seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from ..data import augment
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
from .rounding import to_features
from .stream import FeatureStream
from .styles import stylise


@dataclass(frozen=True)
class Example:
    """One slice to learn from: for every view of it, where its features lie and its truth (256, 256) uint8.

    The first view is the slice as it is; the others are turned, scaled and re-exposed (``data/augment.py``).
    """

    case: str
    keys: tuple[str, ...]
    truths: tuple[np.ndarray, ...]

    @property
    def empty(self) -> bool:
        return not self.truths[0].any()


@dataclass(frozen=True)
class Batch:
    """Features (B) on the device, truth (B, 256, 256) uint8, and the cache keys that name the B slices."""

    features: Features
    truth: np.ndarray
    keys: tuple[str, ...] = ()


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


@dataclass(frozen=True)
class View:
    """One look of one slice: its truth, and its picture where that is not the slice itself."""

    index: int
    number: int
    truth: np.ndarray
    image: np.ndarray | None = None


class ViewStream(FeatureStream):
    """Features of views instead of plain slices; plain slices share their cache entries with segmenting."""

    def __init__(self, slices: Slices, encoder: Encoder, cache: FeatureCache, views: Sequence[View]) -> None:
        super().__init__(slices, encoder, cache)
        self.views = views

    def key(self, index: int) -> str:
        return self.view_key(self.views[index])

    def view_key(self, view: View) -> str:
        plain = super().key(view.index)
        if view.image is None:
            return plain
        # the picture itself names the view, so no setting that shapes it can be forgotten
        return f"{plain}.view-{hashlib.sha256(view.image.tobytes()).hexdigest()[:16]}"

    def picture(self, index: int) -> np.ndarray:
        view = self.views[index]
        return super().picture(view.index) if view.image is None else view.image


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
            slices = Slices(volume, self.spec)
            chosen = self._chosen(case, slices, labels)
            text = f"Features of {case.name} ({number} of {len(self.cases)})"
            made = [self._views(slices, labels, index) for index in chosen]
            stream = ViewStream(slices, self.encoder, self.cache, [view for views in made for view in views])
            for done, _ in enumerate(stream.fill(range(len(stream.views))), 1):
                yield Progress(text, done, len(stream.views))
            for views in made:
                keys = tuple(stream.view_key(view) for view in views)
                self.examples.append(Example(case.name, keys, tuple(view.truth for view in views)))
        self._check(found)

    def _views(self, slices: Slices, labels: np.ndarray, index: int) -> list[View]:
        """The slice as it is, ``views - 1`` other poses and ``styles`` other styles: functions of seed and slice."""
        truth = slices.truth(labels, index)
        views = [View(index, 0, truth)]
        if self.options.views > 1:
            picture = slices.image(index)
            for number in range(1, self.options.views):
                image, moved = augment.view(picture, truth, (self.options.seed, index, number))
                views.append(View(index, number, moved, image))
        for number in range(self.options.styles):
            styled = stylise(slices.image(index), (self.options.seed, index, number))
            views.append(View(index, len(views), truth, styled))
        return views

    def _chosen(self, case: Case, slices: Slices, labels: np.ndarray) -> list[int]:
        """Slice numbers that carry truth: all of a fully labelled case, the drawn ones of a partial one."""
        every = range(len(slices))
        if case.slices == "labelled" or self.options.slices == "labelled" or self.options.empty_fraction == 0:
            drawn = set(labelled_slices(labels, slices.axis))
            every = [i for i in every if slices.index(i) in drawn]  # type: ignore[assignment]
        held_out = self.excluded.get(case.name, set())
        return [i for i in every if slices.index(i) not in held_out]

    def _check(self, found: set[int]) -> None:
        absent = [value for value in self.values if value not in found]
        if absent:
            raise BadLabels(
                f"No training case holds the label value {', '.join(map(str, absent))}.",
                f"Values present: {', '.join(str(v) for v in sorted(found - {0})) or 'none'}.",
            )
        if not self.examples:
            raise BadDataset("There is no slice to train on.", "Add cases with labels.")

    def epoch(self, number: int) -> list[list[tuple[int, int]]]:
        """Batches of (example, view) of one epoch, a function of seed and epoch alone.

        Every slice with an organ is visited once, in a view drawn at random; organ-free ones are drawn so that they
        make up ``empty_fraction`` of the epoch (a decoder that never saw an empty slice paints on all of them).
        """
        rng = np.random.default_rng([self.options.seed, number])
        full = [i for i, example in enumerate(self.examples) if not example.empty]
        empty = [i for i, example in enumerate(self.examples) if example.empty]
        share = self.options.empty_fraction
        wanted = min(len(empty), round(len(full) * share / (1 - share)))
        order = rng.permutation(full + rng.permutation(empty)[:wanted].tolist()).tolist()
        views = rng.integers(0, self.options.views + self.options.styles, len(order)).tolist()
        visits = list(zip(order, views, strict=True))
        size = self.options.batch_size
        return [visits[i : i + size] for i in range(0, len(visits), size)]

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

    def _load(self, visits: list[tuple[int, int]]) -> Batch:
        parts = []
        for number, view in visits:
            stored = self.cache.get(self.examples[number].keys[view])
            if stored is None:
                raise BadDataset(
                    "Features vanished from the cache during training.",
                    "Give the cache more room (it holds all slices of a training) and resume.",
                )
            parts.append(to_features(stored, self.encoder.device))
        truth = np.stack([self.examples[number].truths[view] for number, view in visits])
        keys = tuple(self.examples[number].keys[view] for number, view in visits)
        return Batch(Features.cat(parts), truth, keys)


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
