"""The same jobs without a child process, for the Python console and for scripts: what the module's logic calls."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from ..engine.events import CaseDone, CaseFailed
from ..engine.options import TrainOptions
from ..errors import BadInput, DeSAMError, reason
from ..files import scratch_folder
from ..jobs.client import JobEnd
from ..jobs.requests import EvaluateRequest
from ..jobs.runner import Runner
from .arguments import (
    casesOf,
    checkKnown,
    checkNames,
    checkNode,
    checkText,
    folderOf,
    segmentOptions,
    validCases,
    wrong,
)
from .kit.remedies import forPython
from .kit.settings import temporaryFolder
from .models.registry import RegisteredModel, Registry
from .scene.results import complete
from .segment.queue import Queue, queueItems
from .segment.run import SegmentRun
from .train.cases import UnlabelledCase, exportCases
from .train.corrections import CUT, UNLABELLED, correctedCase, learningRun
from .train.run import TrainRun, trainOptions


@dataclass(frozen=True)
class Segmented:
    """What ``segment`` returns.

    Attributes:
      segmentationNode: None when nothing was finished. segmentIDs: label value to segment ID.
      confidence, agreement: slice index to 0..1, along the array axis ``axis``.
      text: one sentence about the run. cancelled: whether it was stopped; finished slices are kept.
    """

    segmentationNode: Any
    segmentIDs: dict[int, str]
    axis: int
    confidence: dict[int, float]
    agreement: dict[int, float]
    text: str
    cancelled: bool


@dataclass(frozen=True)
class FineTuned:
    """What ``fineTune`` returns; ``model`` is the name in the library, empty when no epoch was finished."""

    model: str
    folder: Path
    bestDice: float | None
    epochs: list[Any]
    text: str
    cancelled: bool


@dataclass(frozen=True)
class Evaluated:
    """What ``evaluate`` returns; the report is ``folder / "report.md"``."""

    folder: Path
    summary: dict[str, Any]
    cases: list[Any]
    cancelled: bool


def _unheard(event: Any) -> None:
    """Takes the events that nobody asked for."""


class Console:
    """Runs jobs in this process, one at a time, with model and encoder kept warm."""

    def __init__(self) -> None:
        self.registry = Registry()
        self._runner = Runner()
        self._isCancelled = False
        self._device, self._progress = "auto", _unheard

    def on(self, device: Any, progress: Any) -> Console:
        """Itself, for one call: on this device, each event given to ``progress``, which cancels by returning False."""
        checkText("device", device)
        if progress is not None and not callable(progress):
            raise wrong("progress", _("a function"), progress)
        self._device, self._progress = device, progress or _unheard
        return self

    def cancel(self) -> None:
        """Stops the running job after its current unit; may be called from a progress callback."""
        self._isCancelled = True

    def segment(self, volumeNode: Any, model: str, segmentationNode: Any, options: dict[str, Any]) -> Segmented:
        if volumeNode is not None:  # of which ``validateVolume`` speaks, as the panel does
            checkNode("volumeNode", volumeNode)
        if segmentationNode is not None:
            checkNode("segmentationNode", segmentationNode, "vtkMRMLSegmentationNode")
        chosen = segmentOptions(options)
        run = SegmentRun(volumeNode, segmentationNode, self._model(model), chosen, self._device)
        axis, confidence, agreement = 0, {}, {}

        def seen(event: Any) -> None:
            nonlocal axis
            if hasattr(event, "confidence"):
                axis = event.axis
                confidence[event.index], agreement[event.index] = event.confidence, event.agreement

        end = self._follow(run, seen)
        writer = run.writer
        node, segments = (writer.segmentationNode, writer.segmentIDs) if writer is not None else (None, {})
        return Segmented(node, segments, axis, confidence, agreement, run.endText(end), end.how == "cancelled")

    def segmentMany(self, volumes: Any, model: str, folder: Any, ending: str, options: dict[str, Any]) -> Queue:
        checkText("format", ending)
        sources = list(volumes) if isinstance(volumes, list | tuple) else [volumes]
        for source in sources:
            if not isinstance(source, str | Path):
                checkNode("volumes", source)
        chosen = segmentOptions(options)
        queue = Queue(queueItems(sources, self._model(model), chosen, self._device, folderOf(folder), ending))
        while (run := queue.next()) is not None:
            try:
                end = self._follow(run)
            except Exception as error:  # whatever a library raises: it costs this volume and no other
                end = JobEnd("failed", DeSAMError(reason(error)))
            item = queue.ended(end)
            done, total = queue.count("done", "failed", "stopped"), len(queue.items)
            summary = run.finished.summary if run.finished is not None else {}
            failed = CaseFailed(item.title, item.text, done, total)
            event = failed if item.state == "failed" else CaseDone(item.title, "", summary, done, total)
            if self._progress(event) is False:
                queue.cancel()
        return queue

    def fineTune(
        self,
        pairs: Any,
        labels: str,
        slices: str,
        base: str,
        options: dict[str, Any],
        folder: Any,
        resume: bool,
    ) -> FineTuned:
        checkText("base", base)
        checkNames(TrainOptions, options)
        cases, folder = casesOf(pairs, labels, slices), folderOf(folder)
        chosen: TrainOptions = trainOptions(self.registry, str(base), **options).check()
        where = folder or self.registry.runFolder(chosen.name)
        if folder is None and not resume and not self.registry.hasInterruptedRun(chosen.name):
            shutil.rmtree(where, ignore_errors=True)  # of a finished run, whose model is in the library
        return self._trained(TrainRun(cases, chosen, where, self._device, resume=resume), folder is None)

    def learn(
        self,
        results: Sequence[tuple[Any, Any, Collection[int] | None]],
        model: str,
        replay: Any,
        options: dict[str, Any],
    ) -> FineTuned:
        """results: (volume node, segmentation node, slices), of ``None`` all."""
        checkNames(TrainOptions, options)
        for volume, segmentation, _slices in results:
            checkNode("volumes", volume)
            checkNode("segmentations", segmentation, "vtkMRMLSegmentationNode")
        base = self._model(model)
        cut = {name: options[name] for name in CUT if name in options}
        cases = [correctedCase(base, *result, **cut) for result in results]
        validCases([*cases])
        replayed = casesOf(replay, "", "all") if replay else []
        return self._trained(learningRun(self.registry, base, cases, replayed, self._device, **options), True)

    def adapt(self, volumes: Any, model: str, replay: Any, options: dict[str, Any]) -> FineTuned:
        """volumes: a volume node or several."""
        checkNames(TrainOptions, options)
        nodes = volumes if isinstance(volumes, list | tuple) else [volumes]
        for node in nodes:
            checkNode("volumes", node)
        cases = validCases([UnlabelledCase(node) for node in nodes])
        replayed = casesOf(replay, "", "all") if replay else []
        chosen = {**UNLABELLED, **options}
        return self._trained(
            learningRun(self.registry, self._model(model), cases, replayed, self._device, **chosen), True
        )

    def _trained(self, run: TrainRun, isOver: bool) -> FineTuned:
        """isOver: whether nothing is left to resume, unless it is cancelled."""
        with scratch_folder("job", temporaryFolder()) as folder:
            for event in self._events(complete(run.export(folder))):
                run.take(event)
        end = JobEnd("cancelled" if self._isCancelled else "finished")
        name = self.registry.addTrained(run, isOver=isOver and not self._isCancelled) if run.best else ""
        return FineTuned(name, run.folder, run.bestDice, run.epochs, run.endText(end, name), end.how == "cancelled")

    def evaluate(self, pairs: Any, segment: str, model: str, folder: Any, options: dict[str, Any]) -> Evaluated:
        cases, folder, chosen = casesOf(pairs, segment, "all"), folderOf(folder), segmentOptions(options)
        if folder is None:
            raise BadInput(_("There is no folder for the report."), _("Choose one."))
        labels = {label.value: label.name for label in self._model(model).card.labels}
        checkKnown(cases, list(labels.values()))
        summary: dict[str, Any] = {}
        done: list[Any] = []
        with scratch_folder("job", temporaryFolder()) as exported:
            sources = complete(exportCases(cases, exported))
            request = EvaluateRequest(sources, labels, folder, model, chosen, self._device)
            for event in self._events(request):
                summary = getattr(event, "summary", summary)
                if hasattr(event, "metrics"):
                    done.append(event)
        return Evaluated(folder, summary, done, self._isCancelled)

    def _follow(self, run: SegmentRun, seen: Callable[[Any], None] = _unheard) -> JobEnd:
        """Carries a run out in this process; raises what the engine raises."""
        try:
            for event in self._events(run.requestHere()):
                run.take(event)
                seen(event)
            complete(run.finish())
        finally:
            run.close()
        return JobEnd("cancelled" if self._isCancelled else "finished")

    def _events(self, request: Any) -> Iterator[Any]:
        """The job's events; cancelled by ``cancel`` or by a callback that returns False."""
        self._isCancelled = False
        with contextlib.closing(self._runner.run(request)) as events:
            while True:
                try:
                    event = next(events, None)
                except DeSAMError as error:
                    raise forPython(error) from error
                if event is None:
                    return
                if self._progress(event) is False:
                    self._isCancelled = True
                yield event
                if self._isCancelled:
                    return

    def models(self) -> list[RegisteredModel]:
        """The library as it is on disk now."""
        self.registry.changed.emit()
        return self.registry.models()

    def _model(self, name: str) -> RegisteredModel:
        checkText("model", name)
        self.registry.changed.emit()  # another program may have changed the library
        model = self.registry.find(name)
        if model is not None and model.card is not None:
            return model
        if model is None and Path(name).is_file():
            from ..store.model_file import read_card

            return RegisteredModel(Path(name).stem, Path(name), read_card(name))
        names = ", ".join(m.name for m in self.registry.models()) or _("none yet")
        what = model.problem if model else _("There is no model named {name}.").format(name=name)
        raise BadInput(what, _("Models: {names}.").format(names=names))
