"""One measurement: cases with ground truth against results or models, and the rows that come of it."""

from __future__ import annotations

import contextlib
import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from ...data.cases import Case
from ...data.labels import Overlay
from ...engine.events import CaseDone, CaseFailed, Finished, Log, Progress, Started
from ...engine.options import SegmentOptions
from ...errors import BadInput
from ...files import write_text
from ...jobs.client import JobEnd
from ...jobs.requests import CompareRequest, EvaluateRequest
from ..kit.background import Job
from ..kit.remedies import inWords
from ..models.registry import RegisteredModel
from ..scene.export import exportArray
from ..scene.geometry import voxels
from ..train.cases import AnyCase, SceneCase, exportCases, paintSegments

MEASURES = ("dice", "hd95_mm", "assd_mm", "volume_error_percent", "painted_percent", "missed_percent")
Row = tuple[str, str, dict[str, Any]]  # label, what was measured, measure -> value or None


class MeasureRun(ABC):
    """Follows one job.

    Arguments:
      cases: with ground truth. names: of what is measured, in the order in which the job evaluates it.
      folder: of the report; a folder for each name where there are several.
    """

    def __init__(self, cases: Sequence[AnyCase], names: Sequence[str], folder: Path) -> None:
        self.cases, self.names, self.folder = list(cases), list(names), folder
        self.rows: list[Row] = []
        self.failed: list[str] = []
        self.log: list[str] = []
        self.step = ""
        self._done: list[CaseDone] = []  # of the one that is evaluated now
        self._finished = 0

    @abstractmethod
    def prepare(self, folder: Path) -> Generator[None, None, Any]:
        """The request, with the voxels in files of the folder."""

    def job(self, onTick: Callable[[], None], onEnd: Callable[[JobEnd], None]) -> Job:
        return Job(self.prepare, self.take, onEnd, onTick)

    def take(self, event: Any) -> None:
        """One event of the engine."""
        name = self.names[min(self._finished, len(self.names) - 1)]
        if isinstance(event, Started):
            self._done = []
        elif isinstance(event, Progress):
            self.step = f"{name}, {event.text}: {event.done}/{event.total}"
        elif isinstance(event, CaseDone):
            self._done.append(event)
        elif isinstance(event, CaseFailed):
            self.failed.append(f"{event.case}: {event.reason}")
        elif isinstance(event, Log):
            self.log.append(event.text)
        elif isinstance(event, Finished):
            self._finished += 1
            self.rows += [(label, name, values) for label, values in self._values(event).items()]

    def _values(self, event: Finished) -> dict[str, dict[str, Any]]:
        """Label -> measures: of one case its own, whose volume error has a sign; of several their means."""
        if len(self._done) == 1:
            return {label: protocols["all"] for label, protocols in self._done[0].metrics.items()}
        return {
            label: {measure: protocols["all"][measure]["mean"] for measure in MEASURES}
            for label, protocols in event.summary.items()
        }

    def pictures(self) -> list[Path]:
        """What the report drew, a picture per case."""
        return sorted(self.folder.rglob("pictures/*.png"))

    def saveTable(self, path: Path) -> None:
        """The rows as CSV; an undefined value is an empty cell."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("label", "of", *MEASURES))
        for label, name, values in self.rows:
            cells = [values.get(measure) for measure in MEASURES]
            writer.writerow((label, name, *("" if cell is None else f"{cell:.6g}" for cell in cells)))
        write_text(path, text.getvalue())

    def endText(self, end: JobEnd) -> str:
        """One or two sentences for the user."""
        if end.failed:
            return inWords(end.error) if end.error else ""
        said = [_("Stopped.")] if end.how == "cancelled" else []
        return "\n".join([*said, *self.failed, *self.log])


class ResultRun(MeasureRun):
    """A segmentation of the scene, or what a model finds now, on one volume.

    Arguments:
      case: the volume with its ground truth. result: a segmentation, or a model.
    """

    def __init__(
        self, case: SceneCase, result: Any, folder: Path, options: SegmentOptions, device: str = "auto"
    ) -> None:
        self.result, self._options, self._device = result, options, device
        super().__init__([case], [result.name if isinstance(result, RegisteredModel) else result.GetName()], folder)

    def prepare(self, folder: Path) -> Generator[None, None, EvaluateRequest]:
        exported = yield from exportCases(self.cases, folder)
        names = list(exported[0].names)
        request = EvaluateRequest(exported, dict(enumerate(names, 1)), self.folder, "", self._options, self._device)
        if isinstance(self.result, RegisteredModel):
            labels = {label.value: label.name for label in self.result.card.labels}
            return replace(request, labels=labels, model=str(self.result.path))
        prediction = yield from self._exported(exported[0], folder)
        return replace(request, predictions=(prediction,))

    def _exported(self, case: Case, folder: Path) -> Generator[None, None, Case]:
        """The segmentation as the labels of a case."""
        shown = SceneCase(self.cases[0].volumeNode, self.result)  # type: ignore[union-attr]
        overlay = Overlay(voxels(shown.volumeNode).shape)
        with contextlib.suppress(BadInput):  # that nothing was found is a result
            yield from paintSegments(overlay, shown)
        mapped = yield from exportArray(overlay.array, folder)
        return replace(case, labels=mapped, names=overlay.names)


class CompareRun(MeasureRun):
    """A model and its base, on what was held out when the model was trained."""

    def __init__(
        self,
        cases: Sequence[AnyCase],
        models: Sequence[RegisteredModel],
        folder: Path,
        options: SegmentOptions,
        device: str = "auto",
    ) -> None:
        super().__init__(cases, [model.name for model in models], folder)
        self._models, self._options, self._device = models, options, device

    def prepare(self, folder: Path) -> Generator[None, None, CompareRequest]:
        exported = yield from exportCases(self.cases, folder)
        paths = tuple(str(model.path) for model in self._models)
        return CompareRequest(exported, self.folder, paths, self._options, self._device)

    def verdict(self) -> str:
        """Which of the two is better, in a sentence."""
        means = []
        for name in self.names:
            dice = [row[2]["dice"] for row in self.rows if row[1] == name and row[2]["dice"] is not None]
            means.append(sum(dice) / len(dice) if dice else None)
        if len(means) < 2 or means[0] is None or means[1] is None:
            return ""
        text = _("Mean Dice on what was held out: {name} {dice:.3f}, its base {base} {before:.3f}.")
        return text.format(name=self.names[0], dice=means[0], base=self.names[1], before=means[1])
