"""One volume in a file, segmented into a file: what command line and panel do with each of many."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING

from ...files import probe, write_text
from ..events import Event, Finished, Log, Saved, SliceDone, Started
from ..options import SegmentOptions
from .targets import Target

if TYPE_CHECKING:
    import numpy as np

    from ...data.volume import Volume
    from ..runtime.loading import DeSAM
    from ..runtime.session import Session


def segment_file(
    target: Target,
    network: DeSAM,
    options: SegmentOptions,
    session: Session,
    confidence: bool = False,
    series: str = "",
) -> Generator[Event, None, None]:
    """Reads a volume, segments it and writes the result, within a job that has begun.

    A run that is cut short (closed, or interrupted from the keyboard) writes the slices that are finished.

    Arguments:
      confidence: also write ``NAME.confidence.csv``. series: which one of a DICOM folder.

    Raises:
      DeSAMError: when the volume cannot be read or segmented, or the result not be written.
    """
    from ...data.reading import read_volume
    from .segment import Segmentation

    probe(target.path)
    volume = read_volume(target.source, series)
    if volume.note:
        yield Log(volume.note)
    run = Segmentation(volume, network, options, session)
    slices: list[SliceDone] = []
    saved: list[Saved] = []
    try:
        for event in run.events():
            if isinstance(event, SliceDone):
                slices.append(event)
            elif isinstance(event, Started):
                event = replace(event, title=f"{target.name}: {event.title}")
            elif isinstance(event, Finished):
                saved = _write(target, network, volume, event.result.labels, slices if confidence else [])
                yield from saved
                event = replace(event, result=target.path)
            yield event
    except (GeneratorExit, KeyboardInterrupt):
        if slices and not saved:
            _write(target, network, volume, run.labels, slices if confidence else [])
        raise


def _write(target: Target, network: DeSAM, volume: Volume, labels: np.ndarray, slices: list[SliceDone]) -> list[Saved]:
    from ...data.writing import write_labelmap, write_segmentation

    if target.path.name.lower().endswith(".seg.nrrd"):
        write_segmentation(target.path, labels, volume, network.card.labels)
    else:
        write_labelmap(target.path, labels, volume)
    saved = [Saved(target.path, "segmentation")]
    if slices:
        table = target.path.with_name(f"{target.name}.confidence.csv")
        lines = [f"{each.index},{each.confidence:.4f},{each.agreement:.4f}" for each in slices]
        write_text(table, "\n".join(["slice,confidence,agreement", *lines]) + "\n")
        saved.append(Saved(table, "report"))
    return saved
