"""One volume in a file, segmented into a file: what command line and panel do with each of many."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ... import __version__
from ...errors import DeSAMError
from ...files import probe, write_text
from ..events import Event, Finished, Log, Saved, SliceDone, Started
from .targets import Target

if TYPE_CHECKING:
    import numpy as np

    from ...data.dicom_seg import DicomSegmentation
    from ...data.volume import Volume
    from ...store.card import ModelCard


class Segmenting(Protocol):
    """One volume that is being segmented, here (``Segmentation``) or elsewhere (``jobs.remote.RemoteRun``)."""

    @property
    def labels(self) -> np.ndarray:
        """(K, J, I) label values of the slices that are finished."""

    def events(self) -> Iterator[Event]: ...


def segment_file(
    target: Target, card: ModelCard, begin: Callable[[Volume], Segmenting],
    confidence: bool = False, series: str = "", sha256: str = "",
) -> Generator[Event, None, None]:  # fmt: skip
    """Reads a volume, segments it and writes the result; cut short (``is_cut_short``), the slices that are finished.

    Arguments:
      card: of the model. begin: starts its run on a volume.
      confidence: also write ``NAME.confidence.csv``. series: which one of a DICOM folder.
      sha256: of the model's file, for a target that is DICOM.

    Raises:
      DeSAMError: when the volume cannot be read or segmented, or the result not be written.
    """
    from ...data.reading import read_volume

    probe(target.path)
    volume = read_volume(target.source, series)
    if volume.note:
        yield Log(volume.note)
    like = dicom_segmentation(target, card, sha256, series) or volume
    run = begin(volume)
    slices, saved = list[SliceDone](), list[Saved]()
    try:
        for event in run.events():
            if isinstance(event, SliceDone):
                slices.append(event)
            elif isinstance(event, Started):
                event = replace(event, title=f"{target.name}: {event.title}")
            elif isinstance(event, Finished):
                yield from (
                    saved := write_result(target, like, event.result.labels, card, slices if confidence else [])
                )
                event = replace(event, result=target.path)
            yield event
    except (GeneratorExit, KeyboardInterrupt, DeSAMError) as error:
        if slices and not saved and is_cut_short(error):
            write_result(target, like, run.labels, card, slices if confidence else [])
        raise


def is_cut_short(error: BaseException) -> bool:
    """Whether a run was closed, interrupted from the keyboard, or left alone by another computer."""
    return not isinstance(error, DeSAMError) or error.kind == "connection-lost"


def dicom_segmentation(
    target: Target, card: ModelCard, sha256: str, series: str = "", files: Sequence[Path] = ()
) -> DicomSegmentation | None:
    """What the labels will be drawn into, where the target is DICOM: before the work, for it may be refused.

    Arguments:
      sha256: of the model's file. series, files: as for ``read_volume``.
    """
    if target.path.suffix.lower() != ".dcm":
        return None
    from ...data.dicom_seg import Algorithm, DicomSegmentation

    algorithm = Algorithm(card.name, __version__, sha256)
    return DicomSegmentation(target.source, series, card.labels, algorithm, files)


def write_result(
    target: Target,
    like: Volume | DicomSegmentation,
    labels: np.ndarray,
    card: ModelCard,
    confidence: Sequence[SliceDone] = (),
) -> list[Saved]:
    """Writes a label map, and with ``confidence`` the table of its slices; returns what was written."""
    from ...data.volume import Volume
    from ...data.writing import write_labelmap, write_segmentation

    if not isinstance(like, Volume):
        like.write(target.path, labels)
    elif target.path.name.lower().endswith(".seg.nrrd"):
        write_segmentation(target.path, labels, like, card.labels)
    else:
        write_labelmap(target.path, labels, like)
    saved = [Saved(target.path, "segmentation")]
    if confidence:
        table = target.path.with_name(f"{target.name}.confidence.csv")
        lines = [f"{each.index},{each.confidence:.4f},{each.agreement:.4f}" for each in confidence]
        write_text(table, "\n".join(["slice,confidence,agreement", *lines]) + "\n")
        saved.append(Saved(table, "report"))
    return saved
