"""Many volumes, one after the other: nodes, frames of a sequence, files. The same queue serves panel and console.

It says what comes next and keeps what became of each; whoever owns it runs the runs, in a worker or in process::

    queue = Queue(queueItems(volumes, model, options))
    while (run := queue.next()) is not None:
        ...
        queue.ended(end)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from ...engine.events import SliceDone
from ...engine.options import SegmentOptions
from ...engine.segment.targets import Target, check_targets, plan
from ...errors import BadInput, DeSAMError
from ...jobs.client import JobEnd
from ...jobs.requests import SegmentFileRequest
from ..kit.remedies import inWords
from ..models.registry import RegisteredModel
from ..scene.sequences import FrameSequence
from .run import SegmentRun

DIED = (  # worth a second try
    *("worker-killed", "worker-lost", "worker-crashed", "worker-ended", "worker-no-answer"),
    "connection-lost",
)


class FileRun(SegmentRun):
    """A file into a file: read, segmented and written by whoever carries the request out."""

    isReviewed = False

    def __init__(
        self, target: Target, earlier: Any, model: RegisteredModel, options: SegmentOptions, device: str
    ) -> None:
        super().__init__(None, None, model, options, device)
        self.target = target
        self._begunAt = time.time() - 2  # file systems round

    @property
    def title(self) -> str:
        return self.target.name

    def requestHere(self) -> SegmentFileRequest:
        return SegmentFileRequest(self.target, str(self.model.path), self._options, self._device)

    def prepare(self, folder: Path) -> Generator[None, None, SegmentFileRequest]:
        yield
        return self.requestHere()

    def _keepSlice(self, event: SliceDone) -> None:
        """Slices are in the file when it is written."""

    @property
    def result(self) -> Path | None:
        """The file, if this run has written it: a stopped worker does, one that died does not."""
        path = self.target.path
        return path if path.is_file() and path.stat().st_mtime >= self._begunAt else None

    @property
    def kept(self) -> int:
        return self.done if self.result is not None else 0


class FrameRun(SegmentRun):
    """One frame of a sequence; its result moves into the sequence of results when the run is over."""

    isReviewed = False

    def __init__(
        self,
        frames: FrameSequence,
        index: int,
        earlier: Any,
        model: RegisteredModel,
        options: SegmentOptions,
        device: str,
    ) -> None:
        super().__init__(frames.volume(index), None, model, options, device)
        self._frames, self._index = frames, index
        self._isKept = False

    def _keepSlice(self, event: SliceDone) -> None:
        super()._keepSlice(event)
        super().result.SetDisplayVisibility(False)  # the views show another frame

    def close(self) -> None:
        super().close()
        node = super().result
        if node is not None:
            self._frames.keep(self._index, node)
            self._isKept = True
        if self.volumeNode.GetScene() is not None:
            self.volumeNode.GetScene().RemoveNode(self.volumeNode)

    @property
    def result(self) -> Any:
        return self._frames.results if self._isKept else None


@dataclass
class QueueItem:
    """One volume of a queue.

    Attributes:
      make: the run, given what an earlier try has left in the scene (None the first time).
      state: "waiting", "running", "done", "failed" or "stopped". text: what is to be said about it.
      result: the segmentation node, the sequence of segmentations or the file; None where nothing was written.
    """

    title: str
    make: Callable[[Any], SegmentRun] = field(repr=False)
    state: str = "waiting"
    text: str = ""
    result: Any = None


class Queue:
    """Goes on after a failure; a volume over which the worker died is tried once more; what is finished stays."""

    def __init__(self, items: list[QueueItem]) -> None:
        self.items = items
        self.run: SegmentRun | None = None
        self.isCancelled = False
        self._current: QueueItem | None = None
        self._triedAgain: set[int] = set()

    def next(self) -> SegmentRun | None:
        """The run of the next volume that waits; None when there is none, or the queue was cancelled."""
        for item in self.items if not self.isCancelled else ():
            if item.state != "waiting":
                continue
            try:
                self.run = item.make(item.result)
            except DeSAMError as error:
                item.state, item.text = "failed", inWords(error)
                continue
            self._current, item.state = item, "running"
            return self.run
        self.run = self._current = None
        return None

    def ended(self, end: JobEnd) -> QueueItem:
        """How the run that ``next`` gave ended; returns its volume."""
        item, run = self._current, self.run
        assert item is not None
        assert run is not None
        self.run = self._current = None
        item.result, item.text = run.result, "\n".join([run.endText(end), *run.log])
        if id(item) in self._triedAgain:
            item.text = _("The second try, the background process died in the first: {text}").format(text=item.text)
        item.state = {"finished": "done", "cancelled": "stopped"}.get(end.how, "failed")
        if end.how == "cancelled":
            self.isCancelled = True
        elif end.error is not None and end.error.kind in DIED and id(item) not in self._triedAgain:
            self._triedAgain.add(id(item))
            item.state = "waiting"
        return item

    def cancel(self) -> None:
        """Nothing is begun any more; the caller stops the run."""
        self.isCancelled = True

    def count(self, *states: str) -> int:
        return sum(item.state in states for item in self.items)

    def endText(self) -> str:
        """One or two sentences for the user."""
        text = _("{done} of {total} volumes segmented, {failed} failed.").format(
            done=self.count("done"), total=len(self.items), failed=self.count("failed")
        )
        return _("Stopped. {text}").format(text=text) if self.isCancelled else text


def queueItems(
    sources: Iterable[Any],
    model: RegisteredModel,
    options: SegmentOptions,
    device: str = "auto",
    folder: Path | None = None,
    ending: str = "seg.nrrd",
) -> list[QueueItem]:
    """Volume nodes, sequence nodes, files and folders of volumes as the volumes of a queue.

    Arguments:
      folder: where results of files go. ending: their type, as of ``desam segment --format``.

    Raises:
      BadVolume: a sequence of something else. BadInput: files without a folder for results, or as ``plan`` says.
    """
    common: dict[str, Any] = {"model": model, "options": options, "device": device}
    items: list[QueueItem] = []
    targets: list[Target] = []
    for source in sources:
        if isinstance(source, str | Path):
            if folder is None:
                raise BadInput(_("There is no folder for the results of files."), _("Choose one."))
            planned = plan(Path(source), folder, ending)
            items += [QueueItem(target.name, partial(FileRun, target, **common)) for target in planned]
            targets += planned
        elif source.IsA("vtkMRMLSequenceNode"):
            frames = FrameSequence(source)
            for index in range(len(frames)):
                items.append(QueueItem(frames.title(index), partial(FrameRun, frames, index, **common)))
        else:
            items.append(QueueItem(str(source.GetName()), partial(SegmentRun, source, **common)))
    check_targets(targets)
    return items
