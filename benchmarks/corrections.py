"""A simulated user corrects the three worst slices per round: what learning from them gains, costs and forgets.

    python benchmarks/corrections.py DATA [--rounds 5] [--mode grid] [--epochs 30] [--only prostate ...]

A model of one volume segments another one. Each round the three slices with the most wrong voxels get their ground
truth, and the model learns from all corrected slices so far: held near its base by the penalty, or with its volume
replayed. Against it: training from scratch on the same slices. The Dice is that of the slices that were never
corrected, the same ones for all; "before" is the whole volume that the base was trained on.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from DeSAMSegmentLib.data.cases import Case, load_labelled, read_dataset
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.data.labels import IGNORE
from DeSAMSegmentLib.engine.events import Finished
from DeSAMSegmentLib.engine.options import TrainOptions
from DeSAMSegmentLib.engine.runtime.loading import DeSAM
from DeSAMSegmentLib.engine.runtime.session import Session
from DeSAMSegmentLib.engine.segment.segment import segment
from DeSAMSegmentLib.engine.train.train import train
from DeSAMSegmentLib.files import write_text

PER_ROUND = 3
CARDIAC = "Dataset109_Cardiac"
TASKS = {  # name -> label, data set and case of the base model, data set and case to correct
    "left ventricle": ("left_ventricle", CARDIAC, "patient001_frame01", CARDIAC, "patient003_frame01"),
    "prostate": ("prostate", "Dataset101_Prostate", "RUNMC_0000", "Dataset101_Prostate", "PROMISE_a"),
    "spleen": ("spleen", "Dataset103_AbdomenCTMR", "ct_sm", "Dataset102_Spleen", "spleen_2"),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One way to learn after one round."""

    task: str
    corrected: int
    way: str
    rest: float  # Dice of the slices never corrected
    before: float  # Dice on the volume of the base
    seconds: float  # of learning, features cached


def case_of(data: Path, dataset: str, name: str, label: str) -> Case:
    """A case with one label, 1, in memory."""
    case = next(each for each in read_dataset(data / dataset).cases if each.name == name)
    volume, labels = load_labelled(case)
    truth = np.isin(labels.array, labels.names[label]).astype(np.uint8)
    return Case(name, volume, truth, names={label: (1,), IGNORE: (2,)})


def dice(one: np.ndarray, other: np.ndarray) -> float:
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0


class Task:
    """One organ: the base, the volume to correct, and where models go."""

    def __init__(self, name: str, data: Path, folder: Path, arguments: argparse.Namespace) -> None:
        self.label, *places = TASKS[name]
        self.name, self.folder, self.arguments = name, folder, arguments
        self.known = case_of(data, places[0], places[1], self.label)
        self.target = case_of(data, places[2], places[3], self.label)
        self.session = Session("cpu", FeatureCache(folder / "features"))
        self.recipe: dict[str, Any] = {"mode": arguments.mode, "styles": 0, "seed": arguments.seed}

    def rows(self) -> Iterator[Row]:
        scratch = TrainOptions(validation_fraction=0.0, epochs=self.arguments.epochs, **self.recipe)
        base, _ = self.learnt("base", self.known, scratch)
        found, axis = self.found(base, self.target)
        truth, corrected = self.truth(self.target), list[int]()
        before = dice(self.found(base, self.known)[0], self.truth(self.known))
        refine = TrainOptions.corrections(base=str(base), **self.recipe | {"minutes": None})
        for number in range(1, self.arguments.rounds + 1):
            wrong = np.moveaxis(found ^ truth, axis, 0).sum(axis=(1, 2))
            wrong[corrected] = -1
            corrected += [int(i) for i in np.argsort(-wrong, kind="stable")[:PER_ROUND]]
            case, rest = self.corrected(corrected, axis), np.delete(np.arange(len(wrong)), corrected)
            if not truth.take(rest, axis).any():
                return
            old = self.found(base, self.target)[0]
            yield Row(self.name, len(corrected), "the base, unchanged", self.of(old, truth, rest, axis), before, 0.0)
            for way, options, replay in (
                ("from scratch", scratch, []), ("corrections, replay", refine, [self.known]),
                ("corrections, penalty", refine, []),
            ):  # fmt: skip
                model, seconds = self.learnt(f"{way} {number}", case, options, replay)
                found, _ = self.found(model, self.target)
                kept = dice(self.found(model, self.known)[0], self.truth(self.known))
                yield Row(self.name, len(corrected), way, self.of(found, truth, rest, axis), kept, seconds)

    def corrected(self, slices: Sequence[int], axis: int) -> Case:
        """The target of which only these slices are labelled."""
        labels = self.truth(self.target).astype(np.uint8)
        others = np.delete(np.arange(labels.shape[axis]), slices)
        np.moveaxis(labels, axis, 0)[others] = 2
        return replace(self.target, labels=labels)

    def learnt(self, name: str, case: Case, options: TrainOptions, replay: Sequence[Case] = ()) -> tuple[Path, float]:
        """The last model of a training and its seconds without what the features took, which are cached."""
        folder = self.folder / name.replace(" ", "-")
        *_, end = train([case], {1: self.label}, folder, options, self.session, replay=replay)
        assert isinstance(end, Finished)
        return folder / "last.desam", sum(row["seconds"] for row in end.result.history)

    def found(self, model: Path, case: Case) -> tuple[np.ndarray, int]:
        *_, end = segment(case.image, DeSAM.load(model), session=self.session)  # type: ignore[arg-type]
        assert isinstance(end, Finished)
        return np.asarray(end.result.labels) == 1, end.result.axis

    @staticmethod
    def truth(case: Case) -> np.ndarray:
        return np.asarray(case.labels) == 1

    @staticmethod
    def of(found: np.ndarray, truth: np.ndarray, rest: np.ndarray, axis: int) -> float:
        return dice(found.take(rest, axis), truth.take(rest, axis))


def report(rows: Sequence[Row], arguments: argparse.Namespace, load: float, minutes: float) -> str:
    strength = TrainOptions.corrections().near_base
    lines = [
        "# What learning from corrections gains",
        "",
        f"`python benchmarks/corrections.py DATA --rounds {arguments.rounds} --mode {arguments.mode} "
        f"--epochs {arguments.epochs}`: {(__doc__ or '').split(chr(10) * 2)[2].strip()}",
        "",
        f"One seed, mode {arguments.mode}, no styles, penalty {strength:g}, {arguments.epochs} epochs from scratch; "
        f"threads: {torch.get_num_threads()}, of a CPU shared with other jobs (load {load:.0f}): the seconds are upper "
        f"bounds. {minutes:.0f} minutes in all.",
        "",
        "| | corrected slices | | Dice, other slices | Dice, volume learnt before | seconds of learning |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        seconds = f"{row.seconds:.0f}" if row.seconds else ""
        kept = "" if row.way == "from scratch" else f"{row.before:.3f}"
        lines.append(f"| {row.task} | {row.corrected} | {row.way} | {row.rest:.3f} | {kept} | {seconds} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of the data sets")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mode", default="grid", choices=("grid", "box"))
    parser.add_argument("--epochs", type=int, default=30, help="of the base and from scratch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "corrections.md")
    arguments = parser.parse_args()
    begun, rows = time.monotonic(), list[Row]()
    for name in arguments.only:
        with tempfile.TemporaryDirectory() as folder:
            for row in Task(name, arguments.data, Path(folder), arguments).rows():
                rows.append(row)
                print(row, flush=True)
                text = report(rows, arguments, os.getloadavg()[1], (time.monotonic() - begun) / 60)
                write_text(arguments.output, text)


if __name__ == "__main__":
    main()
