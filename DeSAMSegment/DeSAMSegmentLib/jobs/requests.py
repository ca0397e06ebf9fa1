"""What can be asked for, and what carries it out. The same records go to the child process as JSON and to the console.

Engines and torch are imported when a request is carried out: making one costs nothing.
"""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.cases import Case
from ..data.volume import Volume
from ..engine.events import Event, Finished, Progress, Started
from ..engine.options import SegmentOptions, TrainOptions
from ..engine.segment.files import segment_file
from ..engine.segment.targets import Target
from ..errors import BadInput
from ..store.card import LabelInfo

if TYPE_CHECKING:
    from ..engine.runtime.session import Session

RECEIVED = 20  # models of other computers that are kept, the latest


@dataclass(frozen=True)
class SegmentRequest:
    volume: Volume
    model: str
    options: SegmentOptions = field(default_factory=SegmentOptions)
    device: str = "auto"

    def events(self, session: Session) -> Iterator[Event]:
        from ..engine.segment.segment import segment

        return segment(checked(self.volume), self.model, self.options, session)


@dataclass(frozen=True)
class SegmentFileRequest:
    """A volume in a file, or a DICOM folder, into a file."""

    target: Target
    model: str
    options: SegmentOptions = field(default_factory=SegmentOptions)
    device: str = "auto"

    def events(self, session: Session) -> Iterator[Event]:
        from ..engine.segment.segment import Segmentation

        network = session.model(self.model)
        session.begin_with(network.card)
        begin = partial(Segmentation, model=network, options=self.options, session=session)
        return segment_file(self.target, network.card, begin)


@dataclass(frozen=True)
class TrainRequest:
    """``labels``: value to name, or with colours and terminology. ``replay``: as in ``train``."""

    cases: tuple[Case, ...]
    labels: dict[int, str] | tuple[LabelInfo, ...]
    folder: Path
    options: TrainOptions = field(default_factory=TrainOptions)
    device: str = "auto"
    resume: bool = False
    replay: tuple[Case, ...] = ()

    def events(self, session: Session) -> Iterator[Event]:
        from ..engine.train.train import train

        cases, replay = ([checked_case(case) for case in each] for each in (self.cases, self.replay))
        return train(cases, self.labels, self.folder, self.options, session, replay=replay, resume=self.resume)


@dataclass(frozen=True)
class EvaluateRequest:
    """A model, or finished segmentations as the labels of cases of the same names, against ground truth."""

    cases: tuple[Case, ...]
    labels: dict[int, str]
    folder: Path
    model: str = ""
    options: SegmentOptions = field(default_factory=SegmentOptions)
    device: str = "auto"
    predictions: tuple[Case, ...] = ()

    def events(self, session: Session) -> Iterator[Event]:
        from ..engine.evaluate.evaluate import evaluate

        cases, predictions = ([checked_case(case) for case in each] for each in (self.cases, self.predictions))
        return evaluate(
            cases, self.labels, self.folder, session,
            model=self.model or None, predictions=predictions or None, options=self.options,
        )  # fmt: skip


@dataclass(frozen=True)
class CompareRequest:
    """A fine-tuned model, then others, each on what was held out when it was trained: an evaluation for each.

    Arguments:
      cases: those of its training that were held out, wholly or in part. folder: gets a folder per model.
    """

    cases: tuple[Case, ...]
    folder: Path
    models: tuple[str, ...]
    options: SegmentOptions = field(default_factory=SegmentOptions)
    device: str = "auto"

    def events(self, session: Session) -> Iterator[Event]:
        from ..engine.evaluate.evaluate import evaluate, held_out

        card = session.model(self.models[0]).card
        labels = {label.value: label.name for label in card.labels}
        cases = [held_out(checked_case(case), card) for case in self.cases]
        for model in self.models:
            folder = self.folder / Path(model).stem
            yield from evaluate(cases, labels, folder, session, model=model, options=self.options)


@dataclass(frozen=True)
class DownloadRequest:
    """Fetch the weights of a backbone; only ever sent after the user agreed."""

    weights: str

    def events(self, session: Session | None) -> Iterator[Event]:
        yield Started("download", f"Downloading {self.weights}", 100, "percent", "")
        path = yield from download_events(self.weights)
        yield Finished("download", 0.0, path)


@dataclass(frozen=True)
class ImportRequest:
    """Turn a checkpoint of the published code into a model file."""

    checkpoint: Path
    model: Path

    def events(self, session: Session | None) -> Iterator[Event]:
        from ..engine.runtime.loading import DeSAM

        yield Started("import", self.checkpoint.name, 1, "file", "")
        DeSAM.from_reference(self.checkpoint).save(self.model)
        yield Finished("import", 0.0, self.model)


@dataclass(frozen=True)
class ModelRequest:
    """Where a model is kept that another computer sent; None when it is not here.

    ``content``: the bytes of the model file, uint8, to be kept from now on.
    """

    sha256: str
    content: np.ndarray | None = None

    def events(self, session: Session | None) -> Iterator[Event]:
        from ..files import atomic_path, home
        from ..store.weights import hash_file

        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise BadInput(f"{self.sha256} is no SHA-256.")
        path = home() / "received" / f"{self.sha256}.desam"
        if self.content is not None:
            with atomic_path(path) as temporary:
                temporary.write_bytes(self.content.tobytes())
            for old in sorted(path.parent.glob("*.desam"), key=lambda each: each.stat().st_mtime)[:-RECEIVED]:
                old.unlink()
        is_whole = path.is_file() and hash_file(path) == self.sha256
        yield Finished("model", 0.0, path if is_whole else None)


Request = (
    SegmentRequest
    | SegmentFileRequest
    | TrainRequest
    | EvaluateRequest
    | CompareRequest
    | DownloadRequest
    | ImportRequest
    | ModelRequest
)


def checked(volume: Volume) -> Volume:
    """A volume that came from outside and not from one of our readers. Raises BadVolume."""
    return Volume.checked(volume.array, volume.ijk_to_ras, volume.name)


def checked_case(case: Case) -> Case:
    return replace(case, image=checked(case.image)) if isinstance(case.image, Volume) else case


def download_events(weights: str) -> Generator[Event, None, Any]:
    """Yields Progress a few times a second and returns the file's path; closing the generator stops the download."""
    from ..store.weights import download

    messages: queue.Queue[Any] = queue.Queue()
    stop = threading.Event()

    def work() -> None:
        """The store reports through a callback; this thread turns that into messages."""
        try:
            path = download(weights, progress=lambda done, total: messages.put((done, total)), cancelled=stop.is_set)
            messages.put(path)
        except BaseException as error:
            messages.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            message = messages.get()
            if isinstance(message, BaseException):
                raise message
            if not isinstance(message, tuple):
                return message
            done, total = message
            yield Progress(f"{done / 1e6:.0f} of {total / 1e6:.0f} MB", done, total)
    finally:
        stop.set()
