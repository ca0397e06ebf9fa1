"""One run of the segmentation: from a volume node to segments, event by event."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from ...engine.events import Finished, SliceDone, Started
from ...engine.options import SegmentOptions
from ...engine.pace import Pace
from ...errors import BadInput
from ...jobs.client import JobEnd
from ...jobs.requests import SegmentRequest
from ..kit.background import Job
from ..kit.remedies import inWords
from ..kit.words import duration, paceText
from ..models.registry import RegisteredModel
from ..scene.export import exportVolume
from ..scene.geometry import volumeFromNode
from ..scene.results import ResultWriter, Undo
from .reviewed import Reviewed


class SegmentRun:
    """Follows one job; the same object serves the panel (through ``job``) and the console (through ``take``).

    ``isReviewed``: whether its slices can be shown in the scene afterwards.

    Arguments:
      volumeNode, segmentationNode: input and output; None as output makes a new node with the first slice.
      model: what to segment with.
      options, device: as in SegmentRequest.
      rest: a result under review whose corrected slices keep their voxels; the others are written anew.
    """

    isReviewed = True

    def __init__(
        self,
        volumeNode: Any,
        segmentationNode: Any,
        model: RegisteredModel,
        options: SegmentOptions,
        device: str = "auto",
        rest: Reviewed | None = None,
    ) -> None:
        self.rest = rest
        self.volumeNode, self._segmentationNode, self.model = volumeNode, segmentationNode, model
        self._options, self._device = options, device
        self.writer: ResultWriter | None = None
        self.started: Started | None = None
        self.finished: Finished | None = None
        self.done, self.total = 0, 0
        self.log: list[str] = []
        self._pace = Pace()
        self._begun = time.monotonic()

    @property
    def title(self) -> str:
        return str(self.volumeNode.GetName())

    def request(self, volume: Any) -> Any:
        return SegmentRequest(volume, str(self.model.path), self._options, self._device)

    def requestHere(self) -> Any:
        """The request for this process, which needs no copy of the voxels."""
        return self.request(volumeFromNode(self.volumeNode))

    def prepare(self, folder: Path) -> Generator[None, None, Any]:
        """The request for the worker, in steps; voxels go to files in the folder."""
        volume = yield from exportVolume(self.volumeNode, folder)
        return self.request(volume)

    def job(self, onEvent: Callable[[Any], None], onTick: Callable[[], None], onEnd: Callable[[JobEnd], None]) -> Job:
        """The run as a background job; the callbacks come after the scene was brought up to date."""

        def event(event: Any) -> None:
            self.take(event)
            onEvent(event)

        def tick() -> None:
            if self.writer is not None:
                self.writer.flush()
            onTick()

        def end(end: JobEnd) -> None:
            self.close()
            onEnd(end)

        return Job(self.prepare, event, end, tick, self.finish)

    def take(self, event: Any) -> None:
        """One event of the engine."""
        if isinstance(event, Started):
            self.started, self.total = event, event.total
        elif isinstance(event, SliceDone):
            self._keepSlice(event)
            self.done, self.total = event.done, event.total
            self._pace.note(time.monotonic(), event.done)
        elif isinstance(event, Finished):
            self.finished = event
        elif hasattr(event, "text") and hasattr(event, "level"):
            self.log.append(event.text)

    def _keepSlice(self, event: SliceDone) -> None:
        self._writer().writeSlice(event.axis, event.index, event.labels)

    def finish(self) -> Generator[None, None, None]:
        """Brings the final labels home, which 3-D clean-up may have changed, and seals what was written."""
        labels = getattr(getattr(self.finished, "result", None), "labels", None)
        if labels is not None:
            yield from self._writer().writeVolume(labels)
        if self.writer is not None:
            yield from self.writer.seal()

    def close(self) -> None:
        """After the last event, however the run ended."""
        if self.writer is not None:
            self.writer.close()

    @property
    def undo(self) -> Undo | None:
        return self.writer.undo if self.writer is not None else None

    @property
    def result(self) -> Any:
        """Where the result is, the segmentation node; None when nothing was written."""
        return self.writer.segmentationNode if self.writer is not None else None

    @property
    def kept(self) -> int:
        """How many slices there are of a run that did not come to its end."""
        return self.done

    def progressText(self) -> str:
        if self.started is None:
            return _("Starting the background process...")
        return paceText(self._pace, "slice", self.done, self.total)

    def endText(self, end: JobEnd) -> str:
        """One or two sentences for the user."""
        if end.failed:
            kept = _("{done} of {total} slices are kept.").format(done=self.kept, total=self.total)
            text = inWords(end.error) if end.error else ""
            return f"{text} {kept}" if self.kept else text
        if end.how == "cancelled":
            return _("Stopped. {done} of {total} slices are kept.").format(done=self.kept, total=self.total)
        text = _("Finished: {total} slices in {time}.").format(
            total=self.total, time=duration(time.monotonic() - self._begun)
        )
        millilitres = self.finished.summary.get("millilitres", {}) if self.finished else {}
        volumes = ", ".join(f"{name} {value:.1f} ml" for name, value in millilitres.items())
        return f"{text} {volumes}".strip()

    def _writer(self) -> ResultWriter:
        """Made with the first slice, so that a run that fails before leaves nothing behind."""
        if self.writer is None:
            if self.model.card is None:
                raise BadInput(self.model.problem)
            more = (self.rest.segmentIDs, (self.rest.axis, self.rest.corrected())) if self.rest else ()
            output = self._segmentationNode
            self.writer = ResultWriter(self.volumeNode, output, self.model.card.labels, self.model.name, *more)
        return self.writer
