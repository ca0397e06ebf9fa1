"""``desam segment``: one volume, or every volume of a folder."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.engine.events import CaseDone, CaseFailed, Finished, Log, Saved, SliceDone, Started
from DeSAMSegmentLib.engine.options import SegmentOptions
from DeSAMSegmentLib.errors import BadInput, DiskFull, reason
from DeSAMSegmentLib.files import check_name, probe, write_text

from . import options as shared
from .remedies import REMEDIES
from .view import Show, shown

if TYPE_CHECKING:
    import numpy as np
    from DeSAMSegmentLib.data.volume import Volume
    from DeSAMSegmentLib.engine.runtime.loading import DeSAM
    from DeSAMSegmentLib.engine.runtime.session import Session


VOLUMES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
OTHER_TYPES = (".dcm", ".png", ".jpg", ".tif", ".tiff", ".stl", ".gz", ".mhd", ".nhdr", ".hdr", ".img", ".vtk", ".h5")
CHANNEL = re.compile(r"(.+)_(?!0000)\d{4}", re.DOTALL)  # a stem of any channel of nnU-Net's but the first
WRITTEN = (".seg.nrrd", ".nii.gz", ".nii", ".nrrd", ".mha")


@dataclass(frozen=True)
class Work:
    """What all volumes of one call share."""

    network: DeSAM
    session: Session
    options: SegmentOptions
    show: Show
    confidence: bool
    series: str = ""


@shared.takes(SegmentOptions)
def command(
    input: Annotated[Path, typer.Argument(help="A volume (NIfTI, NRRD, MHA, a DICOM folder), or a folder of volumes.")],
    output: Annotated[Path, typer.Argument(help="A .seg.nrrd, .nii.gz, .nrrd or .mha file, or a folder.")],
    chosen: dict[str, Any],
    model: Annotated[str, typer.Option("--model", "-m", help="A .desam file, or the name of one in the library.")],
    format: Annotated[str, typer.Option(help="File type in an output folder: seg.nrrd or nii.gz.")] = "seg.nrrd",
    confidence: Annotated[
        bool,
        typer.Option(
            "--confidence",
            help="Also write VOLUME.confidence.csv, named after the input: how sure the model is of each slice.",
        ),
    ] = False,
    series: Annotated[
        str, typer.Option(help="Which DICOM series: its number, description or UID; `desam info FOLDER` lists them.")
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
        return _all(Work(network, session, options, show, confidence, series), targets)


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
                _write(work, target, volume, event.result.labels, slices)
                summary = event.summary
            work.show(event)
    except KeyboardInterrupt:
        if slices:
            _write(work, target, volume, run.labels, slices)
            work.show(Log(f"Stopped: {len(slices)} of {slices[0].total} slices are in {target.path}."))
        raise
    return summary


def _write(work: Work, target: Target, volume: Volume, labels: np.ndarray, slices: list[SliceDone]) -> None:
    from DeSAMSegmentLib.data.writing import write_labelmap, write_segmentation

    if target.path.name.lower().endswith(".seg.nrrd"):
        write_segmentation(target.path, labels, volume, work.network.card.labels)
    else:
        write_labelmap(target.path, labels, volume)
    work.show(Saved(target.path, "segmentation"))
    if work.confidence:
        table = target.path.with_name(f"{target.name}.confidence.csv")
        lines = [f"{each.index},{each.confidence:.4f},{each.agreement:.4f}" for each in slices]
        write_text(table, "\n".join(["slice,confidence,agreement", *lines]) + "\n")
        work.show(Saved(table, "report"))


# ---- what is read and written -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """One volume (a file or a DICOM folder) and the segmentation file it becomes."""

    name: str
    source: Path
    path: Path


def plan(source: Path, output: Path, format: str) -> list[Target]:
    """Pairs every volume of ``source`` with its output file.

    Raises:
      BadInput: no such file, no volume in the folder, an unknown output type, an output that would replace an
      input.
    """
    suffix = "." + format.lstrip(".")
    if suffix not in WRITTEN:
        raise BadInput(f"Cannot write files of type {format}.", f"Choose one of {', '.join(WRITTEN)}.")
    if not source.exists():
        raise BadInput(f"There is no file or folder {source}.", "Check the path of the volume.")
    check_name(output)
    volumes = _volumes(source)
    if output.name.lower().endswith(WRITTEN) and not output.is_dir():
        if len(volumes) > 1:
            raise BadInput(f"{source} holds {len(volumes)} volumes, {output.name} is one file.", "Name a folder.")
        targets = [Target(case_name(volumes[0]), volumes[0], output)]
    elif output.is_file() or output.suffix.lower() in OTHER_TYPES:
        types = ", ".join(WRITTEN)
        raise BadInput(f"{output} is not a type of file that can be written.", f"Choose one of {types}, or a folder.")
    else:
        stems = {_stem(each) for each in volumes}
        # beside x.nii.gz, x_0000.nii.gz keeps its number
        names = [stem if (name := case_name(each)) in stems else name for each in volumes for stem in [_stem(each)]]
        targets = [Target(name, each, output / f"{name}{suffix}") for name, each in zip(names, volumes, strict=True)]
    _check(targets)
    return targets


def _check(targets: list[Target]) -> None:
    """Nothing may replace its volume, and no two become one file, nor two that only some file systems tell apart."""
    taken: dict[str, Path] = {}
    for target in targets:
        if target.path.resolve() == target.source.resolve():
            raise BadInput(f"{target.path} is the volume itself.", "Choose another output, it would be replaced.")
        other = taken.setdefault(str(target.path).casefold(), target.source)
        if other is not target.source:
            raise BadInput(
                f"{other.name} and {target.source.name} would both become {target.path.name}.",
                "Rename one of them, or segment them one at a time.",
            )


def _volumes(source: Path) -> list[Path]:
    """The file itself; the volumes of a folder; the folder itself when it is a DICOM series; its series
    otherwise.
    """
    if source.is_file():
        return [source]
    entries = sorted(entry for entry in source.iterdir() if not entry.name.startswith("."))
    files = [entry for entry in entries if entry.is_file() and entry.name.lower().endswith(VOLUMES)]
    files = [entry for entry in files if not entry.name.lower().endswith(".seg.nrrd")]  # results of an earlier call
    if files:
        # nnU-Net: of a case that has a first channel, the others are no volumes of their own
        first = {case_name(entry) for entry in files if _stem(entry).endswith("_0000")}
        return [entry for entry in files if not (found := CHANNEL.fullmatch(_stem(entry))) or found[1] not in first]
    if any(entry.is_file() for entry in entries):
        return [source]
    folders = [entry for entry in entries if entry.is_dir() and any(entry.iterdir())]
    if not folders:
        raise BadInput(
            f"The folder {source} holds no volume.", f"Give a folder of {', '.join(VOLUMES)} or DICOM files."
        )
    return folders


def case_name(path: Path) -> str:
    """The case name: without the suffix, and without nnU-Net's channel number."""
    return _stem(path).removesuffix("_0000")


def _stem(path: Path) -> str:
    suffix = next((each for each in VOLUMES if path.is_file() and path.name.lower().endswith(each)), "")
    return path.name[: len(path.name) - len(suffix)]
