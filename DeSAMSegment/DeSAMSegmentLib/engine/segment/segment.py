"""Segmenting a volume: every slice, no click. A generator of events; see ``engine/events.py``.

One slice's way from features to a mask is told in ``model/prediction.py``; here masks become label values on the
volume's own grid.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ...data.slices import Slices
from ...data.volume import Volume
from ...errors import BadInput
from ...model.postprocess import clean_small_regions, largest_component
from ...model.prediction import DecodeSettings, LabelPrediction, averaged
from ...model.registry import MASK_SIZE
from ...model.types import Features, Prompts
from ...store.card import ModelCard
from ..events import Event, Finished, Log, PointScore, SliceDone, Started
from ..options import MODES, SegmentOptions, resolve
from ..runtime import device as devices
from ..runtime.features import FeatureStream
from ..runtime.loading import DeSAM
from ..runtime.session import Session
from .confidence import Calibration, stretch

EXPONENTS = (1.0, 0.6, 1.6)  # of the contrasts in which a slice is seen: benchmarks/generalisation


@dataclass(frozen=True)
class SegmentResult:
    """What a finished run hands over.

    ``labels`` is (K, J, I) uint8, or uint16 for values above 255, on the volume's own grid; ``confidence`` and
    ``agreement`` map a position along the array axis ``axis`` to 0..1; ``certainty`` maps a label value and a position
    where the label was found to the mean probability of its mask.
    """

    labels: np.ndarray
    axis: int
    confidence: dict[int, float]
    agreement: dict[int, float]
    certainty: dict[tuple[int, int], float]
    card: ModelCard


def segment(
    volume: Volume,
    model: DeSAM | str | Path,
    options: SegmentOptions | None = None,
    session: Session | None = None,
) -> Iterator[Event]:
    """Segments every slice of ``volume``.

    Arguments:
      model: a loaded model, a ``.desam`` file, or the name of one in the library.
      options: None takes what the model's card recommends.
      session: device, cache and what is loaded already; None makes one for this call, without a cache.

    Yields:
      Started, then SliceDone for every slice, Log where something was worth saying, Finished with a SegmentResult.

    Raises:
      BadInput: when an option does not make sense for this volume and model.
      WeightsMissing: when the backbone's weight file is not installed.
    """
    options = (options or SegmentOptions()).check()
    session = session or Session()
    model = session.model(model)
    session.begin_with(model.card)
    yield from Segmentation(volume, model, options, session).events()


class Segmentation:
    """One volume, one model, one set of options, within a job that has begun.

    Arguments:
      only: positions along the volume's slice axis to restrict the run to; None = as ``options`` say.
    """

    def __init__(
        self,
        volume: Volume,
        model: DeSAM,
        options: SegmentOptions,
        session: Session,
        only: Collection[int] | None = None,
    ) -> None:
        self.volume, self.session, self.only = volume, session, only
        self.model, self.card = model.to(session.device), model.card
        self.options, spec = resolve(model.card, options)
        self.slices = Slices(volume, spec)
        if options.slice_axis == "auto":  # nobody chose the plane for this volume
            self.slices.check_cut()
        self.settings = _decode_settings(self.options, self.slices)
        self.values = [label.value for label in model.card.labels]
        self.calibrations = [Calibration.of_card(model.card.confidence, value) for value in self.values]
        self.certainty: dict[tuple[int, int], float] = {}  # (label value, position) -> of what was found
        kind = np.uint8 if max(self.values) <= 255 else np.uint16
        self.labels = np.zeros(volume.array.shape, kind)
        self.unsure: dict[tuple[int, int], np.ndarray] = {}  # (label value, position) -> mask, for ``fill_gaps``

    def events(self) -> Iterator[Event]:
        begun = last = time.perf_counter()
        indices = self._indices()
        title = f"{self.card.title or self.card.name}, {MODES[self.settings.mode].lower()}"
        yield Started("segment", title, len(indices), "slice", devices.describe(self.session.device))
        confidence: dict[int, float] = {}
        agreement: dict[int, float] = {}
        for done, (index, predictions) in enumerate(self._predictions(indices), 1):
            position, labels = self.slices.place(index, self._label_map(predictions))
            np.moveaxis(self.labels, self.slices.axis, 0)[position] = labels
            self._keep_unsure(index, predictions)
            confidence[position] = self._confidence(position, predictions)
            agreement[position] = min((p.agreement for p in predictions), default=1.0)
            yield from self.session.logged()
            now = time.perf_counter()
            yield SliceDone(
                self.slices.axis, position, labels, confidence[position], agreement[position], done, len(indices),
                now - last, self._points(predictions),
            )  # fmt: skip
            last = now
        stack = np.moveaxis(self.labels, self.slices.axis, 0)
        fill_gaps(stack, self.unsure)
        if self.options.one_stretch:
            self._keep_stretches(stack, sorted(confidence))
        labels = self.labels
        if self.options.largest_component:
            try:
                labels = largest_component(labels, self.values)
            except MemoryError:  # an hour's slices are not lost over it
                yield Log("There is not enough memory to find the largest components: all are kept.", "warning")
        result = SegmentResult(labels, self.slices.axis, confidence, agreement, self.certainty, self.card)
        seconds = time.perf_counter() - begun
        yield Finished("segment", seconds, result, self._summary(labels, len(indices), seconds))

    def _indices(self) -> list[int]:
        """Slices to segment, in canonical order; ``slice_range`` counts along the volume's own array axis."""
        every = range(len(self.slices))
        if self.only is not None:
            return [i for i in every if self.slices.index(i) in self.only]
        if self.options.slice_range is None:
            return list(every)
        first, last = self.options.slice_range
        chosen = [i for i in every if first <= self.slices.index(i) <= last]
        if not chosen:
            raise BadInput(
                f"The slice range {first} to {last} holds no slice of this volume.",
                f"Slices are counted from 0 to {len(self.slices) - 1}.",
            )
        return chosen

    def _predictions(self, indices: list[int]) -> Iterator[tuple[int, list[LabelPrediction]]]:
        """(slice index, every label's prediction) in order; none for a blank slice, which costs nothing."""
        blank = {index for index in indices if self.slices.is_blank(index)}
        streams = [FeatureStream(self.slices, self.session, each) for each in EXPONENTS[: self.options.contrasts]]
        digest = self.model.prim_digest() if self.settings.mode == "grid" else None
        codec = self.session.cache.codec if self.session.cache else ""

        def predict(stream: FeatureStream, index: int, features: Features) -> list[LabelPrediction]:
            known = f"{digest}.{codec}.{stream.key(index)}" if digest else None
            return self.session.predict(self.model, features, self.settings, known)

        def predict_all(index: int, features: Features) -> list[LabelPrediction]:
            others = [each.one(index, partial(predict, each))[1] for each in streams[1:]]
            return averaged([predict(streams[0], index, features), *others])

        with closing(streams[0].used([index for index in indices if index not in blank], predict_all)) as predicted:
            for index in indices:
                yield index, [] if index in blank else next(predicted)[1]

    def _label_map(self, predictions: list[LabelPrediction]) -> np.ndarray:
        """Label values (H, W) on the canonical native slice: logits are resampled, then thresholded, then compared."""
        labels = np.zeros(self.slices.native_shape, self.labels.dtype)
        if not predictions:  # a blank slice
            return labels
        best = np.full(labels.shape, self.settings.mask_logit, np.float32)
        for value, prediction in zip(self.values, predictions, strict=True):
            if prediction.logits is None:
                continue
            native = self.slices.to_native(prediction.logits)
            wins = native > best  # overlaps go to the larger logit
            labels[wins], best[wins] = value, native[wins]
        return self._without_small_regions(labels)

    def _keep_unsure(self, index: int, predictions: list[LabelPrediction]) -> None:
        for value, prediction in zip(self.values, predictions, strict=False):  # none for a blank slice
            if prediction.unsure is not None:
                mask = self.slices.to_native(prediction.unsure) > self.settings.mask_logit
                position, placed = self.slices.place(index, mask)
                self.unsure[value, position] = placed

    def _confidence(self, position: int, predictions: list[LabelPrediction]) -> float:
        """The lowest of the labels: the expected Dice of what was found, else how sure it is that nothing is there."""
        said = []
        for value, prediction, calibration in zip(self.values, predictions, self.calibrations, strict=False):
            if prediction.found:
                self.certainty[value, position] = prediction.certainty
            said.append(calibration.dice(prediction.certainty) if prediction.found else prediction.certainty)
        return min(said, default=1.0)  # a blank slice has none

    def _keep_stretches(self, stack: np.ndarray, positions: list[int]) -> None:
        """Clears each label outside the run of slices that speaks for it; ``stack``: slices along the first axis.

        Where no slice speaks for a label all of it stays, for the review to flag.
        """
        for value, calibration in zip(self.values, self.calibrations, strict=True):
            found = [self.certainty.get((value, position)) for position in positions]
            first, end = stretch([0.0 if each is None else calibration.dice(each) for each in found])
            for position in positions[:first] + positions[end:] if end else ():
                stack[position][stack[position] == value] = 0

    def _without_small_regions(self, labels: np.ndarray) -> np.ndarray:
        row, column = self.slices.pixel_spacing
        minimum = round(self.options.min_area_mm2 / (row * column))
        if minimum <= 1:
            return labels
        cleaned = np.zeros_like(labels)
        for value in self.values:
            mask, _ = clean_small_regions(labels == value, minimum)
            cleaned[mask & (cleaned == 0)] = value
        return cleaned

    def _points(self, predictions: list[LabelPrediction]) -> tuple[PointScore, ...]:
        """The first label's grid points in the volume's own slice, if they were asked for."""
        if not self.options.keep_points or self.settings.mode != "grid" or not predictions:
            return ()
        first = predictions[0]
        grid = Prompts.grid(self.settings.points, MASK_SIZE).xy
        assert grid is not None
        if len(first.iou) != len(grid):  # a model without prompts
            return ()
        places = self.slices.point_to_native(grid.numpy())
        return tuple(
            PointScore(float(row), float(column), float(iou), number == first.chosen)
            for number, ((row, column), iou) in enumerate(zip(places, first.iou, strict=True))
        )

    def _summary(self, labels: np.ndarray, slices: int, seconds: float) -> dict[str, Any]:
        voxel_ml = self.volume.voxel_mm3 / 1000
        millilitres = {
            label.name: round(float((labels == label.value).sum()) * voxel_ml, 3) for label in self.card.labels
        }
        return {"slices": slices, "seconds_per_slice": round(seconds / max(1, slices), 3), "millilitres": millilitres}


def fill_gaps(labels: np.ndarray, unsure: Mapping[tuple[int, int], np.ndarray], longest: int = 2) -> np.ndarray:
    """Puts a mask that was not sure enough alone where slices with the label lie on both sides and overlap with it.

    Arguments:
      labels: (N, H, W) label values, slices along the first axis; changed in place.
      unsure: (label value, slice) -> mask (H, W) bool. longest: slices of a gap that is filled.

    Returns:
      labels.
    """
    for value in {value for value, _ in unsure}:
        mine = labels == value
        filled = np.flatnonzero(mine.any((1, 2)))
        for first, last in pairwise(filled.tolist()):
            around = mine[first] | mine[last]
            for k in range(first + 1, last) if last - first <= longest + 1 else ():
                mask = unsure.get((value, k))
                if mask is not None and (mask & around).any():
                    labels[k][mask & (labels[k] == 0)] = value
    return labels


def _decode_settings(options: SegmentOptions, slices: Slices) -> DecodeSettings:
    """Resolved options as the decoder of a slice takes them: areas in its own pixels."""
    row, column = slices.pixel_spacing
    height, width = slices.native_shape
    pixel_mm2 = row * column * height * width / MASK_SIZE**2  # of the 256 grid, squashed as the slice was
    assert options.mode is not None
    assert options.points is not None
    assert options.iou_threshold is not None
    return DecodeSettings(
        mode=options.mode,
        points=options.points,
        iou_threshold=options.iou_threshold,
        mask_threshold=options.mask_threshold,
        min_area_px=round(options.min_area_mm2 / pixel_mm2),
        reference_rule=options.reference_rule,
        fill_gaps=bool(options.fill_gaps),
    )
