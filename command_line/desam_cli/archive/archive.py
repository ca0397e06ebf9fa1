"""``desam segment --recursive``: every case of a tree, written once and recorded.

Reading the next case, segmenting one and writing the one before overlap: there are three volumes in memory at most.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from DeSAMSegmentLib.engine.events import (
    CaseDone,
    CaseFailed,
    Event,
    Finished,
    Log,
    Progress,
    Saved,
    SliceDone,
    Started,
)
from DeSAMSegmentLib.engine.options import SegmentOptions, resolve
from DeSAMSegmentLib.engine.segment.files import Segmenting, dicom_segmentation, write_result
from DeSAMSegmentLib.errors import DeSAMError, reason
from DeSAMSegmentLib.store.card import ModelCard, json_ready, software, utc_now
from DeSAMSegmentLib.store.library import Library
from DeSAMSegmentLib.store.model_file import read_card
from DeSAMSegmentLib.store.weights import hash_file

from ..computing import device_words, ends_all, segmenter
from ..remedies import REMEDIES
from ..view import Show, shown
from .manifest import Manifest, Record, read_manifests
from .summary import write_summary
from .tree import TreeTarget, in_part, plan_tree

if TYPE_CHECKING:
    from DeSAMSegmentLib.data.volume import Volume

DETACHED = (".nhdr", ".mhd")  # headers: their voxels are in other files
AGAIN = "Try it again (--resume); if it fails again, report this line."


@dataclass(frozen=True)
class ArchiveJob:
    """What all cases of a call share; it goes to other processes as it is.

    Attributes:
      settings: of ``Record``. before: records of an earlier call, by output; what they say is finished is left out.
      threads: of each process; 0 leaves them to torch.
    """

    model: Path
    options: SegmentOptions
    settings: dict[str, Any]
    confidence: bool
    device: str
    cache: bool
    before: Mapping[str, Record] = field(default_factory=dict)
    threads: int = 0

    def begin(self) -> Callable[[Volume], Segmenting]:
        """What segments a volume, with encoder and model loaded once in a process."""
        return _begin(self.model, self.options, self.device, self.cache, self.threads)


@dataclass(frozen=True)
class Outcome:
    """A case that was read and segmented; ``volume`` holds its labels, None where there is nothing to write."""

    case: TreeTarget
    record: Record
    volume: Volume | None = None
    slices: tuple[SliceDone, ...] = ()
    finished_before: bool = False


_begin = lru_cache(maxsize=1)(segmenter)


# ---- one case -------------------------------------------------------------------------------------------------------


def read(case: TreeTarget, job: ArchiveJob) -> tuple[Record, Volume | None]:
    """The volume, None when it is finished; and a record with the digest of what was read."""
    from DeSAMSegmentLib.data.reading import read_volume

    begun, volume = time.perf_counter(), None
    if case.source.name.lower().endswith(DETACHED):
        volume = read_volume(case.source)
        digest = hashlib.sha256(volume.ijk_to_ras.tobytes() + volume.array.tobytes()).hexdigest()
    else:
        digests = map(hash_file, case.files or [case.source])
        digest = next(digests) if not case.files else hashlib.sha256(" ".join(digests).encode()).hexdigest()
    before = job.before.get(case.output)
    if before and before.is_finished(digest, job.settings, case.path):
        return before, None
    dicom_segmentation(case, read_card(job.model), job.settings["model"], case.series, case.files)  # or a refusal
    volume = volume or read_volume(case.source, files=case.files)
    record = replace(_blank(case, job), input_digest=digest, note=volume.note)
    return replace(record, seconds=time.perf_counter() - begun), volume


def decode(case: TreeTarget, record: Record, volume: Volume, job: ArchiveJob) -> Generator[Event, None, Outcome]:
    """Segments what ``read`` returned; returns the outcome."""
    slices: list[SliceDone] = []
    for event in job.begin()(volume).events():
        if isinstance(event, SliceDone):
            slices.append(replace(event, points=(), labels=event.labels[:0]))
            yield Progress(case.output, event.done, event.total)
        elif isinstance(event, Log):
            yield Log(f"{case.output}: {event.text}", event.level)
        elif isinstance(event, Finished):
            labels, summary, seconds = event.result.labels, event.summary, event.seconds
    lowest = min(slices, key=lambda each: each.confidence)
    record = replace(
        record,
        seconds=record.seconds + seconds,
        slices=len(slices),
        millilitres=summary["millilitres"],
        confidence=round(float(lowest.confidence), 4),
        lowest=lowest.index,
        flagged=sorted(each.index for each in slices if each.flagged),
    )
    return Outcome(case, record, replace(volume, array=labels), tuple(slices))


def failed(case: TreeTarget, job: ArchiveJob, error: Exception, record: Record | None = None) -> Outcome:
    """The outcome of a case that an error ended.

    Raises:
      error: where the others would meet the same.
    """
    if ends_all(error):
        raise error
    what, do = (error.what, error.remedy(REMEDIES)) if isinstance(error, DeSAMError) else (reason(error), AGAIN)
    return Outcome(case, replace(record or _blank(case, job), error=what, remedy=do))


def _blank(case: TreeTarget, job: ArchiveJob) -> Record:
    return Record(case.output, case.input, case.series, settings=job.settings)


def here(cases: list[TreeTarget], job: ArchiveJob) -> Iterator[Event | Outcome]:
    """The outcomes of cases in this process; the next is read while one is segmented."""
    with ThreadPoolExecutor(1, "desam-read") as reader:
        ahead = reader.submit(read, cases[0], job)
        for case, following in zip(cases, [*cases[1:], None], strict=True):
            record, current = None, ahead
            wait([current])
            if following:
                ahead = reader.submit(read, following, job)
            try:
                record, volume = current.result()
                if volume is None:
                    yield Outcome(case, record, finished_before=True)
                else:
                    yield (yield from decode(case, record, volume, job))
            except Exception as error:
                yield failed(case, job, error, record)


# ---- all cases ------------------------------------------------------------------------------------------------------


class Archive:
    """Writes the outcomes of a call's cases, in a thread, and says what became of them."""

    def __init__(self, job: ArchiveJob, card: ModelCard, manifest: Manifest, total: int, show: Show) -> None:
        self.job, self.card, self.manifest, self.total, self.show = job, card, manifest, total, show
        self.done = self.skipped = self.failures = 0
        self.writing: Future[Record] | None = None

    def run(self, outcomes: Iterator[Event | Outcome]) -> None:
        """Takes all outcomes. On Ctrl-C the case that is being written is finished and recorded."""
        with ThreadPoolExecutor(1, "desam-write") as writer:
            for each in outcomes:
                if self.writing and (self.writing.done() or isinstance(each, Outcome)):
                    self._report()
                if not isinstance(each, Outcome):
                    self.show(each)
                elif each.finished_before:
                    self.done, self.skipped = self.done + 1, self.skipped + 1
                    self.show(Progress("verified", self.done, self.total))
                else:
                    self.writing = writer.submit(self._write, each)
            if self.writing:
                self._report()

    def _report(self) -> None:
        assert self.writing is not None
        (record, self.writing), self.done = (self.writing.result(), None), self.done + 1
        if record.error:
            self.failures += 1
            text = f"{record.error} {record.remedy}".strip()
            self.show(CaseFailed(record.output, text, self.done, self.total))
        else:
            self.show(CaseDone(record.output, "", {"millilitres": record.millilitres}, self.done, self.total))

    def _write(self, outcome: Outcome) -> Record:
        record, begun = outcome.record, time.perf_counter()
        slices = outcome.slices if self.job.confidence else ()
        if outcome.volume is not None:
            try:
                case, like = outcome.case, outcome.volume
                made = dicom_segmentation(case, self.card, record.settings["model"], case.series, case.files)
                write_result(case, made or like, like.array, self.card, slices)
                record = replace(record, output_digest=hash_file(outcome.case.path))
            except Exception as error:
                record = failed(outcome.case, self.job, error, record).record
        seconds = round(record.seconds + time.perf_counter() - begun, 3)
        record = replace(record, seconds=seconds, versions=software(), written=utc_now())
        self.manifest.append(record)
        return record


@dataclass(frozen=True)
class Choice:
    """Which cases of a tree, and who segments them: the options of the command that need ``--recursive``."""

    modality: str = ""
    description: str = ""
    resume: bool = False
    part: str = ""
    workers: int = 0
    scheduler: str = ""


def archive_job(
    model: str, options: SegmentOptions, format: str, confidence: bool, device: str, cache: bool
) -> ArchiveJob:
    """The job of a model, by name or path. Raises BadInput for options that make no sense, BadModelFile."""
    path = Library().resolve(model)
    resolved = asdict(resolve(read_card(path), options)[0])
    facts = {"model": hash_file(path), "options": resolved, "format": format, "confidence": confidence}
    return ArchiveJob(path, options, json.loads(json.dumps(json_ready(facts))), confidence, device, cache)


def _outcomes(cases: list[TreeTarget], job: ArchiveJob, choice: Choice) -> tuple[str, Iterator[Event | Outcome]]:
    """Where the cases are segmented, in words, and what becomes of them."""
    if not choice.workers and not choice.scheduler:
        job.begin()
        return device_words(job.device), here(cases, job)
    from .. import cluster

    if not choice.scheduler:
        job.begin()  # what is missing here is missing there: one error, not one per case
        _begin.cache_clear()
    where = cluster.place(choice.workers, choice.scheduler)
    return where, cluster.outcomes(cases, job, choice.workers, choice.scheduler)


def segment_tree(root: Path, output: Path, job: ArchiveJob, choice: Choice, as_json: bool) -> int:
    """Segments the volumes below ``root`` into ``output``; returns the exit code, 1 when a case failed."""
    card = read_card(job.model)
    with shown(as_json) as show:
        show(Log(f"Looking for volumes in and below {root}."))
        every, remarks = plan_tree(root, output, job.settings["format"], choice.modality, choice.description)
        for remark in remarks:
            show(Log(remark))
        cases, part = in_part(every, choice.part)
        manifest = Manifest(output, part)
        with manifest.locked():
            job = replace(job, before=read_manifests(output) if choice.resume else {})
            where, outcomes = _outcomes(cases, job, choice)
            title = f"{card.title or card.name}, {root.name}" + (f", part {choice.part}" if choice.part else "")
            show(Started("segment", title, len(cases), "case", where))
            archive = Archive(job, card, manifest, len(cases), show)
            archive.run(outcomes)
            show(Saved(write_summary(output, title, every, card, job.options), "report"))
        fresh = archive.done - archive.skipped
        words = f"{fresh - archive.failures} segmented, {archive.failures} failed"
        show(Log(f"{len(cases)} volumes: {archive.skipped} were finished and verified, {words}."))
    return 1 if archive.failures else 0
