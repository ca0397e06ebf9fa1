"""``desam segment``: one volume, or every volume of a folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..engine.events import CaseDone, CaseFailed, Finished, Saved, SliceDone, Started
from ..engine.options import SegmentOptions
from ..errors import BadInput, DeSAMError, DiskFull
from ..files import write_text
from . import options as shared
from .targets import Target, plan
from .view import View, make_view

if TYPE_CHECKING:
    import numpy as np

    from ..data.features import FeatureCache
    from ..data.volume import Volume
    from ..engine.loading import DeSAM, Encoder


@dataclass(frozen=True)
class Work:
    """What all volumes of one call share."""

    network: DeSAM
    encoder: Encoder
    options: SegmentOptions
    device: str
    cache: FeatureCache | None
    view: View
    confidence: bool


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
    device: shared.Device = "auto",
    no_cache: shared.NoCache = False,
    json: shared.Json = False,
) -> int:
    """Segment every slice of a volume, or of every volume in a folder. Ctrl-C keeps the finished slices."""
    from ..data.features import FeatureCache

    options = shared.build(SegmentOptions, chosen)
    targets = plan(input, output, format)

    from ..engine.device import choose
    from ..engine.loading import load_backbone, load_model

    network = load_model(model)
    encoder = load_backbone(network.card.backbone, choose(device))
    with make_view(json) as view:
        cache = None if no_cache else FeatureCache()
        work = Work(network, encoder, options, device, cache, view, confidence)
        return _all(work, targets)


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
        except DeSAMError as error:
            failed += 1
            work.view.show(CaseFailed(target.name, str(error), done, len(targets)))
        else:
            work.view.show(CaseDone(target.name, "", summary, done, len(targets)))
    work.view.say(f"{len(targets) - failed} of {len(targets)} volumes segmented, {failed} failed.")
    return 1 if failed else 0


def _one(work: Work, target: Target) -> dict[str, Any]:
    """Segments one volume and writes it; returns the run's summary. On Ctrl-C the finished slices are
    written.
    """
    from ..data.volume import read_volume

    volume = read_volume(target.source)
    if volume.note:
        work.view.say(volume.note)
    slices: list[SliceDone] = []
    total = 0
    try:
        for event in _events(work, volume):
            if isinstance(event, SliceDone):
                slices.append(event)
            elif isinstance(event, Started):
                total = event.total
                event = replace(event, title=f"{target.name}: {event.title}")
            elif isinstance(event, Finished):
                _write(work, target, volume, event.result.labels, slices)
                work.view.show(event)
                return event.summary
            work.view.show(event)
    except KeyboardInterrupt:
        if slices:
            _write(work, target, volume, _put_together(slices, volume), slices)
            work.view.say(f"Stopped: {len(slices)} of {total} slices are in {target.path}.")
        raise
    raise BadInput(f"{target.name} gave no segmentation.", "Try another slice range.")


def _events(work: Work, volume: Volume) -> Any:
    from ..engine.segment import segment

    return segment(volume, work.network, work.options, device=work.device, cache=work.cache, encoder=work.encoder)


def _put_together(slices: list[SliceDone], volume: Volume) -> np.ndarray:
    """The label map (K, J, I) of the slices that are done."""
    import numpy as np

    labels = np.zeros(volume.array.shape, np.uint8)
    for each in slices:
        np.moveaxis(labels, each.axis, 0)[each.index] = each.labels
    return labels


def _write(work: Work, target: Target, volume: Volume, labels: np.ndarray, slices: list[SliceDone]) -> None:
    from ..data.volume import write_labelmap, write_segmentation

    if target.path.name.lower().endswith(".seg.nrrd"):
        write_segmentation(target.path, labels, volume, work.network.card.labels)
    else:
        write_labelmap(target.path, labels, volume)
    work.view.show(Saved(target.path, "segmentation"))
    if work.confidence:
        table = target.path.with_name(f"{target.name}.confidence.csv")
        lines = [f"{each.index},{each.confidence:.4f},{each.agreement:.4f}" for each in slices]
        write_text(table, "\n".join(["slice,confidence,agreement", *lines]) + "\n")
        work.view.show(Saved(table, "report"))
