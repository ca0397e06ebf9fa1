"""Segmenting a volume: every slice, no click. A generator of events; see ``engine/events.py``."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.features import FeatureCache
from ..data.slices import Slices, SliceSpec
from ..data.volume import Volume
from ..errors import BadInput
from ..model.token_memory import TokenMemory
from ..model.types import Features
from ..store.card import ModelCard
from . import device as devices
from . import planner
from .events import Event, Finished, Log, PointScore, SliceDone, Started
from .loading import DeSAM, Encoder, load_backbone, load_model
from .options import SegmentOptions
from .postprocess import clean_small_regions, largest_component
from .predict import LabelPrediction, Settings, predict_slice
from .stream import FeatureStream


@dataclass(frozen=True)
class SegmentResult:
    """What a finished run hands over.

    ``labels`` is (K, J, I) uint8 on the volume's own grid; ``confidence`` and ``agreement`` map a position along the
    array axis ``axis`` to 0..1.
    """

    labels: np.ndarray
    axis: int
    confidence: dict[int, float]
    agreement: dict[int, float]
    card: ModelCard


def segment(
    volume: Volume,
    model: DeSAM | str | Path,
    options: SegmentOptions | None = None,
    *,
    device: str = "auto",
    cache: FeatureCache | None = None,
    encoder: Encoder | None = None,
) -> Iterator[Event]:
    """Segments every slice of ``volume``.

    Arguments:
      model: a loaded model, a ``.desam`` file, or the name of one in the library.
      options: None takes what the model's card recommends.
      device: "auto", "cpu", "cuda", "cuda:1", "mps".
      cache: features of slices seen before are read from it, new ones written to it.
      encoder: a warm image encoder, used if it is the one the model needs.

    Yields:
      Started, then SliceDone for every slice, Log where something was worth saying, Finished with a SegmentResult.

    Raises:
      BadInput: when an option does not make sense for this volume and model.
      WeightsMissing: when the backbone's weight file is not on this computer.
    """
    options = options or SegmentOptions()
    valid, reason = options.is_valid()
    if not valid:
        raise BadInput(reason)
    model = load_model(model)
    yield from Segmentation(volume, model, options, _encoder_for(model, encoder, device)).events(cache)


def _encoder_for(model: DeSAM, encoder: Encoder | None, device: str) -> Encoder:
    card = model.card
    if encoder is None or encoder.id != card.backbone:
        encoder = load_backbone(card.backbone, device)
    if card.backbone_sha256 and card.backbone_sha256 != encoder.sha256:
        raise BadInput(
            f"The model {card.name} was trained on other weights of {card.backbone} than the ones on this computer.",
            f"Bring the weight file with SHA-256 {card.backbone_sha256[:12]}... with 'desam weights add FILE'.",
        )
    return encoder


class Segmentation:
    """One volume, one model, one set of options.

    Arguments:
      only: positions along the volume's slice axis to restrict the run to; None = as ``options`` say.
    """

    def __init__(
        self,
        volume: Volume,
        model: DeSAM,
        options: SegmentOptions,
        encoder: Encoder,
        only: Collection[int] | None = None,
    ) -> None:
        self.only = only
        self.model, self.options, self.encoder = model.to(encoder.device), options, encoder
        self.volume, self.card = volume, model.card
        self.slices = Slices(volume, slice_spec(volume, model.card, options))
        self.settings = settings_for(model.card, options, self.slices)
        self.values = [label.value for label in model.card.labels]
        self.labels = np.zeros(volume.array.shape, np.uint8)
        self.log: list[str] = []
        encoder.log = self.log.append

    def events(self, cache: FeatureCache | None) -> Iterator[Event]:
        begun = time.perf_counter()
        indices = self._indices()
        mode = "grid of points" if self.settings.mode == "grid" else "whole box"
        title = f"{self.card.title or self.card.name}, {mode}"
        yield Started("segment", title, len(indices), "slice", devices.describe(self.encoder.device))
        confidence: dict[int, float] = {}
        agreement: dict[int, float] = {}
        last = time.perf_counter()
        stream = FeatureStream(self.slices, self.encoder, cache)
        frozen = self.model.memory_name() if self.settings.mode == "grid" else None
        codec = cache.codec if cache else ""
        for done, (index, features) in enumerate(self._features(stream, indices), 1):
            memory = (self.encoder.tokens, f"{frozen}.{codec}.{stream.key(index)}") if frozen else None
            predictions = [] if features is None else self._predict(features, memory)
            position, labels = self.slices.place(index, self._label_map(predictions))
            self._write(position, labels)
            confidence[position] = min((p.confidence for p in predictions), default=1.0)
            agreement[position] = min((p.agreement for p in predictions), default=1.0)
            yield from self._logged()
            now = time.perf_counter()
            yield SliceDone(
                self.slices.axis, position, labels, confidence[position], agreement[position], done, len(indices),
                now - last, self._points(predictions),
            )  # fmt: skip
            last = now
        labels = self._cleaned()
        result = SegmentResult(labels, self.slices.axis, confidence, agreement, self.card)
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

    def _features(self, stream: FeatureStream, indices: list[int]) -> Iterator[tuple[int, Features | None]]:
        """(slice index, its features) in order; None for a blank slice, which can only be empty and costs nothing."""
        blank = {index for index in indices if self.slices.is_blank(index)}
        encoded = stream.iterate(index for index in indices if index not in blank)
        for index in indices:
            yield index, None if index in blank else next(encoded)[1]

    def _predict(self, features: Features, memory: tuple[TokenMemory, str] | None = None) -> list[LabelPrediction]:
        """Predicts one slice; out of memory halves the prompts per batch, then moves decoder and encoder to the CPU."""
        device = self.encoder.device  # the CPU, once memory ran out: also for what the GPU had computed ahead
        features = features.to(device=device)
        if next(self.model.parameters()).device.type != device.type:
            self.model.to(device)
        planned = planner.prompts_at_once(self.model.config, features.neck.device)

        def work(batch: int) -> list[LabelPrediction]:
            # while memory is plenty the model picks the batch that suits its device
            self.model.prompt_batch = None if batch == planner.MOST_PROMPTS else batch
            return predict_slice(self.model, features, self.settings, memory)

        try:
            batch = self.model.prompt_batch or planned
            return devices.with_backoff(work, batch, self.log.append, "decoding masks")[0]
        except devices.OutOfMemory:
            if self.encoder.device.type == "cpu":
                raise
            self.log.append("The GPU's memory is not enough for the decoder: going on with the CPU.")
            self.encoder.move("cpu")
            self.model.to("cpu")
            return predict_slice(self.model, features.to(device="cpu"), self.settings, memory)

    def _label_map(self, predictions: list[LabelPrediction]) -> np.ndarray:
        """Label values (H, W) on the canonical native slice: logits are resampled, then thresholded, then compared."""
        labels = np.zeros(self.slices.native_shape, np.uint8)
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

    def _write(self, position: int, labels: np.ndarray) -> None:
        np.moveaxis(self.labels, self.slices.axis, 0)[position] = labels

    def _points(self, predictions: list[LabelPrediction]) -> tuple[PointScore, ...]:
        """The first label's grid points in the volume's own slice, if they were asked for."""
        if not self.options.keep_points or self.settings.mode != "grid" or not predictions:
            return ()
        first = predictions[0]
        side = self.settings.points
        points = []
        for number, iou in enumerate(first.iou):
            xy = np.array([(number % side + 0.5) / side * 256, (number // side + 0.5) / side * 256])
            row, column = self.slices.point_to_native(xy)
            points.append(PointScore(float(row), float(column), float(iou), number == first.chosen))
        return tuple(points)

    def _cleaned(self) -> np.ndarray:
        wanted = self.options.largest_component
        if wanted is None:
            wanted = bool(self.card.inference.get("largest_component", False))
        return largest_component(self.labels, tuple(self.values)) if wanted else self.labels

    def _logged(self) -> Iterator[Log]:
        while self.log:
            yield Log(self.log.pop(0), "warning")

    def _summary(self, labels: np.ndarray, slices: int, seconds: float) -> dict:
        voxel_ml = abs(float(np.linalg.det(self.volume.ijk_to_ras[:3, :3]))) / 1000
        millilitres = {
            label.name: round(float((labels == label.value).sum()) * voxel_ml, 3) for label in self.card.labels
        }
        return {"slices": slices, "seconds_per_slice": round(seconds / max(1, slices), 3), "millilitres": millilitres}


def slice_spec(volume: Volume, card: ModelCard, options: SegmentOptions) -> SliceSpec:
    """How the volume is cut and normalised: as the model was trained, unless the user chose otherwise."""
    trained = SliceSpec.from_dict(card.slices)
    changes: dict = {}
    if options.slice_axis != "auto":
        changes["axis"] = options.slice_axis
    if options.intensity != "auto":
        changes |= {"intensity": options.intensity, "window": options.window}
    elif options.window is not None:
        changes |= {"intensity": "window", "window": options.window}
    return SliceSpec.from_dict(trained.to_dict() | changes)


def settings_for(card: ModelCard, options: SegmentOptions, slices: Slices) -> Settings:
    """Options over the card's recommendations over the paper's defaults."""
    recommended = card.inference
    row, column = slices.pixel_spacing
    height, width = slices.native_shape
    pixel_mm2 = row * column * height * width / (256 * 256)  # of the 256 grid, squashed as the slice was
    return Settings(
        mode=options.mode or recommended.get("mode", "grid"),
        points=options.points,
        iou_threshold=options.iou_threshold,
        mask_threshold=options.mask_threshold,
        min_area_px=round(options.min_area_mm2 / pixel_mm2),
        reference_rule=options.reference_rule,
        keep_points=options.keep_points,
    )
