"""``desam segment``: one volume, or every volume of a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from DeSAMSegmentLib.engine.events import CaseDone, CaseFailed, Finished, Log, SliceDone
from DeSAMSegmentLib.engine.options import SegmentOptions
from DeSAMSegmentLib.engine.segment.files import Segmenting, is_cut_short, segment_file
from DeSAMSegmentLib.engine.segment.targets import Target, plan
from DeSAMSegmentLib.errors import BadInput, DeSAMError, reason
from DeSAMSegmentLib.store.card import ModelCard
from DeSAMSegmentLib.store.library import Library
from DeSAMSegmentLib.store.model_file import read_card
from DeSAMSegmentLib.store.weights import hash_file

from . import options as shared
from .archive.archive import Choice, archive_job, segment_tree
from .computing import ends_all, segmenter
from .remedies import REMEDIES
from .view import Show, shown

if TYPE_CHECKING:
    from DeSAMSegmentLib.data.volume import Volume


@dataclass(frozen=True)
class Work:
    """What all volumes of one call share."""

    card: ModelCard
    begin: Callable[[Volume], Segmenting]
    show: Show
    confidence: bool
    model_sha256: str
    series: str = ""


Input = Annotated[Path, typer.Argument(help="A volume (NIfTI, NRRD, MHA, a DICOM folder), or a folder of volumes.")]
Output = Annotated[Path, typer.Argument(help="A .seg.nrrd, .nii.gz, .nrrd, .mha or .dcm file, or a folder.")]
Model = Annotated[
    str, typer.Option("--model", "-m", metavar="MODEL", help="A .desam file, or the name of one in the library.")
]
Format = Annotated[str, typer.Option(metavar="seg.nrrd|nii.gz|dicomseg", help="File type in an output folder.")]
Confidence = Annotated[
    bool,
    typer.Option(
        "--confidence",
        help="Also write VOLUME.confidence.csv, named after the input: how sure the model is of each slice.",
    ),
]
Series = Annotated[
    str,
    typer.Option(
        metavar="SERIES", help="Which DICOM series: its number, description or UID; `desam info FOLDER` lists them."
    ),
]
Recursive = Annotated[
    bool,
    typer.Option(
        "--recursive",
        help="Every volume and DICOM series in and below INPUT; OUTPUT mirrors its folders and gets manifest.jsonl "
        "and summary.html. The options up to --scheduler belong to it.",
    ),
]
Modality = Annotated[str, typer.Option(metavar="CT,MR", help="Only DICOM series of these modalities.")]
Description = Annotated[
    str, typer.Option(metavar="REGEX", help="Only DICOM series in whose description this regular expression is found.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Leave out what is finished and verified; try again what failed.")
]


@shared.takes(SegmentOptions)
def command(
    input: Input,
    output: Output,
    chosen: dict[str, Any],
    model: Model,
    format: Format = "seg.nrrd",
    confidence: Confidence = False,
    series: Series = "",
    recursive: Recursive = False,
    modality: Modality = "",
    description: Description = "",
    resume: Resume = False,
    part: Annotated[
        str, typer.Option(metavar="I/N", help="Only the I-th of N parts, for N processes on one OUTPUT.")
    ] = "",
    workers: shared.Workers = 0,
    scheduler: shared.Scheduler = "",
    device: shared.FarDevice = "auto",
    no_cache: shared.NoCache = False,
    json: shared.Json = False,
) -> int:
    """Segment every slice of a volume, or of every volume in a folder. Ctrl-C keeps the finished slices."""
    options = shared.build(SegmentOptions, chosen)
    choice = Choice(modality, description, resume, part, workers, scheduler)
    if recursive:
        if series:
            raise BadInput("--series names one series of a folder.", "Choose those of a tree with --description.")
        job = archive_job(model, options, format, confidence, device, not no_cache)
        return segment_tree(input, output, job, choice, json)
    if choice != Choice():
        raise BadInput("An option that is for whole trees was given without --recursive.", "Add --recursive.")
    targets = plan(input, output, format)
    path = Library().resolve(model)
    begin = segmenter(path, options, device, not no_cache)
    with shown(json) as show:
        return _all(Work(read_card(path), begin, show, confidence, hash_file(path), series), targets)


def _all(work: Work, targets: list[Target]) -> int:
    """Segments one volume after the other; of several, one that fails does not stop the others."""
    if len(targets) == 1:
        _one(work, targets[0])
        return 0
    failed = 0
    for done, target in enumerate(targets, start=1):
        try:
            summary = _one(work, target)
        except Exception as error:  # whatever a library raises: it costs this volume and no other
            if ends_all(error):
                raise
            failed += 1
            work.show(CaseFailed(target.name, reason(error, REMEDIES), done, len(targets)))
        else:
            work.show(CaseDone(target.name, "", summary, done, len(targets)))
    work.show(Log(f"{len(targets) - failed} of {len(targets)} volumes segmented, {failed} failed."))
    return 1 if failed else 0


def _one(work: Work, target: Target) -> dict[str, Any]:
    """Segments one volume and writes it; returns the run's summary. Cut short, the finished slices are written."""
    done = total = 0
    summary: dict[str, Any] = {}
    events = segment_file(target, work.card, work.begin, work.confidence, work.series, work.model_sha256)
    try:
        for event in events:
            if isinstance(event, SliceDone):
                done, total = event.done, event.total
            elif isinstance(event, Finished):
                summary = event.summary
            work.show(event)
    except (KeyboardInterrupt, DeSAMError) as error:
        events.close()  # where it came while an event was shown
        if done and is_cut_short(error):
            work.show(Log(f"Stopped: {done} of {total} slices are in {target.path}."))
        raise
    return summary
