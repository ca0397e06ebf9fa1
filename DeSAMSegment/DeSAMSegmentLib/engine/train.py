"""Fine-tuning a decoder, both modes and both profiles. A generator of events; see ``engine/events.py``.

The encoder and the prompt encoder stay frozen and their features are computed beforehand (paper, section 3.3), so an
epoch only moves features from the cache through PRIM and PDMM.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.cases import Case, load, require_labels
from ..data.features import FeatureCache
from ..errors import BadInput, BadLabels
from ..model.backbones import BACKBONES
from ..model.config import DeSAMConfig
from ..store.card import LabelInfo, ModelCard
from ..store.terminology import default_labels
from . import device as devices
from .curves import draw_curves
from .events import EpochDone, Event, Finished, Log, Progress, Saved, Started
from .learner import Learner
from .loading import DeSAM, Encoder, load_backbone, load_model, sam_tensors
from .options import SegmentOptions, TrainOptions
from .provenance import training_card
from .room import make_room
from .run_folder import RunFolder, TrainingState, metrics_row
from .schedule import Schedule, validation_interval
from .stream import stored_bytes
from .training_set import LARGEST_VALUE, TrainingSet, common_spec
from .validation import HeldOut, Score, hold_out, not_worse, validate


@dataclass(frozen=True)
class TrainResult:
    """What a finished run hands over: its files and its numbers."""

    best: Path
    last: Path
    best_epoch: int
    best_dice: float | None
    history: list[dict[str, Any]]


def train(
    cases: Sequence[Case],
    labels: dict[int, str] | Sequence[LabelInfo],
    folder: str | Path,
    options: TrainOptions | None = None,
    *,
    device: str = "auto",
    cache: FeatureCache | None = None,
    encoder: Encoder | None = None,
    resume: bool = False,
) -> Iterator[Event]:
    """Fine-tunes a decoder per label on ``cases``.

    Arguments:
      labels: value -> name of every label, or LabelInfo with colours and terminology; ``options.labels`` chooses.
      folder: where the run's files go.
      cache: shared feature cache; None uses one inside the folder that is deleted afterwards.
      encoder: a warm image encoder of ``options.backbone``.
      resume: continue the run in ``folder`` after its last finished epoch, bit for bit on the CPU.

    Yields:
      Started, Progress within an epoch, EpochDone, Saved for each new best model, Finished with a TrainResult.
      Closing the generator keeps the best model so far.

    Raises:
      BadInput: for options, cases or labels that cannot be used; the text says what to do.
    """
    options = options or TrainOptions()
    valid, reason = options.is_valid()
    if not valid:
        raise BadInput(reason)
    if not cases:
        raise BadInput("There is no case to train on.", "Add at least one volume with its labels.")
    chosen = trainable(chosen_labels(labels, options))
    # threads that share sums would change the last digits; a fixed seed fixes everything else
    torch.manual_seed(options.seed)
    if encoder is None or encoder.id != options.backbone:
        encoder = load_backbone(options.backbone, device)
    with tempfile.TemporaryDirectory(prefix="desam-features-") as scratch:
        run = _Training(cases, chosen, RunFolder(folder), options, encoder, resume)
        yield from run.events(cache or FeatureCache(Path(scratch)))


def chosen_labels(labels: dict[int, str] | Sequence[LabelInfo], options: TrainOptions) -> list[LabelInfo]:
    """The labels to train, with colours and terminology.

    Raises:
      BadInput: when ``options.labels`` names a value that does not exist.
    """
    known = list(default_labels(labels)) if isinstance(labels, dict) else list(labels)
    if options.labels is None:
        return known
    by_value = {label.value: label for label in known}
    absent = [value for value in options.labels if value not in by_value]
    if absent:
        raise BadInput(
            f"The data set has no label {', '.join(map(str, absent))}.",
            f"It has {', '.join(f'{label.value} ({label.name})' for label in known)}.",
        )
    return [by_value[value] for value in options.labels]


def trainable(labels: list[LabelInfo]) -> list[LabelInfo]:
    """The labels as they are.

    Raises:
      BadLabels: when a value does not fit into the byte that label maps have while they are trained on.
    """
    large = [str(label.value) for label in labels if label.value > LARGEST_VALUE]
    if large:
        raise BadLabels(
            f"Label values above {LARGEST_VALUE} cannot be trained: {', '.join(large)}.",
            "Give these labels smaller values, in the label maps and in dataset.json.",
        )
    return labels


def architecture_of(options: TrainOptions, labels: int) -> DeSAMConfig:
    """The decoder that some options ask for."""
    backbone = BACKBONES[options.backbone]
    return DeSAMConfig(
        backbone=backbone.id,
        input_size=backbone.input_size,
        level_widths=backbone.level_widths,
        width=options.width,
        variant=options.variant,
        squeeze_excitation=options.squeeze_excitation,
        labels=labels,
        shared_prim=not options.train_prim,
    )


class _Training:
    """One run: cases, labels, options, and the folder it lives in."""

    def __init__(
        self,
        cases: Sequence[Case],
        labels: list[LabelInfo],
        folder: RunFolder,
        options: TrainOptions,
        encoder: Encoder,
        resume: bool,
    ) -> None:
        self.cases, self.labels, self.folder = cases, labels, folder
        self.options, self.encoder, self.resume = options, encoder, resume
        self.values = [label.value for label in labels]
        self.log: list[str] = []
        encoder.log = self.log.append

    # ---- the run, top to bottom -----------------------------------------------------------------------------------

    def events(self, cache: FeatureCache) -> Iterator[Event]:
        limit = cache.limit_bytes
        try:
            yield from self._events(cache)
        finally:
            cache.limit_bytes = limit

    def _events(self, cache: FeatureCache) -> Iterator[Event]:
        options, state = self.options, TrainingState(epochs=self.options.epochs)
        spec = self.spec = common_spec([load(case)[0] for case in self.cases[:3]], options)
        self.folder.begin(self._config(), self.resume)
        training, held_out, excluded = hold_out(self.cases, self.values, spec, options)
        require_labels(training, self.values)  # before any feature is computed, as is the base
        base = self._base()
        where = devices.describe(self.encoder.device)
        yield Started("train", options.name, options.epochs, "epoch", where)
        data = TrainingSet(training, self.values, spec, options, self.encoder, cache, excluded)
        begun = time.perf_counter()
        yield from data.survey()
        pictures = len(data.visited) + sum(case.slices for case in held_out)
        room = make_room(cache, pictures, stored_bytes(self.encoder, cache.codec))
        if room:
            yield Log(room)
        yield from data.prepare()
        state.prepared = time.perf_counter() - begun
        model = self._model(base)
        learner = Learner(model, self.values, options, self.encoder.device, self.log.append)
        if self.resume:
            state = self.folder.restore(learner)
            yield Log(f"Resuming after epoch {state.epoch}.")
        self.schedule = Schedule(options, validation_interval(held_out, data))
        begun = time.perf_counter() - (state.seconds or state.prepared)  # features are part of the time
        while state.epoch < state.epochs and not self.schedule.exhausted(state):
            yield from self._epoch(learner, data, held_out, cache, state, begun)
        if state.epoch < state.epochs:
            yield Log(
                f"Stopped after epoch {state.epoch} of {state.epochs}: no validation was better than that of epoch "
                f"{state.top_epoch}. The model kept is of epoch {state.best_epoch}."
            )
        seconds = time.perf_counter() - begun
        best = None if state.best_dice < 0 else state.best_dice
        result = TrainResult(self.folder.best, self.folder.last, state.best_epoch, best, state.history)
        yield Finished("train", seconds, result, {"best_dice": best, "best_epoch": state.best_epoch})

    def _epoch(
        self, learner: Learner, data: TrainingSet, held_out, cache, state: TrainingState, begun: float
    ) -> Iterator[Event]:
        start = time.perf_counter()
        number = state.epoch + 1
        sums = np.zeros(4)
        slices = 0
        rng = np.random.default_rng([self.options.seed, number, 1])  # prompts; the order of slices has its own
        batches = data.epoch(number)
        learner.model.train()
        for done, batch in enumerate(data.batches(number), 1):
            rate = self.schedule.rate(state.step, state.epochs * len(batches))
            sums += len(batch.truth) * learner.step(batch, rate, rng)
            slices += len(batch.truth)
            state.step += 1
            yield Progress(f"Epoch {number} of {state.epochs}", done, len(batches))
            yield from self._logged()
        learner.model.eval()
        late = self.schedule.late(time.perf_counter() - begun)
        due = held_out and self.schedule.validates(number, late, state)
        score = (yield from self._validated(learner, held_out, cache, number, state)) if due else None
        state.epoch, state.seconds = number, time.perf_counter() - begun
        late = late or (score is not None and self.schedule.late(state.seconds))
        self.log += self.schedule.fit_into_minutes(state, late)
        loss, dice, ce, iou = (float(value) for value in sums / slices)
        better = self._is_kept(score, number, state)
        event = EpochDone(
            number, state.epochs, loss, {"dice": dice, "ce": ce, "iou": iou}, rate,
            score.dice if score else None, None, better, time.perf_counter() - start,
        )  # fmt: skip
        if better:
            state.best_epoch, state.best_dice = number, score.dice if score else -1.0
        state.history.append(metrics_row(event))
        yield from self._written(learner, state, score, better)
        yield from self._logged()
        yield event

    def _validated(self, learner: Learner, held_out: list[HeldOut], cache, number: int, state: TrainingState):
        """Validation's Progress and Log events; returns the Score."""
        model, score = learner.model, None
        model.card = self._card(model, None, state)
        inference = SegmentOptions(mode=self.options.mode, largest_component=False)
        for event in validate(held_out, model, inference, self.encoder, cache, f"Validating epoch {number}"):
            if isinstance(event, Score):
                score = event
            else:
                yield event
        # segmenting listened to the encoder, and if it ran out of memory it took the model to the CPU
        self.encoder.log = self.log.append
        model.to(learner.device)
        return score

    def _written(self, learner: Learner, state: TrainingState, score: Score | None, better: bool) -> Iterator[Event]:
        """Models, state, numbers and curves of a finished epoch, in an order that a kill cannot spoil."""
        card = self._card(learner.model, score, state)
        if better:
            learner.model.save(self.folder.best, card)
            yield Saved(self.folder.best, "model")
        self.folder.save(learner, card, state)
        self.folder.write_metrics(state.history)
        draw_curves(state.history, self.folder.curves, self.options.name)

    # ---- plans ----------------------------------------------------------------------------------------------------

    def _is_kept(self, score: Score | None, number: int, state: TrainingState) -> bool:
        """Whether this epoch's model becomes best.desam; remembers the epoch with the highest Dice."""
        top = state.top_values
        if score is None:
            return not top  # nothing was ever validated: the latest is all there is
        kept = not top or not_worse(score.values, top)
        if not top or np.mean(score.values) > np.mean(top):
            state.top_values, state.top_epoch = score.values, number
        return kept

    def _base(self) -> DeSAM | None:
        """The given model to start from, or, of a run that is resumed, its own last one; None without a base.

        Raises:
          BadInput: when there is no such model, or it does not suit this training.
        """
        if not self.options.base:
            return None
        if self.resume:  # the run's own model has all that the base gave it, and the base may be gone
            return load_model(self.folder.last)
        model = load_model(self.options.base)
        if model.config.labels != len(self.labels) or model.card.backbone != self.options.backbone:
            raise BadInput(
                f"The base model {model.card.name} has {model.config.labels} label(s) on {model.card.backbone}; "
                f"this training has {len(self.labels)} on {self.options.backbone}.",
                "Choose a base with the same labels and backbone, or none.",
            )
        return model

    def _model(self, base: DeSAM | None) -> DeSAM:
        """The decoder to start from: the base, or PRIM from SAM's own decoder and a fresh PDMM."""
        if base is not None:
            return base.to(self.encoder.device)
        architecture = architecture_of(self.options, len(self.labels))
        model = DeSAM.from_sam(architecture, sam_tensors(self.options.backbone))
        return model.to(self.encoder.device)  # type: ignore[return-value]

    def _config(self) -> dict[str, Any]:
        return {
            "options": self.options.to_dict(),
            "cases": [case.name for case in self.cases],
            "labels": [asdict(label) for label in self.labels],
            "backbone_sha256": self.encoder.sha256,
        }

    def _card(self, model: DeSAM, score: Score | None, state: TrainingState) -> ModelCard:
        names = [case.name for case in self.cases]
        digest, architecture = self.encoder.sha256, model.config
        return training_card(self.options, self.labels, names, digest, architecture, self.spec, score, state)

    def _logged(self) -> Iterator[Log]:
        while self.log:
            yield Log(self.log.pop(0), "warning")
