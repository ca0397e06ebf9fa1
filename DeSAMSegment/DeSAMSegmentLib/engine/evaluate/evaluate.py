"""Evaluation: every case against its ground truth, on the volume's own grid, one report for the folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...data.cases import Case, load_labelled
from ...data.dataset_json import names_in
from ...data.grid import resample_labels
from ...data.labels import IGNORE, LabelMap, Matcher, closest, drawn, has, ignored, listed, match
from ...data.reading import read_labels
from ...data.slices import Slices, SliceSpec
from ...data.volume import Volume
from ...data.writing import write_labelmap
from ...errors import BadDataset, BadInput, BadLabels, is_full, reason
from ...files import probe
from ..events import CaseDone, CaseFailed, Event, Finished, Log, Progress, Saved, SliceDone, Started
from ..options import SegmentOptions, resolve
from .metrics import score_label, slices_with
from .report import EvaluationResult, write_report
from .scores import Score, by_label, summarise

if TYPE_CHECKING:
    from ...store.card import ModelCard
    from ..runtime.loading import DeSAM
    from ..runtime.session import Session

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".seg.nrrd")


def held_out(case: Case, card: ModelCard) -> Case:
    """A case of a model's training with ground truth where the training never looked, and none elsewhere.

    Raises:
      BadInput: when nothing of the case was held out. BadVolume, BadLabels: it cannot be read.
    """
    held = card.training.get("held_out", {})
    if case.name not in held:
        raise BadInput(f"Nothing of {case.name} was held out when {card.name} was trained.", "Choose another case.")
    positions = held[case.name]
    if positions is None:
        return case
    volume, labels = load_labelled(case)
    array = labels.array.astype(np.uint32)
    value = int(array.max()) + 1
    planes = np.moveaxis(array, Slices(volume, SliceSpec.from_dict(card.slices)).axis, 0)
    planes[[index for index in range(len(planes)) if index not in positions]] = value
    names = dict(labels.names) or {label.name: (label.value,) for label in card.labels}
    return replace(case, image=volume, labels=array, slices="labelled", names=names | {IGNORE: (value,)})


@dataclass(frozen=True)
class ScoredCase:
    """A case that was segmented, or read, and measured.

    Attributes:
      ground_truth, predicted: memberships (K, J, I) on the volume's grid. prediction: the label map that was found.
      slices: how the volume was sliced.
      known: bool per slice, where there is ground truth; None = everywhere.
      scores: a row per label and protocol.
    """

    volume: Volume
    slices: Slices
    ground_truth: np.ndarray
    predicted: np.ndarray
    prediction: LabelMap
    known: np.ndarray | None
    scores: list[Score]


# A segmenter gives the label map of a case and how the volume was sliced, yielding progress on the way.
Segmenter = Callable[[Case, Volume], Generator[Event, None, "tuple[LabelMap, Slices]"]]


def evaluate(
    cases: Sequence[Case],
    labels: Mapping[int, str],
    folder: str | Path,
    session: Session | None = None,
    *,
    model: DeSAM | str | Path | None = None,
    predictions: str | Path | Sequence[Case] | None = None,
    options: SegmentOptions | None = None,
) -> Iterator[Event]:
    """Scores a model, or finished label maps, on cases with ground truth; one that fails is left out of the means.

    Writes metrics.csv, summary.json, report.md, pictures/CASE.png and, with a model, predictions/CASE.nii.gz.

    Arguments:
      cases: each with labels, on a grid that overlaps the image's.
      labels: value -> name of the labels to score; they are found by name, and by value where there are no names.
      model: a path, a library name or a loaded ``DeSAM``; segments every case, in the session.
      predictions: instead, a folder of label maps CASE.nii.gz (or .nrrd, .mha), or cases whose labels they are.

    Raises:
      BadInput: no case, neither or both of ``model`` and ``predictions``, an unusable folder or model, no known label.
    """
    begun = time.monotonic()
    folder, options = Path(folder), (options or SegmentOptions()).check()
    _check(cases, model, predictions)
    probe(folder / "summary.json")
    names = [name for value, name in labels.items() if value]  # 0 is background
    segmenter, known, words = _segmenter(model, predictions, names, options, session)
    yield Started("evaluate", folder.name, len(cases), "case", words)
    if left_out := [name for name in names if name not in known]:
        yield Log(f"The model does not know {listed(left_out)}: left out of the evaluation.", "warning")
    scorer = Scorer({value: name for value, name in labels.items() if value and name in known})
    result = EvaluationResult(folder)
    yield from _scored(cases, scorer, segmenter, result, keep=model is not None)
    yield from (Log(remark, "warning") for remark in scorer.remarks())
    chosen = {name: value for name, value in options.to_dict().items() if value is not None}
    setup = {"remarks": scorer.remarks(), "source": _source(model, predictions), "device": words, "options": chosen}
    yield from (Saved(path, "report") for path in write_report(result, setup))
    yield Finished("evaluate", time.monotonic() - begun, result, result.summary)


def _segmenter(
    model: DeSAM | str | Path | None,
    predictions: str | Path | Sequence[Case] | None,
    labels: list[str],
    options: SegmentOptions,
    session: Session | None,
) -> tuple[Segmenter, list[str], str]:
    """What finds the label map of a case, which of the labels it knows, and where it computes."""
    if model is not None:
        return model_segmenter(model, labels, options, session)
    if isinstance(predictions, str | Path):
        return _folder_segmenter(predictions, options), labels, "the CPU"
    return _case_segmenter(predictions or (), options), labels, "the CPU"


def _scored(
    cases: Sequence[Case], scorer: Scorer, segmenter: Segmenter, result: EvaluationResult, keep: bool
) -> Iterator[Event]:
    """Scores all cases into the result; one that fails costs no other, but for a full disk, which the report meets."""
    for done, case in enumerate(cases, start=1):
        try:
            scored = yield from scorer.score(case, segmenter)
            yield from _written(case, scored, scorer.labels, result.folder, keep)
        except Exception as error:  # whatever a library raises
            if is_full(error):
                raise
            result.failed[case.name] = reason(error)
            yield CaseFailed(case.name, reason(error), done, len(cases))
        else:
            result.scores.extend(scored.scores)
            yield CaseDone(case.name, case.domain, by_label(scored.scores), done, len(cases))
    result.summary.update(summarise(result.scores))


def _check(cases: Sequence[Case], model: object, predictions: str | Path | Sequence[Case] | None) -> None:
    if (model is None) == (predictions is None):
        raise BadInput("An evaluation needs either a model or a folder of predictions.", "Give one of the two.")
    if not cases:
        raise BadDataset("There is no case to evaluate.", "Choose a data set with labelled cases.")
    if isinstance(predictions, str | Path) and not Path(predictions).is_dir():
        raise BadInput(f"There is no folder {predictions} of predictions.", "Give a folder of CASE.nii.gz files.")


def _source(model: Any, predictions: str | Path | Sequence[Case] | None) -> str:
    """What was scored, in words."""
    if isinstance(predictions, str | Path):
        return f"predictions in {Path(predictions).name}"
    if model is None:
        return "finished segmentations"
    return f"model {model.card.name if hasattr(model, 'card') else Path(str(model)).name}"


class Scorer:
    """Finds the same labels in ground truth and predictions, by name, and measures them.

    Arguments:
      labels: value -> name; the values count where a label map has no names.
    """

    def __init__(self, labels: Mapping[int, str]) -> None:
        self.labels = list(labels.values())
        self.ground_truth = Matcher(self.labels, list(labels), undeclared="is not scored there")
        self.predicted = Matcher(self.labels, list(labels))
        self.notes: list[str] = []

    def score(self, case: Case, segmenter: Segmenter) -> Generator[Event, None, ScoredCase]:
        """Segments or reads one case and measures it; voxels that nobody labelled are left out."""
        volume, label_map = load_labelled(case)
        target = self.ground_truth.members(case.name, label_map)
        prediction, slices = yield from segmenter(case, volume)
        predicted = self.predicted.members(case.name, prediction)
        self.notes += [f"{case.name}: {each.note}" for each in (volume, label_map, prediction) if each.note]
        where = ~ignored(target)
        known = slices_with(drawn(target), slices.axis) if case.slices == "labelled" else None
        declared = self.ground_truth.pairs(label_map)
        scores = [
            Score(case.name, case.domain, name, protocol, metrics)
            for number, name in enumerate(self.labels)
            if name in declared
            for protocol, metrics in score_label(
                has(predicted, number) & where, has(target, number) & where, slices, known
            ).items()
        ]
        return ScoredCase(volume, slices, target, predicted, prediction, known, scores)

    def remarks(self) -> list[str]:
        """What should be said about names and places in the cases so far."""
        return list(dict.fromkeys(self.notes + self.ground_truth.remarks() + self.predicted.remarks()))


def _written(
    case: Case, scored: ScoredCase, labels: Sequence[str], folder: Path, keep: bool
) -> Generator[Event, None, None]:
    """Draws a case; its label map is kept where a model made it."""
    from ..figures import draw_case

    if keep:
        path = folder / "predictions" / f"{case.name}.nii.gz"
        write_labelmap(path, scored.prediction.array, scored.volume)
        yield Saved(path, "segmentation")
    figure = folder / "pictures" / f"{case.name}.png"
    draw_case(figure, case.name, scored.slices, scored.ground_truth, scored.predicted, labels, scored.known)
    yield Saved(figure, "figure")


def _case_segmenter(predictions: Sequence[Case], options: SegmentOptions) -> Segmenter:
    """Takes the finished label map of a case from the prediction of its name."""
    by_name = {case.name: case for case in predictions}

    def read(case: Case, volume: Volume) -> Generator[Event, None, tuple[LabelMap, Slices]]:
        yield from ()  # nothing takes long
        _, prediction = load_labelled(by_name[case.name])
        return prediction, Slices(volume, SliceSpec.for_volume(volume, axis=options.slice_axis))

    return read


def _folder_segmenter(folder: str | Path, options: SegmentOptions) -> Segmenter:
    """Reads the finished label map of a case; it may lie on another grid that overlaps the image's.

    Its labels are named by the file itself, by a dataset.json beside it, or as the case's own are.
    """
    folder = Path(folder)
    names = names_in(folder)

    def read(case: Case, volume: Volume) -> Generator[Event, None, tuple[LabelMap, Slices]]:
        yield from ()  # nothing takes long
        found = next((p for suffix in SUFFIXES if (p := folder / f"{case.name}{suffix}").is_file()), None)
        if found is None:
            raise BadInput(f"There is no prediction {case.name}.nii.gz in {folder.name}.", "Segment this case first.")
        spec = SliceSpec.for_volume(volume, axis=options.slice_axis)
        prediction = resample_labels(read_labels(found), volume)
        return replace(prediction, names=prediction.names or names or case.names), Slices(volume, spec)

    return read


def model_segmenter(
    model: DeSAM | str | Path, labels: Sequence[str], options: SegmentOptions, session: Session | None
) -> tuple[Segmenter, list[str], str]:
    """Begins a job of segmenting cases.

    Returns:
      a segmenter, those of ``labels`` (names) that its model knows, and its device in words.

    Raises:
      BadLabels: when the model knows none of them. BadInput: an unusable model, options that make no sense for it.
    """
    from ..runtime.device import describe
    from ..runtime.session import Session
    from ..segment.segment import Segmentation

    ready = session or Session()
    network = ready.model(model)
    names = {label.name: (label.value,) for label in network.card.labels}
    known = [name for name in labels if name in match(labels, list(names))]
    if not known:
        raise BadLabels(
            f"The model {network.card.name} finds {listed(names)}; the data set has {listed(labels)}."
            f"{closest(labels, list(names))}",
            "Choose a data set with labels of the same names, or rename them in its dataset.json.",
        )
    ready.begin_with(network.card)  # once: what did not fit is not tried again in every case
    resolve(network.card, options)  # refuses here what would fail in every case

    def run(case: Case, volume: Volume) -> Generator[Event, None, tuple[LabelMap, Slices]]:
        segmentation = Segmentation(volume, network, options, ready)
        for event in segmentation.events():
            if isinstance(event, SliceDone):
                yield Progress(case.name, event.done, event.total)
            elif isinstance(event, Log):
                yield replace(event, text=f"{case.name}: {event.text}")
            elif isinstance(event, Finished):
                result = event.result
        return LabelMap(result.labels, volume.ijk_to_ras, names=names), segmentation.slices

    return run, known, describe(ready.device)
