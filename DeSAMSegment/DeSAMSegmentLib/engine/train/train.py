"""Fine-tuning a decoder, both modes and both profiles. A generator of events; see ``engine/events.py``.

The encoder and the prompt encoder stay frozen and their features are computed beforehand (paper, section 3.3), so an
epoch only moves features from the cache through PRIM and PDMM. One step of it is told in ``step.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...data.cases import Case, CaseStore
from ...data.feature_cache import FeatureCache
from ...data.labels import Matcher
from ...data.slices import SliceSpec
from ...errors import BadInput
from ...files import probe, scratch_folder
from ...model.registry import BACKBONES
from ...store.card import LabelInfo, ModelCard, software, utc_now
from ...store.library import SUFFIX
from ..declarations import declarations
from ..events import EpochDone, Event, Finished, Log, Progress, Saved, Started
from ..figures import draw_training_curves
from ..options import SegmentOptions, TrainOptions, resolve
from ..runtime import device as devices
from ..runtime.features import stored_bytes
from ..runtime.loading import DeSAM
from ..runtime.session import Session
from . import from_labels, pseudo_labels
from .initial_model import base_model, chosen_labels, in_base_order, initial_model, seed
from .run_folder import RunFolder, TrainingState, TrainResult, metrics_row
from .schedule import Schedule, validation_interval
from .step import Learner
from .team import ALONE, Team
from .training_set import Share, TrainingSet, common_spec
from .validation import HeldOut, ValidationScore, encode_held_out, hold_out, not_worse, validate

Ahead = Callable[[Sequence[Share], FeatureCache], Iterator[Event]]


def train(
    cases: Sequence[Case],
    labels: dict[int, str] | Sequence[LabelInfo],
    folder: str | Path,
    options: TrainOptions | None = None,
    session: Session | None = None,
    *,
    replay: Sequence[Case] = (), resume: bool = False, ahead: Ahead | None = None, team: Team = ALONE,
) -> Iterator[Event]:  # fmt: skip
    """Fine-tunes a decoder per label on ``cases``. A slice that is ``ignore`` all over is not learnt from.

    Arguments:
      labels: value -> name of every label, or LabelInfo with colours and terminology; ``options.labels`` chooses.
      session: device, cache and what is loaded already; without a cache, one is used that is deleted afterwards.
      replay: labelled cases of earlier data, mixed in so that the base model does not forget them.
      resume: continue the run in ``folder`` after its last finished epoch, if any, bit for bit on the CPU.
      ahead: computes features into the cache, elsewhere; the rest is computed here. team: as in ``several.train_on``.

    Yields:
      Started, Progress, EpochDone, Saved for each new best model, Finished with a TrainResult. Closing keeps the best.

    Raises:
      BadInput: for options, cases or labels that cannot be used; the text says what to do.
    """
    options, session, files = (options or TrainOptions()).check(), session or Session(), RunFolder(folder)
    if not cases:
        raise BadInput("There is no case to train on.", "Add at least one volume with its labels.")
    chosen = chosen_labels(labels, options)
    session.begin(options.backbone)
    seed(options)
    with scratch_folder("training") as scratch, ExitStack() as held:
        if session.cache is None:
            session.cache = FeatureCache(scratch / "features")
            held.callback(setattr, session, "cache", None)
        probe(files.path / "metrics.csv")
        held.enter_context(files.locked() if team.rank == 0 else nullcontext())
        if (base := base_model(options, session, files, resume)) is not None:
            chosen = in_base_order(chosen, base.card, options)
        run = _Training(cases, chosen, files, options, session, scratch, resume, replay, ahead, team)
        yield from run.events(held, base)


@dataclass
class _Training:
    """One run: cases, labels, options, and the folder it lives in."""

    cases: Sequence[Case]
    labels: list[LabelInfo]
    folder: RunFolder
    options: TrainOptions
    session: Session
    scratch: Path
    resume: bool
    replay: Sequence[Case]
    ahead: Ahead | None
    team: Team

    def __post_init__(self) -> None:
        self.replay = [replace(case, name=f"{case.name} (replayed)") for case in self.replay]
        self.confidence: dict[str, list[float]] = {}  # of the latest validation
        self.adaptation: dict[str, Any] = {}  # of unlabelled cases: slices, those that teach, confidence
        matcher = Matcher([label.name for label in self.labels], [label.value for label in self.labels])
        self.store = CaseStore(matcher, self.scratch / "cases")

    # ---- the run, top to bottom -----------------------------------------------------------------------------------

    def events(self, held: ExitStack, base: DeSAM | None) -> Iterator[Event]:
        """held: keeps the cache's promise to hold the features until the run is over."""
        options, session = self.options, self.session
        yield Started("train", options.name, options.epochs, "epoch", devices.describe(session.device))
        data, held_out = yield from self._split(base)
        state = TrainingState(epochs=options.epochs)
        begun = time.perf_counter()
        yield from self._features(data, held_out, held)
        state.prepared = time.perf_counter() - begun

        # epochs, until they are enough
        model = initial_model(base, options, len(self.labels)).to(session.device)
        learner = Learner(model, options, session, stay=not self.replay, team=self.team)
        if self.resume and self.folder.state.exists():
            state = self.folder.restore(learner)
            if self.team.rank == 0:
                self.folder.write_metrics(state.history)  # a kill after the last epoch's state left them short
            yield Log(f"Resuming after epoch {state.epoch}.")
        self.schedule = Schedule(options, validation_interval(held_out, data))
        begun = time.perf_counter() - (state.seconds or state.prepared)  # features are part of the time
        while state.epoch < state.epochs and not self.schedule.exhausted(state):
            yield from self._epoch(learner, data, held_out, state, begun)
        if state.epoch < state.epochs:
            yield Log(
                f"Stopped after epoch {state.epoch} of {state.epochs}: no validation was better than that of epoch "
                f"{state.top_epoch}. The model kept is of epoch {state.best_epoch}."
            )
        if options.unlabelled:
            yield from pseudo_labels.compared(self.cases, learner.model, self.session, self.adaptation)
        seconds = time.perf_counter() - begun
        best = None if state.best_dice < 0 else state.best_dice
        result = TrainResult(self.folder.best, self.folder.last, state.best_epoch, best, state.history)
        yield Finished("train", seconds, result, {"best_dice": best, "best_epoch": state.best_epoch} | self.adaptation)

    def _split(self, base: DeSAM | None) -> Generator[Event, None, tuple[TrainingSet, list[HeldOut]]]:
        """What is learnt from, and what is held out for validation; the run's folder begins here."""
        self.base = None if base is None else base.card
        cases, options = self.cases, self.options
        if options.from_labels:
            cases = yield from from_labels.stacks(self.cases, options)
            options = replace(options, patient_pattern=options.patient_pattern or from_labels.MAP_PATTERN)
        if options.unlabelled:
            assert base is not None
            if self.resume and self.folder.state.exists():
                raise BadInput("An adaptation cannot be resumed: its model has changed since.", "Begin it anew.")
            cases, self.adaptation = yield from pseudo_labels.taught(self.cases, base, self.session)
        spec = self.spec = self._slice_spec(cases)
        if self.team.rank == 0:
            self.folder.begin(self._config(), self.resume)
        training, held_out, excluded = hold_out(cases, self.store, spec, options)
        self.held_out = {each.name: None if each.positions is None else sorted(each.positions) for each in held_out}
        for old, new in zip(self.base.labels if self.base else self.labels, self.labels, strict=True):
            if old.name != new.name:
                yield Log(f"The label {new.name} goes on from {old.name} of the base model.", "warning")
        data = TrainingSet(training, self.store, spec, self.options, self.session, excluded, self.replay, self.team)
        return data, held_out

    def _features(self, data: TrainingSet, held_out: list[HeldOut], held: ExitStack) -> Iterator[Event]:
        """Computes the features, once: most of the time of a short training."""
        cache = self.session.cache
        assert cache is not None
        yield from data.survey()
        self.connected, self.histogram = data.connected, data.histogram
        images = len(data.visited) + sum(case.slices for case in held_out)
        said = held.enter_context(cache.holding(images, stored_bytes(BACKBONES[self.options.backbone], cache.codec)))
        if said:
            yield Log(said)
        if self.ahead:
            yield from self.ahead(data.shares(), cache)
        yield from data.prepare()
        if self.team.size > 1:  # alone, validation computes them itself
            yield from encode_held_out(held_out, self.spec, self.session, self.team)

    def _epoch(
        self, learner: Learner, data: TrainingSet, held_out: list[HeldOut], state: TrainingState, begun: float
    ) -> Iterator[Event]:
        start = time.perf_counter()
        losses, rate = yield from self._learnt(learner, data, state)
        if self.team.rank == 0:
            yield from self._concluded(learner, held_out, state, (begun, start), losses, rate)
        vars(state).update(self.team.shared(vars(state)))

    def _learnt(
        self, learner: Learner, data: TrainingSet, state: TrainingState
    ) -> Generator[Event, None, tuple[list[float], float]]:
        """Takes the steps of the next epoch; returns its four losses and the last learning rate."""
        number, sums, slices = state.epoch + 1, np.zeros(4), 0
        rng = np.random.default_rng([self.options.seed, number, 1])  # prompts; the order of slices has its own
        batches = data.epoch(number)
        learner.model.train()
        for done, batch in enumerate(data.batches(number), 1):
            rate = self.schedule.rate(state.step, state.epochs * len(batches))
            sums += len(batch.targets) * learner.step(batch, rate, rng)
            slices += len(batch.targets)
            state.step += 1
            yield Progress(f"Epoch {number} of {state.epochs}", done, len(batches))
            yield from self.session.logged()
        learner.model.eval()
        return (sums / slices).tolist(), rate

    def _concluded(
        self, learner: Learner, held_out: list[HeldOut], state: TrainingState, times: tuple[float, float],
        losses: list[float], rate: float,
    ) -> Iterator[Event]:  # fmt: skip
        """Validates and writes an epoch whose steps are taken; ``times``: when the run and the epoch began."""
        number, (begun, start) = state.epoch + 1, times
        late = self.schedule.late(time.perf_counter() - begun)
        due = held_out and self.schedule.validates(number, late, state)
        score = (yield from self._validated(learner, held_out, number, state)) if due else None
        state.epoch, state.seconds = number, time.perf_counter() - begun
        late = late or (score is not None and self.schedule.late(state.seconds))
        for text in self.schedule.fit_into_minutes(state, late):
            self.session.log(text)
        better = self._is_kept(score, number, state)
        event = EpochDone(
            number, state.epochs, losses[0], dict(zip(("dice", "ce", "iou"), losses[1:], strict=True)), rate,
            score.dice if score else None, better, time.perf_counter() - start,
        )  # fmt: skip
        if better:
            state.best_epoch, state.best_dice = number, score.dice if score else -1.0
        state.history.append(metrics_row(event))
        yield from self._written(learner, state, score, better)
        yield from self.session.logged()
        yield event

    def _validated(
        self, learner: Learner, held_out: list[HeldOut], number: int, state: TrainingState
    ) -> Generator[Event, None, ValidationScore | None]:
        """Validation's Progress and Log events; returns the score."""
        model, score = learner.model, None
        model.card = self._card(model, None, state)
        inference = SegmentOptions(mode=self.options.mode)  # the card recommends the rest
        for event in validate(held_out, model, inference, self.session, f"Validating epoch {number}"):
            if isinstance(event, ValidationScore):
                score = event
            else:
                yield event
        model.to(learner.device)  # segmenting that ran out of memory took it to the CPU
        return score

    def _written(
        self, learner: Learner, state: TrainingState, score: ValidationScore | None, better: bool
    ) -> Iterator[Event]:
        """Models, state, numbers and curves of a finished epoch, in an order that a kill cannot spoil."""
        card = self._card(learner.model, score, state)
        if better:
            learner.model.save(self.folder.best, card, half=True)
            yield Saved(self.folder.best, "model")
        self.folder.save(learner, card, state)
        self.folder.write_metrics(state.history)
        draw_training_curves(state.history, self.folder.curves, self.options.name)

    # ---- plans ----------------------------------------------------------------------------------------------------

    def _slice_spec(self, cases: Sequence[Case]) -> SliceSpec:
        """How volumes are cut: of corrections as the base cuts them, unless something else was chosen."""
        options = self.options
        if self.base is None or options.profile != "corrections":
            return common_spec([self.store.load(case)[0] for case in cases[:3]], options)
        cut = {name: getattr(options, name) for name in ("slice_axis", "intensity", "window")}
        return resolve(self.base, SegmentOptions(**cut))[1]

    def _is_kept(self, score: ValidationScore | None, number: int, state: TrainingState) -> bool:
        """Whether this epoch's model becomes best.desam; remembers the epoch with the highest Dice."""
        top = state.top_values
        if score is None:
            return not top  # nothing was ever validated: the latest is all there is
        kept = not top or not_worse(score.values, top)
        if not top or np.mean(score.values) > np.mean(top):
            state.top_values, state.top_epoch = score.values, number
        return kept

    def _config(self) -> dict[str, Any]:
        return {
            "options": self.options.to_dict(),
            "cases": [case.name for case in self.cases],
            "replay": [case.name for case in self.replay],
            "labels": [asdict(label) for label in self.labels],
            "backbone_sha256": self.session.encoder.sha256,
        }

    def _card(self, model: DeSAM, score: ValidationScore | None, state: TrainingState) -> ModelCard:
        """The card of the model at the end of an epoch; ``score`` is the validation of that epoch, if there was one."""
        options, segmenting = self.options, declarations(SegmentOptions)
        if score and score.calibration:
            self.confidence = {str(value): [each.zero, each.one] for value, each in score.calibration.items()}
        inference = {
            "mode": options.mode,
            "points": segmenting["points"].fallback,
            "iou_threshold": segmenting["iou_threshold"].fallback,
            "largest_component": self.connected,
            "one_stretch": self.connected and bool(self.confidence),  # a line that nobody measured clears nothing
        }
        if self.base is not None and options.profile == "corrections":  # a few slices do not tell what suits a volume
            inference |= self.base.inference
            self.confidence = self.base.confidence
        return ModelCard(
            name=options.name,
            title=options.name,
            labels=tuple(self.labels),
            backbone=options.backbone,
            backbone_sha256=self.session.encoder.sha256,
            architecture=model.config.to_dict(),
            slices=self.spec.to_dict() | {"histogram": self.spec.histogram or self.histogram},
            inference=inference,
            confidence=self.confidence,
            training=self._provenance(score, state),
            software=software(),
            created=utc_now(),
        )

    def _provenance(self, score: ValidationScore | None, state: TrainingState) -> dict[str, Any]:
        """How the model was trained, for its card."""
        options = self.options
        # the base's name; where it lay is nobody's business
        base = Path(options.base).name.removesuffix(SUFFIX) if options.base else None
        per_case = score.per_case.items() if score else ()
        return {
            "profile": options.profile,
            "options": options.to_dict() | {"base": base},
            "cases": [case.name for case in self.cases],
            "held_out": self.held_out,  # case -> slices, None for all of them
            **({"base": base} if base else {}),
            "seed": options.seed,
            "epochs": state.epoch,
            "losses": [row["loss"] for row in state.history],
            "mean_validation_dice": score.dice if score else None,
            "validation_dice": {
                case: {str(value): dice for value, dice in values.items()} for case, values in per_case
            },
        }
