"""One training by two processes of the CPU beside the same by one: losses and weights, and how long the features take.

    python benchmarks/two_processes.py DATASET [--cases REGEX] [--epochs 3] [--batch 8] [--threads 1]
        [--output benchmarks/results/two_processes.md]

Both begin with an empty cache and nothing is held out, so that the features are those of the same slices.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from desam_cli.selection import choose_cases
from DeSAMSegmentLib.data.cases import read_dataset
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.engine.events import Event, Progress
from DeSAMSegmentLib.engine.options import TrainOptions
from DeSAMSegmentLib.engine.runtime.session import Session
from DeSAMSegmentLib.engine.train.several import train_on
from DeSAMSegmentLib.engine.train.train import train
from DeSAMSegmentLib.files import write_text

LOSSES = ("loss", "dice", "ce", "iou")


@dataclass(frozen=True)
class Followed:
    """A finished run: seconds of its features and of its steps, (epochs, 4) losses, all trained weights."""

    features: float
    steps: float
    losses: np.ndarray
    weights: np.ndarray


def followed(events: Iterator[Event], folder: Path) -> Followed:
    """Takes a run to its end; the features begin with the first that is told of, after all processes have started."""
    begun = stepped = 0.0
    for event in events:
        if isinstance(event, Progress) and event.text.startswith("Reading") and not begun:
            begun = time.perf_counter()
        if isinstance(event, Progress) and event.text.startswith("Epoch 1 ") and not stepped:
            stepped = time.perf_counter()
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        losses = np.array([[float(row[name]) for name in LOSSES] for row in csv.DictReader(file)])
    saved = torch.load(folder / "state.pt", weights_only=True)["tensors"]
    weights = np.concatenate([each.numpy().ravel() for each in saved])
    return Followed(stepped - begun, time.perf_counter() - stepped, losses, weights)


def table(one: Followed, two: Followed) -> list[str]:
    """Markdown: losses of each epoch, differences, seconds."""
    lines = ["| Epoch | loss, one | loss, two | Dice loss, one | Dice loss, two |", "|---|---|---|---|---|"]
    for number, (a, b) in enumerate(zip(one.losses, two.losses, strict=True), 1):
        lines.append(f"| {number} | {a[0]:.7f} | {b[0]:.7f} | {a[1]:.7f} | {b[1]:.7f} |")
    losses = np.max(np.abs(two.losses - one.losses) / np.maximum(np.abs(one.losses), 1e-12))
    apart = np.abs(two.weights - one.weights)
    return [
        *lines, "",
        f"Largest relative difference of a loss: {losses:.1e}. Of {len(apart):,} trained weights (magnitude "
        f"{np.abs(one.weights).mean():.3f} on average) the largest difference is {apart.max():.1e}, the mean "
        f"{apart.mean():.1e}.", "",
        "| | one process | two processes |", "|---|---|---|",
        f"| features, s | {one.features:.1f} | {two.features:.1f} |",
        f"| all steps, s | {one.steps:.1f} | {two.steps:.1f} |",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--cases", default="")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "two_processes.md")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    os.environ["OMP_NUM_THREADS"] = str(given.threads)  # of the two, each
    data = read_dataset(given.dataset)
    cases = choose_cases(data.cases, given.cases, "", None)
    options = TrainOptions(epochs=given.epochs, batch_size=given.batch, styles=0, validation_fraction=0, patience=None)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        caches = [FeatureCache(Path(scratch, name)) for name in ("one-features", "two-features")]
        folders = [Path(scratch, name) for name in ("one", "two")]
        alone = Session("cpu", caches[0])
        one = followed(train(cases, data.labels, folders[0], options, alone), folders[0])
        two = followed(train_on(["cpu", "cpu"], cases, data.labels, folders[1], options, caches[1]), folders[1])
        images = len(list(caches[0].root.rglob("*.features")))
    text = [
        "# One training by two processes", "", "    python benchmarks/two_processes.py DATASET", "",
        f"{given.dataset.name}: {len(cases)} cases, {images} slices of which features are made, {options.backbone}, "
        f"batches of {given.batch}, {given.epochs} epochs, {given.threads} thread(s) for each process; "
        f"{os.cpu_count()} processors, load {load:.1f} when it began.", "",
        *table(one, two),
    ]  # fmt: skip
    write_text(given.output, "\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
