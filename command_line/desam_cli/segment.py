"""``desam segment``: one volume, or every volume of a folder."""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from DeSAMSegmentLib import __version__
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.engine.events import CaseDone, CaseFailed, Finished, Log, Saved, SliceDone, Started
from DeSAMSegmentLib.engine.options import SegmentOptions
from DeSAMSegmentLib.engine.segment.targets import Target, plan
from DeSAMSegmentLib.errors import DiskFull, reason
from DeSAMSegmentLib.files import probe, write_text

from . import options as shared
from .remedies import REMEDIES
from .view import Show, shown

if TYPE_CHECKING:
    import numpy as np
    from DeSAMSegmentLib.data.dicom_seg import DicomSegmentation
    from DeSAMSegmentLib.data.volume import Volume
    from DeSAMSegmentLib.engine.runtime.loading import DeSAM
    from DeSAMSegmentLib.engine.runtime.session import Session


@dataclass(frozen=True)
class Work:
    """What all volumes of one call share."""

    network: DeSAM
    session: Session
    options: SegmentOptions
    show: Show
    confidence: bool
    model: str
    series: str = ""


@shared.takes(SegmentOptions)
def command(
    input: Annotated[Path, typer.Argument(help="A volume (NIfTI, NRRD, MHA, a DICOM folder), or a folder of volumes.")],
    output: Annotated[Path, typer.Argument(help="A .seg.nrrd, .nii.gz, .nrrd, .mha or .dcm file, or a folder.")],
    chosen: dict[str, Any],
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="MODEL", help="A .desam file, or the name of one in the library.")
    ],
    format: Annotated[
        str, typer.Option(metavar="seg.nrrd|nii.gz|dicomseg", help="File type in an output folder.")
    ] = "seg.nrrd",
    confidence: Annotated[
        bool,
        typer.Option(
            "--confidence",
            help="Also write VOLUME.confidence.csv, named after the input: how sure the model is of each slice.",
        ),
    ] = False,
    series: Annotated[
        str,
        typer.Option(
            metavar="SERIES", help="Which DICOM series: its number, description or UID; `desam info FOLDER` lists them."
        ),
    ] = "",
    device: shared.Device = "auto",
    no_cache: shared.NoCache = False,
    json: shared.Json = False,
) -> int:
    """Segment every slice of a volume, or of every volume in a folder. Ctrl-C keeps the finished slices."""
    options = shared.build(SegmentOptions, chosen)
    targets = plan(input, output, format)

    from DeSAMSegmentLib.engine.runtime.session import Session

    session = Session(device, None if no_cache else FeatureCache())
    network = session.model(model)
    session.begin_with(network.card)
    with shown(json) as show:
        return _all(Work(network, session, options, show, confidence, model, series), targets)


def _all(work: Work, targets: list[Target]) -> int:
    """Segments one volume after the other; of several, one that fails does not stop the others."""
    if len(targets) == 1:
        _one(work, targets[0])
        return 0
    failed = 0
    for done, target in enumerate(targets, start=1):
        try:
            summary = _one(work, target)
        except DiskFull:
            raise  # the others would meet the same disk
        except Exception as error:  # whatever a library raises: it costs this volume and no other
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise
            failed += 1
            work.show(CaseFailed(target.name, reason(error, REMEDIES), done, len(targets)))
        else:
            work.show(CaseDone(target.name, "", summary, done, len(targets)))
    work.show(Log(f"{len(targets) - failed} of {len(targets)} volumes segmented, {failed} failed."))
    return 1 if failed else 0


def _one(work: Work, target: Target) -> dict[str, Any]:
    """Segments one volume and writes it; returns the run's summary. On Ctrl-C the finished slices are written."""
    from DeSAMSegmentLib.data.reading import read_volume
    from DeSAMSegmentLib.engine.segment.segment import Segmentation

    probe(target.path)
    volume = read_volume(target.source, work.series)
    if volume.note:
        work.show(Log(volume.note))
    dicom = _dicom_segmentation(work, target)
    run = Segmentation(volume, work.network, work.options, work.session)
    slices: list[SliceDone] = []
    summary: dict[str, Any] = {}
    try:
        for event in run.events():
            if isinstance(event, SliceDone):
                slices.append(event)
            elif isinstance(event, Started):
                event = replace(event, title=f"{target.name}: {event.title}")
            elif isinstance(event, Finished):
                _write(work, target, dicom or volume, event.result.labels, slices)
                summary = event.summary
            work.show(event)
    except KeyboardInterrupt:
        if slices:
            _write(work, target, dicom or volume, run.labels, slices)
            work.show(Log(f"Stopped: {len(slices)} of {slices[0].total} slices are in {target.path}."))
        raise
    return summary


def _dicom_segmentation(work: Work, target: Target) -> DicomSegmentation | None:
    """What the labels will be drawn into, where the target is DICOM: before the work, for it may be refused."""
    if target.path.suffix.lower() != ".dcm":
        return None
    from DeSAMSegmentLib.data.dicom_seg import Algorithm, DicomSegmentation
    from DeSAMSegmentLib.store.library import Library
    from DeSAMSegmentLib.store.weights import hash_file

    card = work.network.card
    algorithm = Algorithm(card.name, __version__, hash_file(Library().resolve(work.model)))
    return DicomSegmentation(target.source, work.series, card.labels, algorithm)


def _write(
    work: Work, target: Target, like: Volume | DicomSegmentation, labels: np.ndarray, slices: list[SliceDone]
) -> None:
    from DeSAMSegmentLib.data.volume import Volume
    from DeSAMSegmentLib.data.writing import write_labelmap, write_segmentation

    if not isinstance(like, Volume):
        like.write(target.path, labels)
    elif target.path.name.lower().endswith(".seg.nrrd"):
        write_segmentation(target.path, labels, like, work.network.card.labels)
    else:
        write_labelmap(target.path, labels, like)
    work.show(Saved(target.path, "segmentation"))
    if work.confidence:
        table = target.path.with_name(f"{target.name}.confidence.csv")
        lines = [f"{each.index},{each.confidence:.4f},{each.agreement:.4f}" for each in slices]
        write_text(table, "\n".join(["slice,confidence,agreement", *lines]) + "\n")
        work.show(Saved(table, "report"))
