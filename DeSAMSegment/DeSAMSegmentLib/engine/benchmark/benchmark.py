"""The whole benchmark as a generator of events: run after run, then the report. Resumable, one folder per run."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...data.cases import load_labelled
from ...data.features import FeatureCache
from ...errors import BadInput
from ...store.card import LabelInfo
from ...store.terminology import default_labels
from .. import device as devices
from ..events import CaseDone, Event, Finished, Progress, Saved, Started
from ..options import SegmentOptions, TrainOptions
from .methods import Method
from .plan import REAL, Split
from .report import Material, write_benchmark
from .runs import Bench, Run, run_folder
from .scores import Score, mean, read_scores, write_scores


@dataclass(frozen=True)
class BenchmarkOptions:
    """What a benchmark runs.

    Attributes:
      points: grids to test, per side; the first is the one of the tables.
      report_only: nothing is trained; the report is of the runs that are finished.
      device: as everywhere.
    """

    methods: Sequence[Method]
    splits: Sequence[Split]
    seeds: Sequence[int] = (0, 1, 2)
    points: Sequence[int] = (9,)
    train: TrainOptions = field(default_factory=TrainOptions)
    segment: SegmentOptions = field(default_factory=SegmentOptions)
    report_only: bool = False
    device: str = "auto"
    title: str = "Does it generalise?"

    def is_valid(self) -> tuple[bool, str]:
        if not self.methods or not self.splits or not self.seeds or not self.points:
            return False, "A benchmark needs at least one method, one site, one seed and one grid."
        if any(not 1 <= points <= 64 for points in self.points):
            return False, f"Points per side must be between 1 and 64, not {', '.join(map(str, self.points))}."
        for method in self.methods:
            for seed in self.seeds:
                valid, reason = method.options(self.train, seed).is_valid()
                if not valid:
                    return False, reason
        return True, ""


def benchmark(
    labels: dict[int, str], folder: str | Path, options: BenchmarkOptions, cache: FeatureCache | None = None
) -> Iterator[Event]:
    """Trains and tests every method on every site with every seed, and writes the report.

    What an earlier call finished is not done again, so a stopped benchmark goes on, two processes can share the work
    (each with its own methods or seeds), and a last call with all of them writes the report.

    Arguments:
      labels: value -> name of the labels to learn.
      folder: report.md, report.html, scores.csv, plots/, pictures/ and runs/SITE/METHOD/seedN/.

    Yields:
      Started, Progress and Log within a run, CaseDone for each run, Saved for the report, Finished.

    Raises:
      BadInput: for options that make no sense, or a run folder that was made with others.
    """
    valid, reason = options.is_valid()
    if not valid:
        raise BadInput(reason)
    begun, folder = time.perf_counter(), Path(folder)
    infos = default_labels(labels)
    bench = Bench(
        infos,
        options.train,
        options.segment,
        options.points,
        cache or FeatureCache(folder / "features"),
        options.device,
    )
    seeds = list(dict.fromkeys(options.seeds))
    runs = [
        Run(method, split, seed, run_folder(folder, split.source, method, seed))
        for seed in seeds  # seed by seed: a stopped benchmark has whole tables
        for split in options.splits
        for method in options.methods
        if method.trained or seed == seeds[0]
    ]
    methods = options.methods
    if options.report_only:
        runs = [run for run in runs if bench.finished(run)]
        methods = [method for method in methods if any(run.method is method for run in runs)]
        if not runs:
            raise BadInput(f"No run in {folder} is finished.", "Leave out --report-only to make some.")
    where = devices.describe(devices.choose(options.device))
    yield Started("benchmark", options.title, len(runs), "run", where)
    if [run for run in runs if not bench.finished(run)]:  # every folder is looked at before anything is trained
        yield from _readable(options.splits)
    for done, run in enumerate(runs, 1):
        for event in bench.execute(run):
            if isinstance(event, list):
                yield CaseDone(run.name, run.split.source, _means(event), done, len(runs))
            else:
                yield event
    seconds = time.perf_counter() - begun
    scores = [
        score for run in runs for points in bench.grids(run.method) for score in read_scores(run.scores_path(points))
    ]
    write_scores(folder / "scores.csv", scores)
    yield Saved(folder / "scores.csv", "report")
    material = Material(
        folder, options.title, methods, options.splits, seeds, options.points, scores,
        _setup(options, infos, where, seconds, runs), options.train.patient_pattern,
        {label.value: label.name for label in infos},
    )  # fmt: skip
    for path in write_benchmark(material):
        yield Saved(path, "report")
    yield Finished("benchmark", time.perf_counter() - begun, scores, {})


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


def _setup(
    options: BenchmarkOptions, labels: Sequence[LabelInfo], where: str, seconds: float, runs: Sequence[Run]
) -> dict[str, str]:
    train = options.train
    limits = f", at most {train.minutes:g} minutes" if train.minutes else ""
    return {
        "Machine": f"{where}, {platform.machine()}, {os.cpu_count()} processors",
        "Time of this call": f"{seconds / 60:.1f} minutes for {len(runs)} runs, finished ones included",
        "Labels": ", ".join(label.name for label in labels),
        "Trained on": "; ".join(f"{split.source}: {len(split.train)} cases" for split in options.splits),
        "Tested on": "; ".join(f"{split.source}: {len(split.test)} cases" for split in options.splits),
        **_left_out(options.splits),
        "Backbone": f"{train.backbone}, PDMM {train.width}, profile {train.profile}",
        "Training": f"{train.epochs} epochs{limits}, batch {train.batch_size}, {train.views} view(s) per slice, "
        f"{train.validation_fraction:.0%} of the patients choose the epoch",
        "Seeds": ", ".join(map(str, options.seeds)),
        "Grid": " ".join(f"{points} x {points}" for points in options.points),
    }


def _left_out(splits: Sequence[Split]) -> dict[str, str]:
    """The scans that are on neither side, because their patient is on the other."""
    left_out = [f"{split.source}: {len(split.left_out)} cases" for split in splits if split.left_out]
    return {"Left out, their patients being on the other side": "; ".join(left_out)} if left_out else {}
