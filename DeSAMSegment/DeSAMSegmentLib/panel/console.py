"""The same jobs without a child process, for the Python console and for scripts: what the module's logic calls."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from ..data.cases import Case
from ..data.labels import closest, listed, match
from ..engine.declarations import Options, declarations
from ..engine.events import CaseDone, CaseFailed
from ..engine.options import SegmentOptions, TrainOptions
from ..errors import BadInput, DeSAMError, reason
from ..files import scratch_folder
from ..jobs.client import JobEnd
from ..jobs.requests import EvaluateRequest
from ..jobs.runner import Runner
from .kit.remedies import forPython
from .kit.settings import temporaryFolder
from .models.registry import RegisteredModel, Registry
from .scene.results import complete
from .segment.queue import Queue, queueItems
from .segment.run import SegmentRun
from .train.cases import AnyCase, SceneCase, caseTitle, exportCases, validateCases
from .train.corrections import CUT, correctedCase, learningRun
from .train.run import TrainRun, trainOptions

Progress = Callable[[Any], Any]  # takes each event of the engine; False cancels


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


class Console:
    """Runs jobs in this process, one at a time, with model and encoder kept warm."""

    def __init__(self) -> None:
        self.registry = Registry()
        self._runner = Runner()
        self._isCancelled = False

    def cancel(self) -> None:
        """Stops the running job after its current unit; may be called from a progress callback."""
        self._isCancelled = True

    def segment(
        self,
        volumeNode: Any,
        model: str,
        segmentationNode: Any,
        options: dict[str, Any],
        device: str,
        progress: Progress | None,
    ) -> Segmented:
        _checkCall(device, progress)
        if volumeNode is not None:  # of which ``validateVolume`` speaks, as the panel does
            _checkNode("volumeNode", volumeNode)
        if segmentationNode is not None:
            _checkNode("segmentationNode", segmentationNode, "vtkMRMLSegmentationNode")
        chosen = _segmentOptions(options)
        run = SegmentRun(volumeNode, segmentationNode, self._model(model), chosen, device)
        axis, confidence, agreement = 0, {}, {}

        def seen(event: Any) -> Any:
            nonlocal axis
            if hasattr(event, "confidence"):
                axis = event.axis
                confidence[event.index], agreement[event.index] = event.confidence, event.agreement
            return progress(event) if progress is not None else None

        end = self._follow(run, seen)
        writer = run.writer
        node, segments = (writer.segmentationNode, writer.segmentIDs) if writer is not None else (None, {})
        return Segmented(node, segments, axis, confidence, agreement, run.endText(end), end.how == "cancelled")

    def segmentMany(
        self,
        volumes: Any,
        model: str,
        folder: Any,
        ending: str,
        options: dict[str, Any],
        device: str,
        progress: Progress | None,
    ) -> Queue:
        _checkCall(device, progress)
        _checkText("format", ending)
        sources = list(volumes) if isinstance(volumes, list | tuple) else [volumes]
        for source in sources:
            if not isinstance(source, str | Path):
                _checkNode("volumes", source)
        chosen = _segmentOptions(options)
        queue = Queue(queueItems(sources, self._model(model), chosen, device, _folder(folder), ending))
        while (run := queue.next()) is not None:
            try:
                end = self._follow(run, progress)
            except Exception as error:  # whatever a library raises: it costs this volume and no other
                end = JobEnd("failed", DeSAMError(reason(error)))
            item = queue.ended(end)
            done, total = queue.count("done", "failed", "stopped"), len(queue.items)
            summary = run.finished.summary if run.finished is not None else {}
            failed = CaseFailed(item.title, item.text, done, total)
            event = failed if item.state == "failed" else CaseDone(item.title, "", summary, done, total)
            if progress is not None and progress(event) is False:
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
        device: str,
        resume: bool,
        progress: Progress | None,
    ) -> FineTuned:
        _checkCall(device, progress)
        _checkText("base", base)
        _checkNames(TrainOptions, options)
        cases, folder = _cases(pairs, labels, slices), _folder(folder)
        chosen: TrainOptions = trainOptions(self.registry, str(base), **options).check()
        where = folder or self.registry.runFolder(chosen.name)
        if folder is None and not resume and not self.registry.hasInterruptedRun(chosen.name):
            shutil.rmtree(where, ignore_errors=True)  # of a finished run, whose model is in the library
        return self._trained(TrainRun(cases, chosen, where, device, resume=resume), folder is None, progress)

    def learn(
        self,
        results: Sequence[tuple[Any, Any, Collection[int] | None]],
        model: str,
        replay: Any,
        options: dict[str, Any],
        device: str,
        progress: Progress | None,
    ) -> FineTuned:
        """results: (volume node, segmentation node, slices), of ``None`` all."""
        _checkCall(device, progress)
        _checkNames(TrainOptions, options)
        for volume, segmentation, _slices in results:
            _checkNode("volumes", volume)
            _checkNode("segmentations", segmentation, "vtkMRMLSegmentationNode")
        base = self._model(model)
        cut = {name: options[name] for name in CUT if name in options}
        cases = [correctedCase(base, *result, **cut) for result in results]
        _valid([*cases])
        replayed = _cases(replay, "", "all") if replay else []
        return self._trained(learningRun(self.registry, base, cases, replayed, device, **options), True, progress)

    def _trained(self, run: TrainRun, isOver: bool, progress: Progress | None) -> FineTuned:
        """isOver: whether nothing is left to resume, unless it is cancelled."""
        with scratch_folder("job", temporaryFolder()) as folder:
            for event in self._events(complete(run.export(folder)), progress):
                run.take(event)
        end = JobEnd("cancelled" if self._isCancelled else "finished")
        name = self.registry.addTrained(run, isOver=isOver and not self._isCancelled) if run.best else ""
        return FineTuned(name, run.folder, run.bestDice, run.epochs, run.endText(end, name), end.how == "cancelled")

    def evaluate(
        self,
        pairs: Any,
        segment: str,
        model: str,
        folder: Any,
        options: dict[str, Any],
        device: str,
        progress: Progress | None,
    ) -> Evaluated:
        _checkCall(device, progress)
        cases, folder, chosen = _cases(pairs, segment, "all"), _folder(folder), _segmentOptions(options)
        if folder is None:
            raise BadInput(_("There is no folder for the report."), _("Choose one."))
        labels = {label.value: label.name for label in self._model(model).card.labels}
        _checkKnown(cases, list(labels.values()))
        summary: dict[str, Any] = {}
        done: list[Any] = []
        with scratch_folder("job", temporaryFolder()) as exported:
            sources = complete(exportCases(cases, exported))
            request = EvaluateRequest(sources, labels, folder, model, chosen, device)
            for event in self._events(request, progress):
                summary = getattr(event, "summary", summary)
                if hasattr(event, "metrics"):
                    done.append(event)
        return Evaluated(folder, summary, done, self._isCancelled)

    def _follow(self, run: SegmentRun, progress: Progress | None) -> JobEnd:
        """Carries a run out in this process; raises what the engine raises."""
        try:
            for event in self._events(run.requestHere(), progress):
                run.take(event)
            complete(run.finish())
        finally:
            run.close()
        return JobEnd("cancelled" if self._isCancelled else "finished")

    def _events(self, request: Any, progress: Progress | None) -> Iterator[Any]:
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
                if progress is not None and progress(event) is False:
                    self._isCancelled = True
                yield event
                if self._isCancelled:
                    return

    def models(self) -> list[RegisteredModel]:
        """The library as it is on disk now."""
        self.registry.changed.emit()
        return self.registry.models()

    def _model(self, name: str) -> RegisteredModel:
        _checkText("model", name)
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


# ---- what a call may be given: any object can come from a console ---------------------------------------------------


def _cases(pairs: Any, segment: str, slices: str) -> list[AnyCase]:
    """(volume node, segmentation node) pairs as cases; ready-made cases pass through."""
    _checkText("labels", segment)
    if slices not in ("all", "labelled"):
        raise _wrong("slices", '"all" or "labelled"', slices)
    wanted = _("a list of (volume node, segmentation node)")
    if not isinstance(pairs, list | tuple):
        raise _wrong("cases", wanted, pairs)
    cases: list[AnyCase] = []
    for pair in pairs:
        if isinstance(pair, SceneCase | Case):
            cases.append(pair)
            continue
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise _wrong("cases", wanted, pair)
        _checkNode("cases", pair[0])
        _checkNode("cases", pair[1], "vtkMRMLSegmentationNode")
        cases.append(SceneCase(pair[0], pair[1], segment, slices))
    return _valid(cases)


def _valid(cases: list[AnyCase]) -> list[AnyCase]:
    problem = validateCases(cases)
    if problem:
        raise BadInput(problem)
    return cases


def _checkNode(argument: str, value: Any, className: str = "") -> None:
    """What kind of volume a node is, ``validateVolume`` says."""
    isNode = callable(getattr(value, "IsA", None)) and value.IsA("vtkMRMLNode")
    if isNode and (not className or value.IsA(className)):
        return
    do = ""
    if isinstance(value, str):
        do = _('slicer.util.getNode("{name}") gives the node of that name.').format(name=value)
    elif isNode and value.IsA("vtkMRMLLabelMapVolumeNode"):
        do = _("In the Data module, its context menu converts a label map to a segmentation.")
    raise _wrong(argument, _("a segmentation node") if className else _("a volume node"), value, do)


def _checkText(argument: str, value: Any) -> None:
    if not isinstance(value, str | Path):
        raise _wrong(argument, _("a text"), value)


def _checkCall(device: Any, progress: Any) -> None:
    _checkText("device", device)
    if progress is not None and not callable(progress):
        raise _wrong("progress", _("a function"), progress)


def _folder(value: Any) -> Path | None:
    if value is None or value == "":
        return None
    _checkText("folder", value)
    return Path(value)


def _segmentOptions(given: dict[str, Any]) -> SegmentOptions:
    _checkNames(SegmentOptions, given)
    return SegmentOptions(**given).check()


def _checkNames(kind: type[Options], given: dict[str, Any]) -> None:
    known = [name for name in declarations(kind) if name not in ("base", "backbone")]  # arguments of their own
    unknown = [name for name in given if name not in known]
    if unknown:
        what = _("There is no option {name}.").format(name=unknown[0])
        raise BadInput(f"{what}{closest(unknown, known)}", _("Options: {names}.").format(names=listed(known)))


def _wrong(argument: str, wanted: str, value: Any, do: str = "") -> BadInput:
    if callable(getattr(value, "GetClassName", None)):
        found = f"{value.GetName()} ({value.GetClassName()})" if hasattr(value, "GetName") else value.GetClassName()
    else:
        found = f"{value!r:.60}"
    return BadInput(
        _("{argument} takes {wanted}, not {found}.").format(argument=argument, wanted=wanted, found=found), do
    )


def _checkKnown(cases: Sequence[AnyCase], known: list[str]) -> None:
    for case in cases:
        names = list(case.segments().values()) if isinstance(case, SceneCase) else []
        if names and not match(known, names):
            what = _("{case} has no segment that the model knows; it knows {names}.")
            what = what.format(case=caseTitle(case), names=listed(known))
            raise BadInput(f"{what}{closest(known, names)}", _("Rename the segment."))
