"""Evaluation: every case against its truth, on the volume's own grid, one report for the folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.cases import Case, load_labelled
from ..data.slices import Slices, SliceSpec
from ..data.volume import Volume, read_labels, resample_labels, write_labelmap
from ..errors import BadDataset, BadInput, BadLabels, DeSAMError, DiskFull
from .events import CaseDone, CaseFailed, Event, Finished, Log, Progress, Saved, SliceDone, Started
from .metrics import Metrics, score_label, slices_with
from .options import SegmentOptions
from .report import Row, summarise, write_report

if TYPE_CHECKING:
    from ..data.features import FeatureCache
    from .loading import DeSAM

Scores = dict[str, dict[str, Metrics]]  # label -> protocol -> metrics
SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".seg.nrrd")


@dataclass(frozen=True)
class EvaluationResult:
    """What ``Finished.result`` holds: one row per case, label and protocol, their means, and what failed."""

    folder: Path
    rows: list[Row] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)  # see ``report.summarise``
    failed: dict[str, str] = field(default_factory=dict)  # case -> reason

    def add(self, case: Case, scores: Scores) -> dict[str, Any]:
        """Keeps the scores of a case; returns them as plain values, for its event."""
        for label, by_protocol in scores.items():
            self.rows.extend(Row(case.name, case.domain, label, each, m) for each, m in by_protocol.items())
        return {label: {each: m.to_dict() for each, m in by.items()} for label, by in scores.items()}


# A segmenter gives the label map (K, J, I) of a case and how the volume was sliced, yielding progress on the
# way.
Segmenter = Callable[[Case, Volume], "Iterator[Event | tuple[np.ndarray, Slices]]"]


def evaluate(
    cases: Sequence[Case],
    labels: Mapping[int, str],
    folder: str | Path,
    *,
    model: DeSAM | str | Path | None = None,
    predictions: str | Path | None = None,
    options: SegmentOptions | None = None,
    device: str = "auto",
    cache: FeatureCache | None = None,
) -> Iterator[Event]:
    """Scores a model, or a folder of finished label maps, on cases with known truth.

    Writes ``metrics.csv``, ``summary.json``, ``report.md``, ``pictures/CASE.png`` and, with a model,
    ``predictions/CASE.nii.gz`` under ``folder``. A case that fails is announced and left out of the means.

    Arguments:
      cases: each with labels on the image's grid or on one that overlaps it.
      labels: value -> name of the labels to score.
      folder: where the report goes; made if absent.
      model: a path, a library name or a loaded ``DeSAM``; segments every case.
      predictions: a folder of label maps named CASE.nii.gz (or .nrrd, .mha), instead of a model.

    Raises:
      BadInput: no case, neither or both of ``model`` and ``predictions``, an unusable folder or model.
      BadLabels: the model knows none of ``labels``.
    """
    begun = time.monotonic()
    folder, options = Path(folder), options or SegmentOptions()
    labels = {value: name for value, name in labels.items() if value}  # 0 is background
    _check(cases, model, predictions)
    if model is not None:
        segmenter, known, words = _model_segmenter(model, labels, options, device, cache)
    else:
        known = labels
        segmenter, words = _folder_segmenter(Path(str(predictions)), options), "the CPU"
    yield Started("evaluate", folder.name, len(cases), "case", words)
    if left_out := {value: name for value, name in labels.items() if value not in known}:
        yield Log(f"The model does not know {_listed(left_out)}: left out of the evaluation.", "warning")
    result = EvaluationResult(folder)
    for done, case in enumerate(cases, start=1):
        try:
            scores = yield from _score_case(case, known, folder, segmenter, keep=model is not None)
        except DiskFull:
            raise  # the report would meet the same disk
        except DeSAMError as error:
            result.failed[case.name] = str(error)
            yield CaseFailed(case.name, str(error), done, len(cases))
            continue
        yield CaseDone(case.name, case.domain, result.add(case, scores), done, len(cases))
    result.summary.update(summarise(result.rows))
    setup = _setup(words, model, predictions, options)
    for path in write_report(folder, result.rows, result.summary, result.failed, setup):
        yield Saved(path, "report")
    yield Finished("evaluate", time.monotonic() - begun, result, result.summary)


def _check(cases: Sequence[Case], model: object, predictions: str | Path | None) -> None:
    if (model is None) == (predictions is None):
        raise BadInput("An evaluation needs either a model or a folder of predictions.", "Give one of the two.")
    if not cases:
        raise BadDataset("There is no case to evaluate.", "Choose a data set with labelled cases.")
    if predictions is not None and not Path(predictions).is_dir():
        raise BadInput(f"There is no folder {predictions} of predictions.", "Give a folder of CASE.nii.gz files.")


def _setup(words: str, model: Any, predictions: Any, options: SegmentOptions) -> dict[str, Any]:
    """What the report says about how its numbers came about."""
    source = f"predictions in {Path(predictions).name}" if model is None else _model_name(model)
    return {
        "source": source,
        "device": words,
        "options": {k: v for k, v in vars(options).items() if v is not None},
    }


def _model_name(model: Any) -> str:
    return f"model {model.card.name}" if hasattr(model, "card") else f"model {Path(str(model)).name}"


def _score_case(
    case: Case, labels: Mapping[int, str], folder: Path, segmenter: Segmenter, keep: bool
) -> Generator[Event, None, Scores]:
    """Segments or reads one case, scores and draws it; returns label name -> protocol -> Metrics."""
    from .pictures import draw_case

    volume, truth = load_labelled(case)
    prediction = slices = None
    for item in segmenter(case, volume):
        if isinstance(item, tuple):
            prediction, slices = item
        else:
            yield item
    assert prediction is not None, "a segmenter ends with its label map"
    assert slices is not None, "a segmenter ends with its slices"
    if keep:
        path = folder / "predictions" / f"{case.name}.nii.gz"
        write_labelmap(path, prediction, volume)
        yield Saved(path, "segmentation")
    known = slices_with(truth > 0, slices.axis) if case.slices == "labelled" else None
    scores: Scores = {name: score_label(prediction, truth, value, slices, known) for value, name in labels.items()}
    picture = folder / "pictures" / f"{case.name}.png"
    draw_case(picture, case.name, slices, truth, prediction, labels, known)
    yield Saved(picture, "picture")
    return scores


def _folder_segmenter(folder: Path, options: SegmentOptions) -> Segmenter:
    """Reads the finished label map of a case; it may lie on another grid that overlaps the image's."""

    def read(case: Case, volume: Volume) -> Iterator[Event | tuple[np.ndarray, Slices]]:
        found = next((p for suffix in SUFFIXES if (p := folder / f"{case.name}{suffix}").is_file()), None)
        if found is None:
            raise BadInput(f"There is no prediction {case.name}.nii.gz in {folder.name}.", "Segment this case first.")
        prediction = resample_labels(read_labels(found), volume)
        spec = SliceSpec.for_volume(volume, axis=options.slice_axis)
        yield prediction, Slices(volume, spec)

    return read


def _model_segmenter(
    model: DeSAM | str | Path,
    labels: dict[int, str],
    options: SegmentOptions,
    device: str,
    cache: FeatureCache | None,
) -> tuple[Segmenter, dict[int, str], str]:
    """A segmenter that keeps the network and its encoder for all cases; which labels it knows; its device in
    words.
    """
    from .device import choose, describe
    from .loading import load_backbone, load_model
    from .segment import segment, slice_spec

    network = load_model(model)
    labels = known_labels(labels, {label.value: label.name for label in network.card.labels}, network.card.name)
    where = choose(device)
    encoder = load_backbone(network.card.backbone, where)

    def run(case: Case, volume: Volume) -> Iterator[Event | tuple[np.ndarray, Slices]]:
        for event in segment(volume, network, options, device=device, cache=cache, encoder=encoder):
            if isinstance(event, SliceDone):
                yield Progress(case.name, event.done, event.total)
            elif isinstance(event, Log):
                yield replace(event, text=f"{case.name}: {event.text}")
            elif isinstance(event, Finished):
                yield event.result.labels, Slices(volume, slice_spec(volume, network.card, options))

    return run, labels, describe(where)


def known_labels(labels: Mapping[int, str], card: Mapping[int, str], model: str) -> dict[int, str]:
    """The data set's labels that the model was trained on.

    Raises:
      BadLabels: when there is none.
    """
    both = {value: name for value, name in labels.items() if value in card}
    if not both:
        raise BadLabels(
            f"The model {model} knows the labels {_listed(card)}, the data set has {_listed(labels)}.",
            "Choose a data set with the same label values.",
        )
    return both


def _listed(labels: Mapping[int, str]) -> str:
    return ", ".join(f"{value} ({name})" for value, name in sorted(labels.items())) or "none"
