"""The whole benchmark as a generator of events: run after run, each in a folder of its own, then the report. Resumable.

A run is a method trained on a site with a seed, and tested on all others.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from DeSAMSegmentLib.data.cases import Case, load_case, load_labelled
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.data.volume import Volume
from DeSAMSegmentLib.data.writing import write_labelmap
from DeSAMSegmentLib.engine.evaluate.evaluate import ScoredCase, Scorer, model_segmenter
from DeSAMSegmentLib.engine.evaluate.scores import Score, read_scores, write_scores
from DeSAMSegmentLib.engine.events import CaseDone, EpochDone, Event, Finished, Log, Progress, Saved, Started
from DeSAMSegmentLib.engine.runtime import device as devices
from DeSAMSegmentLib.engine.runtime.loading import DeSAM
from DeSAMSegmentLib.engine.runtime.session import Session, sam_tensors
from DeSAMSegmentLib.engine.train.initial_model import architecture_of
from DeSAMSegmentLib.engine.train.train import train
from DeSAMSegmentLib.engine.train.training_set import common_spec
from DeSAMSegmentLib.errors import BadInput, BadModelFile
from DeSAMSegmentLib.files import write_text
from DeSAMSegmentLib.store.card import LabelInfo, ModelCard
from DeSAMSegmentLib.store.terminology import default_labels

from .plan import REAL, BenchmarkOptions, Run, Split, TestCase
from .report import Material, write_benchmark
from .scores import mean

KEPT_BYTES = 500e6  # simulated volumes kept in memory between runs
Ahead = Callable[["Bench", list[Run]], Iterator[Event]]  # carries runs out elsewhere


def benchmark(
    labels: dict[int, str],
    folder: str | Path,
    options: BenchmarkOptions,
    cache: FeatureCache | None = None,
    ahead: Ahead | None = None,
) -> Iterator[Event]:
    """Trains and tests every method on every site with every seed, and writes the report.

    What an earlier call finished is not done again: a stopped benchmark goes on, two processes share the work (each
    with methods or seeds of its own), and a last call with all of them writes the report.

    Arguments:
      labels: value -> name of the labels to learn.
      folder: report.md, report.html, scores.csv, plots/, pictures/ and runs/SITE/METHOD/seedN/.
      ahead: carries runs out elsewhere; what it leaves unfinished is done here.

    Raises:
      BadInput: for options that make no sense, or a run folder that was made with others.
    """
    options.check()
    begun, folder = time.perf_counter(), Path(folder)
    options = replace(options, seeds=list(dict.fromkeys(options.seeds)))
    session = Session(options.device, cache or FeatureCache(folder / "features"))
    bench = Bench(default_labels(labels), options, session)
    runs = _runs(folder, options)
    if options.report_only:
        runs = [run for run in runs if bench.finished(run)]
        options = _of_runs(runs, options, folder)
    where = devices.describe(session.chosen_device)
    yield Started("benchmark", options.title, len(runs), "run", where)
    yield from _carried_out(bench, runs, ahead)
    seconds = time.perf_counter() - begun
    paths = [run.scores_path(points) for run in runs for points in options.grids(run.method)]
    scores = [score for path in paths for score in read_scores(path)]
    write_scores(folder / "scores.csv", scores, of_runs=True)
    setup = _setup(options, bench.names, where, seconds, len(runs))
    material = Material(folder, options, bench.names, scores, setup)
    yield from (Saved(path, "report") for path in (folder / "scores.csv", *write_benchmark(material)))
    yield Finished("benchmark", time.perf_counter() - begun, scores, {})


def _runs(folder: Path, options: BenchmarkOptions) -> list[Run]:
    return [
        Run(folder, method, split.source, seed)
        for seed in options.seeds  # seed by seed: a stopped benchmark has whole tables
        for split in options.splits
        for method in options.methods
        if method.trained or seed == options.seeds[0]
    ]


def _of_runs(runs: list[Run], options: BenchmarkOptions, folder: Path) -> BenchmarkOptions:
    """The options, with the methods of these runs only. Raises BadInput when there is no run."""
    if not runs:
        raise BadInput(f"No run in {folder} is finished.", "Leave out --report-only to make some.")
    done = {run.method.id for run in runs}
    return replace(options, methods=[method for method in options.methods if method.id in done])


def _carried_out(bench: Bench, runs: list[Run], ahead: Ahead | None) -> Iterator[Event]:
    """Every run that is not finished."""
    unfinished = [run for run in runs if not bench.finished(run)]  # all folders are looked at before any training
    if unfinished:
        yield from _readable(bench.options.splits)
        if ahead:
            yield from ahead(bench, unfinished)
    for number, run in enumerate(runs, 1):
        for event in bench.execute(run):
            if isinstance(event, list):
                yield CaseDone(run.name, run.source, _means(event), number, len(runs))
            else:
                yield event


def _readable(splits: Sequence[Split]) -> Iterator[Event]:
    """Reads every case to test on once: what is damaged is told now, not after hours of training.

    Raises:
      BadVolume, BadLabels: naming the file.
    """
    cases = list({test.case.name: test.case for split in splits for test in split.test}.values())
    for done, case in enumerate(cases, 1):
        load_labelled(case)
        yield Progress("reading the cases to test on", done, len(cases))


def _means(scores: Sequence[Score]) -> dict[str, Any]:
    """Dice outside the training site under both protocols, in the shape of an evaluated case."""
    found: dict[str, Any] = {}
    for label in dict.fromkeys(score.label for score in scores):
        outside = [score for score in scores if score.label == label and score.domain != REAL]
        found[label] = {
            protocol: {"dice": mean(score for score in outside if score.protocol == protocol).mean}
            for protocol in ("all", "labelled")
        }
    return found


def _setup(options: BenchmarkOptions, labels: dict[int, str], where: str, seconds: float, runs: int) -> dict[str, str]:
    """How the numbers came about."""
    train, splits = options.train, options.splits
    limits = f", at most {train.minutes:g} minutes" if train.minutes else ""
    left_out = "; ".join(f"{split.source}: {len(split.left_out)} cases" for split in splits if split.left_out)
    return {
        "Machine": f"{where}, {platform.machine()}, {os.cpu_count()} processors",
        "Time of this call": f"{seconds / 60:.1f} minutes for {runs} runs, finished ones included",
        "Labels": ", ".join(labels.values()),
        "Trained on": "; ".join(f"{split.source}: {len(split.train)} cases" for split in splits),
        "Tested on": "; ".join(f"{split.source}: {len(split.test)} cases" for split in splits),
        **({"Left out, their patients being on the other side": left_out} if left_out else {}),
        "Backbone": f"{train.backbone}, PDMM {train.width}, profile {train.profile}",
        "Training": f"{train.epochs} epochs{limits}, batch {train.batch_size}, {train.views} view(s) per slice, "
        f"{train.validation_fraction:.0%} of the patients choose the epoch",
        "Seeds": ", ".join(map(str, options.seeds)),
        "Grid": " ".join(f"{points} x {points}" for points in options.points),
    }


# ---- a run --------------------------------------------------------------------------------------------------------


class Bench:
    """Carries runs out: what they share are labels, options and one session."""

    def __init__(self, labels: Sequence[LabelInfo], options: BenchmarkOptions, session: Session) -> None:
        self.labels, self.options, self.session = list(labels), options, session
        self.names = {label.value: label.name for label in labels}
        self.splits = {split.source: split for split in options.splits}
        self.kept: dict[str, Case] = {}
        self.kept_bytes = 0

    def finished(self, run: Run) -> bool:
        """Whether nothing is left to do.

        Raises:
          BadInput: when the folder was made with other options or other cases.
        """
        path = run.folder / "run.json"
        if path.is_file() and _read_plan(path) != json.loads(json.dumps(self._plan(run))):
            raise BadInput(
                f"{run.folder} was made with other options or other cases.", "Give another folder, or delete this one."
            )
        return all(run.scores_path(points).is_file() for points in self.options.grids(run.method))

    def execute(self, run: Run) -> Iterator[Event | list[Score]]:
        """Trains and tests what is not there yet; ends with the run's scores at the table's grid."""
        if not self.finished(run):
            write_text(run.folder / "run.json", json.dumps(self._plan(run), indent=1))
            for event in self._carried_out(run):
                if isinstance(event, EpochDone):
                    event = Progress("epochs", event.epoch, event.epochs)
                if isinstance(event, Progress | Log):
                    yield replace(event, text=f"{run.name}: {event.text}")
        yield read_scores(run.scores_path(self.options.grids(run.method)[0]))

    def _plan(self, run: Run) -> dict[str, Any]:
        split = self.splits[run.source]
        return {
            "options": run.method.options(self.options.train, run.seed).to_dict(),
            "labels": list(self.names.values()),
            "train": [case.name for case in split.train],
            "test": [test.name for test in split.test],
            "segment": self.options.segment.to_dict(),
        }

    def _carried_out(self, run: Run) -> Iterator[Event]:
        model = yield from (self._trained(run) if run.method.trained else self._untouched(run))
        for points in self.options.grids(run.method):
            if not run.scores_path(points).is_file():
                yield from self._test(run, model, points)

    # ---- training -------------------------------------------------------------------------------------------------

    def _trained(self, run: Run) -> Generator[Event, None, DeSAM]:
        folder, options = run.folder / "model", run.method.options(self.options.train, run.seed)
        resume = (folder / "state.pt").is_file()
        yield from train(self.splits[run.source].train, self.labels, folder, options, self.session, resume=resume)
        try:
            return DeSAM.load(folder / "best.desam")
        except BadModelFile as error:
            raise BadInput(
                f"{run.name}: {error.what}", f"Delete the folder {run.folder}: its run is then made again."
            ) from error

    def _untouched(self, run: Run) -> Generator[Event, None, DeSAM]:
        """SAM's own decoder as it comes, in the shape of a model."""
        options = run.method.options(self.options.train, run.seed)
        model = DeSAM.from_sam(architecture_of(options, len(self.labels)), sam_tensors(options.backbone))
        spec = common_spec([load_case(case)[0] for case in self.splits[run.source].train[:3]], options)
        model.card = ModelCard(options.name, tuple(self.labels), options.backbone, slices=spec.to_dict())
        yield Log("SAM's decoder as it is, nothing is trained.")
        return model.eval()

    # ---- testing --------------------------------------------------------------------------------------------------

    def _test(self, run: Run, model: DeSAM, points: int) -> Iterator[Event]:
        given, tests = self.options.segment, self.splits[run.source].test
        options = replace(given, mode=run.method.changes["mode"], points=points or given.points)
        segmenter, _, _ = model_segmenter(model, list(self.names.values()), options, self.session)
        scorer = Scorer(self.names)
        scores: list[Score] = []
        of_run: dict[str, Any] = {"source": run.source, "method": run.method.id, "seed": run.seed, "points": points}
        for done, test in enumerate(tests, 1):
            scored = yield from _only_logs(scorer.score(self._loaded(test), segmenter))
            scores += [replace(score, **of_run) for score in scored.scores]
            if points == self.options.grids(run.method)[0]:
                write_labelmap(run.prediction_path(test.name), scored.prediction.array, scored.volume)
            yield Progress("testing" + (f" {points} x {points} points" if points else ""), done, len(tests))
        yield from (Log(remark, "warning") for remark in scorer.remarks())
        write_scores(run.scores_path(points), scores, of_runs=True)

    def _loaded(self, test: TestCase) -> Case:
        """A simulated volume is made once and kept for the next run, as far as memory is given."""
        if not test.effect:
            return test.case
        if test.name in self.kept:
            return self.kept[test.name]
        case = test.load()
        assert isinstance(case.image, Volume)
        if self.kept_bytes + case.image.array.nbytes <= KEPT_BYTES:
            self.kept[test.name] = case
            self.kept_bytes += case.image.array.nbytes
        return case


def _only_logs(events: Generator[Event, None, ScoredCase]) -> Generator[Event, None, ScoredCase]:
    """What is worth a line in a benchmark's log."""
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            return end.value
        if isinstance(event, Log):
            yield event


def _read_plan(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise BadInput(f"{path} is damaged.", f"Delete the folder {path.parent}: its run is then made again.") from None
