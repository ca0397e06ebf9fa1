"""One training run: from cases to a model in the library, event by event."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from ...engine.events import EpochDone, Progress, Started
from ...engine.options import TrainOptions
from ...engine.pace import Pace
from ...engine.train.run_folder import BEST
from ...jobs.client import JobEnd
from ...jobs.requests import TrainRequest
from ...store.card import LabelInfo
from ..kit.background import Job
from ..kit.remedies import inWords
from ..kit.words import duration, paceText
from ..models.registry import BACKBONE, Registry
from .cases import AnyCase, exportCases, labelsFor


def trainOptions(registry: Registry, base: str, **changes: Any) -> TrainOptions:
    """Options for a base that is a backbone ("backbone:lite_medsam") or a model's name.

    A refined model keeps its own backbone and architecture.
    """
    make = partial(TrainOptions.of_profile, changes.pop("profile", "new-site"))
    if base.startswith(BACKBONE):
        return make(backbone=base.removeprefix(BACKBONE), **changes)
    model = registry.find(base)
    if model is None or model.card is None:
        return make(base=base, **changes)
    architecture = {key: model.card.architecture[key] for key in ("width", "variant") if key in model.card.architecture}
    return replace(make(base=str(model.path), backbone=model.card.backbone, **changes), **architecture)


class TrainRun:
    """Follows one job; the same object serves the panel (through ``job``) and the console (through ``take``).

    Arguments:
      cases: what to learn from. folder: where the run keeps its files.
      resume: go on with the run in the folder.
      labels: of the model; None takes those of the cases. replay: what the base learnt from, as far as it is at hand.
    """

    def __init__(
        self,
        cases: Sequence[AnyCase],
        options: TrainOptions,
        folder: Path,
        device: str = "auto",
        resume: bool = False,
        labels: tuple[LabelInfo, ...] | None = None,
        replay: Sequence[AnyCase] = (),
    ) -> None:
        self.cases, self.options, self.folder, self.replay = list(cases), options, folder, list(replay)
        self._device, self._resume = device, resume
        self.labels = labels or labelsFor(cases)
        self.started: Started | None = None
        self.epochs: list[EpochDone] = []
        self.step = ""
        self.log: list[str] = []
        self._pace = Pace()
        self._begun = time.monotonic()

    def export(self, folder: Path) -> Generator[None, None, TrainRequest]:
        """The job for the engine, the cases' voxels copied to files in small steps."""
        sources = yield from exportCases(self.cases, folder)
        replay = yield from exportCases(self.replay, folder)
        return TrainRequest(sources, self.labels, self.folder, self.options, self._device, self._resume, replay)

    def job(self, onEvent: Callable[[Any], None], onTick: Callable[[], None], onEnd: Callable[[JobEnd], None]) -> Job:
        """The run as a background job."""

        def event(event: Any) -> None:
            self.take(event)
            onEvent(event)

        return Job(self.export, event, onEnd, onTick)

    def take(self, event: Any) -> None:
        """One event of the engine."""
        if isinstance(event, Started):
            self.started = event
            self._pace.note(time.monotonic(), 0)
        elif isinstance(event, EpochDone):
            self.epochs.append(event)
            self._pace.note(time.monotonic(), event.epoch)
        elif isinstance(event, Progress):
            self.step = f"{event.text}, {event.done}/{event.total}"
        elif hasattr(event, "text") and hasattr(event, "level"):
            self.log.append(event.text)

    @property
    def best(self) -> Path | None:
        """The best model so far, if an epoch was finished."""
        path = self.folder / BEST
        return path if path.exists() and self.epochs else None

    @property
    def bestDice(self) -> float | None:
        scores = [event.validation_dice for event in self.epochs if event.validation_dice is not None]
        return max(scores) if scores else None

    def progressText(self) -> str:
        if self.started is None:
            return _("Preparing the cases...")
        done = self.epochs[-1].epoch if self.epochs else 0
        text = paceText(self._pace, "epoch", done, self.started.total)
        return f"{text}\n{self.step}" if self.step else text

    def endText(self, end: JobEnd, modelName: str) -> str:
        """One or two sentences for the user."""
        time_ = duration(time.monotonic() - self._begun)
        best = self.bestDice
        dice = _(", validation Dice {dice:.3f}").format(dice=best) if best is not None else ""
        made = _("Model {name} is ready{dice} ({time}).").format(name=modelName, dice=dice, time=time_)
        if end.failed:
            text = inWords(end.error) if end.error else ""
            resume = _("Resume continues after epoch {epoch}.")
            return f"{text} {resume.format(epoch=self.epochs[-1].epoch)}" if self.epochs else text
        if end.how == "cancelled" and not modelName:
            return _("Stopped before the first epoch was finished.")
        return _("Stopped. {made}").format(made=made) if end.how == "cancelled" else made
