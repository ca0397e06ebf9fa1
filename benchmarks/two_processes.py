"""One training by two processes of the CPU beside the same by one: losses, weights, and what encoding costs each.

    python benchmarks/two_processes.py DATASET [--cases REGEX] [--epochs 2] [--batch 4] [--threads 1]
        [--output benchmarks/results/two_processes.md]

Both run at once, with caches of their own that are empty when they begin. Seconds are those of the processor in the
encoder, which other jobs on the machine change little.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from desam_cli.selection import choose_cases
from DeSAMSegmentLib.data.cases import read_dataset
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.engine.events import Event
from DeSAMSegmentLib.engine.options import TrainOptions
from DeSAMSegmentLib.engine.runtime.session import Session
from DeSAMSegmentLib.engine.train.several import train_on
from DeSAMSegmentLib.engine.train.train import train
from DeSAMSegmentLib.files import write_text
from DeSAMSegmentLib.model.types import Features

LOSSES = ("loss", "dice", "ce", "iou")


class Timed(Session):
    """Writes down what each of its processes encodes: images and processor seconds, a line per call."""

    def encode(self, images: np.ndarray) -> Features:
        begun = time.process_time()
        features = super().encode(images)
        assert self.cache is not None
        with open(f"{self.cache.root}.{os.getpid()}.encoded", "a", encoding="utf-8") as file:
            file.write(f"{len(images)} {time.process_time() - begun}\n")
        return features


@dataclass(frozen=True)
class Followed:
    """A finished run: (epochs, 4) losses, all trained weights, and (images, seconds) of each process."""

    losses: np.ndarray
    weights: np.ndarray
    encoded: list[np.ndarray]


def followed(events: Iterator[Event], folder: Path, cache: FeatureCache) -> Followed:
    """Takes a run to its end."""
    for _ in events:
        pass
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        losses = np.array([[float(row[name]) for name in LOSSES] for row in csv.DictReader(file)])
    saved = torch.load(folder / "state.pt", weights_only=True)["tensors"]
    weights = np.concatenate([each.numpy().ravel() for each in saved])
    encoded = [
        np.loadtxt(path, ndmin=2).sum(0) for path in sorted(cache.root.parent.glob(f"{cache.root.name}.*.encoded"))
    ]
    return Followed(losses, weights, encoded)


def table(one: Followed, two: Followed, rate: float) -> list[str]:
    """Markdown: losses of each epoch, differences, seconds."""
    lines = ["| Epoch | loss, one | loss, two | Dice loss, one | Dice loss, two |", "|---|---|---|---|---|"]
    for number, (a, b) in enumerate(zip(one.losses, two.losses, strict=True), 1):
        lines.append(f"| {number} | {a[0]:.7f} | {b[0]:.7f} | {a[1]:.7f} | {b[1]:.7f} |")
    losses = np.max(np.abs(two.losses - one.losses) / np.maximum(np.abs(one.losses), 1e-12))
    apart = np.abs(two.weights - one.weights)
    return [
        *lines, "",
        f"Largest relative difference of a loss: {losses:.1e}. Of {len(apart):,} trained weights half differ by less "
        f"than {np.median(apart):.1e}, 99.9 % by less than {np.quantile(apart, 0.999):.1e}, all by at most "
        f"{apart.max():.1e}: Adam steps by about the learning rate ({rate:g}) whichever way a gradient of nearly zero "
        "is rounded.", "",
        "| | images encoded | processor s in the encoder |", "|---|---|---|",
        *(f"| one process | {images:.0f} | {seconds:.1f} |" for images, seconds in one.encoded),
        *(f"| two processes, number {number} | {images:.0f} | {seconds:.1f} |"
          for number, (images, seconds) in enumerate(two.encoded, 1)),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--cases", default="")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "two_processes.md")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    os.environ["OMP_NUM_THREADS"] = str(given.threads)  # of the two, each
    data = read_dataset(given.dataset)
    cases = choose_cases(data.cases, given.cases, "", None)
    options = TrainOptions(epochs=given.epochs, batch_size=given.batch, styles=0, validation_fraction=0, patience=None)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(2) as both:
        caches = [FeatureCache(Path(scratch, name)) for name in ("one-features", "two-features")]
        folders = [Path(scratch, name) for name in ("one", "two")]
        two_runs = (
            train(cases, data.labels, folders[0], options, Timed("cpu", caches[0])),
            train_on(["cpu", "cpu"], cases, data.labels, folders[1], options, caches[1], session=Timed),
        )
        one, two = both.map(followed, two_runs, folders, caches)
    text = [
        "# One training by two processes", "", "    python benchmarks/two_processes.py DATASET", "",
        f"{given.dataset.name}, cases: {', '.join(case.name for case in cases)}; {options.backbone}, batches of "
        f"{given.batch}, {given.epochs} epochs, {given.threads} thread(s) for each process; {os.cpu_count()} "
        f"processors, load {load:.1f} when it began.", "",
        *table(one, two, options.learning_rate),
    ]  # fmt: skip
    write_text(given.output, "\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
