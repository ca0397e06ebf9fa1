"""What a decoder is trained on: slices with their truth, features computed beforehand, epochs drawn by seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..data import augment
from ..data.cases import Case, labelled_slices, load_labelled
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

LARGEST_VALUE = 255  # of a label that is trained


@dataclass(frozen=True)
class Example:
    """One slice to learn from: for every view of it, where its features lie and its truth (256, 256) uint8.

    The first view is the slice as it is; the others are turned, scaled and re-exposed (``data/augment.py``). A view
    that no epoch draws has no features, and None for a key.
    """

    case: str
    keys: tuple[str | None, ...]
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
        self.slices: list[tuple[int, int]] = []  # what can be learnt from: number of the case, of the slice in it
        self.empty: list[bool] = []  # for each of these, whether it is organ-free
        self.visited: set[tuple[int, int]] = set()  # (example, view) that some epoch draws
        self._missed = False
        self._open: tuple[int, Slices, np.ndarray] | None = None  # the case read last, by its number

    def survey(self) -> Iterator[Event]:
        """Reads the cases and finds what there is to learn from, before hours are spent on features.

        Raises:
          BadLabels, BadDataset: when there is not enough; the text says what to do.
        """
        found: set[int] = set()
        self.slices, self.empty = [], []
        for number, case in enumerate(self.cases):
            slices, labels = self._read(number)
            found |= set(np.unique(labels).tolist())
            for index in self._chosen(case, slices, labels):
                self.slices.append((number, index))
                self.empty.append(not slices.truth(labels, index).any())
            yield Progress("Reading the cases", number + 1, len(self.cases))
        self._check(found)
        self.visited = self._visits()

    def prepare(self) -> Iterator[Event]:
        """Computes the features that the cache lacks, of what the epochs will draw, saying how far it is."""
        if not self.slices:
            yield from self.survey()
        self.examples = []
        for number, case in enumerate(self.cases):
            slices, labels = self._read(number)
            indices = [index for owner, index in self.slices if owner == number]
            made = [self._views(slices, labels, index) for index in indices]
            first = len(self.examples)
            drawn = [(i, view.number) for i, views in enumerate(made, first) for view in views]
            drawn = [visit for visit in drawn if visit in self.visited]
            stream = ViewStream(slices, self.encoder, self.cache, [made[i - first][view] for i, view in drawn])
            keys: dict[tuple[int, int], str] = {}
            text = f"Features of {case.name} ({number + 1} of {len(self.cases)})"
            for done, (position, key) in enumerate(stream.fill(range(len(drawn))), 1):
                keys[drawn[position]] = key
                yield Progress(text, done, len(drawn))
            for i, views in enumerate(made, first):
                named = tuple(keys.get((i, view.number)) for view in views)
                self.examples.append(Example(case.name, named, tuple(view.truth for view in views)))
        self._open = None

    def _read(self, number: int) -> tuple[Slices, np.ndarray]:
        """The slices of a case and its labels, only those that are trained; the last one asked for is kept."""
        if self._open is None or self._open[0] != number:
            volume, labels = load_labelled(self.cases[number])
            self._open = number, Slices(volume, self.spec), restricted(labels, self.values)
        return self._open[1:]

    def _visits(self) -> set[tuple[int, int]]:
        """Everything that an epoch draws: of many organ-free slices most are never seen, let alone in every look."""
        visited: set[tuple[int, int]] = set()
        for number in range(1, self.options.epochs + 1):
            visited.update(visit for batch in self.epoch(number) for visit in batch)
            if len(visited) == len(self.slices) * (self.options.views + self.options.styles):
                break
        return visited

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
        if not self.slices:
            raise BadDataset("There is no slice to train on.", "Add cases with labels.")
        if all(self.empty):
            raise BadLabels(
                f"Nothing of the labels is left in slices of {self.spec.size} x {self.spec.size} pixels.",
                "Draw more, or larger regions: single voxels vanish when a slice is made smaller.",
            )

    def epoch(self, number: int) -> list[list[tuple[int, int]]]:
        """Batches of (example, view) of one epoch, a function of seed and epoch alone.

        Every slice with an organ is visited once, in a view drawn at random; organ-free ones are drawn so that they
        make up ``empty_fraction`` of the epoch (a decoder that never saw an empty slice paints on all of them).
        """
        rng = np.random.default_rng([self.options.seed, number])
        full = [i for i, empty in enumerate(self.empty) if not empty]
        empty = [i for i, empty in enumerate(self.empty) if empty]
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
        device = self.encoder.device  # computing features again can run out of memory and move it
        parts: list[Features] = []
        keys: list[str] = []
        for number, view in visits:
            key = self.examples[number].keys[view]
            stored = self.cache.get(key) if key else None
            if key is None or stored is None:
                key, features = self._again(number, view)
            else:
                features = to_features(stored, device)
            parts.append(features.to(device=device))
            keys.append(key)
        truth = np.stack([self.examples[number].truths[view] for number, view in visits])
        return Batch(Features.cat(parts), truth, tuple(keys))

    def _again(self, number: int, view: int) -> tuple[str, Features]:
        """Key and features of a view that another process, or a full disk, took from the cache."""
        if not self._missed:
            self._missed = True
            self.encoder.log(f"Features are missing from {self.cache.root}: they are computed again, which takes time.")
        example = self.examples[number]
        case, index = self.slices[number]
        slices, labels = self._read(case)
        stream = ViewStream(slices, self.encoder, self.cache, [self._views(slices, labels, index)[view]])
        ((_, features),) = stream.iterate([0])
        keys = (*example.keys[:view], stream.keys[0], *example.keys[view + 1 :])
        self.examples[number] = replace(example, keys=keys)
        return stream.keys[0], features


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
