"""Does the confidence that the panel's review sorts by say how good a slice is?

    python benchmarks/confidence.py DATASET MODEL --cases PATTERN [--mode grid]

Segments labelled cases and compares, slice by slice, the confidence with the Dice of the slice: rank correlation, and
the confidence of good slices (Dice above 0.8) and bad ones (below 0.6). On a grid the same for the IoU that PRIM
predicted for the chosen point of the first label. Of a model of several labels, a slice's worst Dice counts, as its
confidence does.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "DeSAMSegment"))

from DeSAMSegmentLib.data.cases import load_labelled, read_dataset  # noqa: E402
from DeSAMSegmentLib.data.feature_cache import FeatureCache  # noqa: E402
from DeSAMSegmentLib.engine.events import Finished, SliceDone  # noqa: E402
from DeSAMSegmentLib.engine.options import SegmentOptions  # noqa: E402
from DeSAMSegmentLib.engine.runtime.session import Session  # noqa: E402
from DeSAMSegmentLib.engine.segment.segment import segment  # noqa: E402

GOOD, BAD = 0.8, 0.6


def slice_dice(labels: np.ndarray, ground_truth: np.ndarray, values: list[int]) -> float:
    """The worst Dice of any label of one slice; 1 where it is rightly absent."""
    pairs = [(labels == value, ground_truth == value) for value in values]
    sizes = [int(ours.sum() + theirs.sum()) for ours, theirs in pairs]
    return min(2 * int((a & b).sum()) / n if n else 1.0 for (a, b), n in zip(pairs, sizes, strict=True))


def told(name: str, signal: np.ndarray, dice: np.ndarray) -> str:
    from scipy.stats import spearmanr

    good, bad = signal[dice > GOOD], signal[dice < BAD]
    parts = [f"{name}: Spearman {spearmanr(signal, dice)[0]:.2f}"]
    for words, values, percent in (("good", good, 10), ("bad", bad, 90)):
        if len(values):
            parts.append(f"{words} ({len(values)}) median {np.median(values):.2f}, {percent} % below "
                         f"{np.percentile(values, percent):.2f}")  # fmt: skip
    return "; ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("model")
    parser.add_argument("--cases", default="", help="only cases whose name this regular expression finds")
    parser.add_argument("--mode", choices=("grid", "box"))
    arguments = parser.parse_args()
    options, session = SegmentOptions(mode=arguments.mode, keep_points=True), Session(cache=FeatureCache())
    rows: list[tuple[float, float, float]] = []  # Dice, confidence, predicted IoU
    for case in read_dataset(arguments.dataset).cases:
        if not re.search(arguments.cases, case.name):
            continue
        volume, ground_truth = load_labelled(case)
        events = list(segment(volume, arguments.model, options, session))
        last = events[-1]
        assert isinstance(last, Finished)
        result = last.result
        values = [label.value for label in result.card.labels]
        for event in events:
            if not isinstance(event, SliceDone):
                continue
            ours, theirs = (np.take(array, event.index, result.axis) for array in (result.labels, ground_truth.array))
            iou = max((point.iou for point in event.points), default=np.nan)
            rows.append((slice_dice(ours, theirs, values), event.confidence, iou))
    dice, confidence, iou = np.array(rows).T
    print(f"{len(rows)} slices, Dice median {np.median(dice):.3f}")
    print(told("confidence", confidence, dice))
    asked = np.isfinite(iou)  # not on the box, and not on slices of a single grey
    if asked.any():
        print(told("predicted IoU", iou[asked], dice[asked]))


if __name__ == "__main__":
    main()
