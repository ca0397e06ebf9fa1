"""Speed of every part, as ratios to the published way in the same run.

    python benchmarks/speed.py            about a quarter of an hour; writes benchmarks/results/speed-cpu.*
    python benchmarks/speed.py --quick    a few minutes; prints only
    python benchmarks/speed.py --only training    one group; the other groups' stored figures stay

Each side, this project and the baseline (benchmarks/naive.py), is a process of its own. They take turns, one task
at a time, and what counts is CPU time, so that other jobs on the machine disturb both alike. The final masks, losses
and embeddings of both sides are compared as well.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

NAMES = {"ViT-B": "vit_b", "ViT-H": "vit_h", "lite_medsam": "lite_medsam"}
RESULTS = Path(__file__).resolve().parent / "results"


@dataclass
class Row:
    """One comparison. Seconds are CPU seconds, medians; scale: the baseline ran 1/scale of the work."""

    group: str
    name: str
    baseline: float | None
    ours: float
    same: str = ""
    target: float | None = None
    scale: float = 1.0

    @property
    def ratio(self) -> float | None:
        return None if self.baseline is None else self.baseline / self.ours


class Side:
    """The process of one side."""

    def __init__(self, side: str, threads: int) -> None:
        from speed_tasks import serve

        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, side, threads), daemon=True)
        self.process.start()

    def run(self, task: str, **options: Any) -> dict[str, Any]:
        self.pipe.send((task, options))
        while not self.pipe.poll(1.0):
            if not self.process.is_alive():
                raise RuntimeError(f"the process for {task} {options} died")
        return self.pipe.recv()


class Bench:
    """Runs comparisons and keeps their rows.

    Arguments:
      threads: of each side.
      quick: fewer repetitions, smaller training batches.
      one_batch: of the baseline's nine equal batches of a grid or box only one is run, and counted nine times.
    """

    def __init__(self, threads: int, quick: bool, one_batch: bool) -> None:
        self.threads, self.quick, self.one_batch = threads, quick, one_batch or quick
        self.rows: list[Row] = []
        self.curves: dict[str, dict[int, float]] = {}
        self.memory: dict[str, dict[str, float]] = {}

    @contextmanager
    def sides(self, group: str) -> Iterator[tuple[Side, Side]]:
        """Fresh processes for a group of tasks; their peak memory is the group's."""
        baseline, ours = Side("baseline", self.threads), Side("ours", self.threads)
        self.peaks: dict[str, float] = {}
        try:
            yield baseline, ours
        finally:
            self.memory[group] = self.peaks
            for side in (baseline, ours):
                side.pipe.send(None)
                side.process.join()

    def compare(
        self, pair: tuple[Side, Side], group: str, name: str, task: str, repeats: int,
        *, baseline: dict[str, Any] | None, ours: dict[str, Any], scale: float = 1.0, target: float | None = None,
        baseline_repeats: int | None = None,
    ) -> Row:  # fmt: skip
        """Alternates both sides; the row has the medians and whether the results agree."""
        times: dict[str, list[float]] = {"baseline": [], "ours": []}
        results: dict[str, Any] = {}
        jobs = {"baseline": (pair[0], baseline, baseline_repeats or repeats), "ours": (pair[1], ours, repeats)}
        for turn in range(repeats):
            for key, (side, options, limit) in jobs.items():
                if options is None or turn >= limit:
                    continue
                answer = side.run(task, **options)
                times[key].append(answer["cpu"])
                results[key] = answer["result"]
                self.peaks[key] = answer["peak"]
        median = statistics.median(times["baseline"]) * scale if times["baseline"] else None
        same = agreement(results.get("baseline"), results["ours"])
        row = Row(group, name, median, statistics.median(times["ours"]), same, target, scale)
        self.rows.append(row)
        print(line(row), flush=True)
        return row

    # ---- the groups ----

    def encoders(self) -> None:
        with self.sides("encoder lite_medsam") as pair:
            self.compare(pair, "encoder", "lite_medsam, against its own package", "encode", 3 if self.quick else 7,
                         baseline={"name": "lite_medsam"}, ours={"name": "lite_medsam"}, target=1 / 0.6)  # fmt: skip
        repeats = 1 if self.quick else 3
        with self.sides("encoder vit_b") as pair:
            first = self.compare(pair, "encoder", "ViT-B, float32", "encode", repeats,
                                 baseline={"name": "vit_b"}, ours={"name": "vit_b"}, target=1.5)  # fmt: skip
            half = self.compare(pair, "encoder", "ViT-B, bfloat16", "encode", repeats,
                                baseline=None, ours={"name": "vit_b", "precision": "bf16"}, target=2.5)  # fmt: skip
            half.baseline = first.baseline
        if not self.quick:
            with self.sides("encoder vit_h, a quarter") as pair:
                self.compare(pair, "encoder", "ViT-H, float32 (8 of 32 blocks)", "encode", 1,
                             baseline={"name": "vit_h"}, ours={"name": "vit_h"})  # fmt: skip

    def grids(self) -> None:
        for name, shape in NAMES.items():
            target = None if shape == "lite_medsam" else 45
            with self.sides(f"grid, {name} features") as pair:
                one = self.one_batch or shape != "vit_b"
                # One of nine equal batches stands for all: the one that holds the prompt whose mask is wanted.
                best = pair[1].run("decode_grid", shape=shape, points=81)["result"]["best"]
                part = {"batch": best // 9} if one else {}
                row = self.compare(pair, "grid", f"{name} features, 9 x 9", "decode_grid", 3, target=target,
                                   baseline={"shape": shape, "points": 81, **part},
                                   ours={"shape": shape, "points": 81},
                                   scale=9 if one else 1, baseline_repeats=1)  # fmt: skip
                if shape == "vit_b":
                    # What segment-anything itself would do with these points; it has no DeSAM to compare with.
                    generator = pair[0].run("sam_generator", shape=shape)["cpu"]
                    name = "segment-anything's own mask head, the same 81 points"
                    self.rows.append(Row("grid", name, generator, row.ours, "another model"))
                    print(line(self.rows[-1]), flush=True)
                if shape != "vit_h":
                    self.curve(pair, shape, row)

    def boxes(self) -> None:
        for name, shape in NAMES.items():
            target = None if shape == "lite_medsam" else 120
            with self.sides(f"box, {name} features") as pair:
                one = self.one_batch or shape != "vit_b"
                self.compare(pair, "box", f"{name} features, whole image", "decode_box", 5, target=target,
                             baseline={"shape": shape, **({"batches": 1} if one else {})}, ours={"shape": shape},
                             baseline_repeats=1, scale=9 if one else 1)  # fmt: skip

    def curve(self, pair: tuple[Side, Side], shape: str, row: Row) -> None:
        """Our cost for other numbers of points; the baseline is linear in them."""
        costs = {81: row.ours}
        for points in (1, 9, 25, 169, 1024):
            repeats = 1 if points > 100 else 3
            times = [pair[1].run("decode_grid", shape=shape, points=points)["cpu"] for _ in range(repeats)]
            costs[points] = statistics.median(times)
        self.curves[shape] = dict(sorted(costs.items()))
        self.curves[f"{shape} baseline"] = {points: (row.baseline or 0) / 81 * points for points in self.curves[shape]}
        ratio = costs[1024] / costs[81]
        print(f"  {shape}: " + ", ".join(f"{n}: {s:.2f} s" for n, s in self.curves[shape].items()), flush=True)
        self.rows.append(Row("grid", f"{shape}: 32 x 32 costs so many times 9 x 9 (aim: at most 8)", None, ratio))

    def training(self) -> None:
        shape = {"shape": "vit_b"}
        for slices, points in ((8, 1), (2, 4)) if not self.quick else ((2, 1), (1, 4)):
            name = f"ViT-B features, {slices} slices x {points} points"
            with self.sides(f"training, {name}") as pair:
                options = {**shape, "slices": slices, "points": points}
                self.compare(pair, "training step", name, "train_step", 1 if slices == 8 else 2,
                             baseline=options, ours=options, target=2)  # fmt: skip
        with self.sides("training, lite_medsam, PRIM frozen") as pair:
            options = {"shape": "lite_medsam", "slices": 8 if not self.quick else 2, "points": 2}
            name = f"lite_medsam features, PRIM frozen, {options['slices']} slices x 2 points"
            self.compare(pair, "training step", name, "train_step", 2, baseline=options,
                         ours={**options, "train_prim": False}, target=2)  # fmt: skip

    def kept(self) -> None:
        """What is kept between slices and steps, against this project's own code without it."""
        group = "kept in memory"
        with self.sides("lite_medsam, a slice seen before") as pair:
            options = {"shape": "lite_medsam", "points": 81}
            self.compare(pair, group, "lite_medsam, 9 x 9 on a slice seen before, against its first time",
                         "decode_again", 5, baseline=options, ours=options)  # fmt: skip
        with self.sides("lite_medsam, a training step of our own on both sides") as pair:
            options = {"shape": "lite_medsam", "slices": 2 if self.quick else 8, "points": 1, "train_prim": False}
            self.compare(pair, group, f"training step, {options['slices']} slices x 1 point, allocator tuned, against "
                         "the C library's own way", "own_train_step", 3, baseline=options, ours=options)  # fmt: skip

    def caches(self) -> None:
        with self.sides("cache") as pair:
            for codec in ("float16", "int8"):
                for what in ("write", "read"):
                    self.compare(pair, "features on disk", f"{what}, ViT-H shape, {codec}", "cache",
                                 3 if self.quick else 5, baseline={"what": what},
                                 ours={"what": what, "codec": codec},
                                 target=20 if what == "read" else None)  # fmt: skip


def agreement(theirs: Any, ours: Any) -> str:
    """In words, how far the results of both sides are from each other."""
    import numpy as np

    if theirs is None:
        return ""
    if isinstance(ours, dict) and "loss" in ours:
        return f"loss differs by {abs(ours['loss'] - theirs['loss']):.1e}"
    if isinstance(ours, dict) and "best" in ours:
        first, count = theirs["first"], len(theirs["iou"])
        iou = np.abs(ours["iou"][first : first + count] - theirs["iou"]).max()
        pixels = int((ours["mask"] != theirs["masks"][ours["best"] - first]).sum())
        return f"IoU differs by {iou:.1e}, {pixels} pixels of the final mask differ"
    if isinstance(ours, dict):
        return f"{int((ours['mask'] != theirs['mask']).sum())} pixels of the final mask differ"
    if isinstance(ours, int):
        return f"{theirs / 1e6:.1f} to {ours / 1e6:.1f} MB" if ours > 1e6 else ""
    return f"differs by {np.abs(ours - theirs).max():.1e}"


def line(row: Row) -> str:
    baseline = "" if row.baseline is None else f"{'~' if row.scale != 1 else ''}{row.baseline:.3g} s"
    ratio = "" if row.ratio is None else f"{row.ratio:.3g} x"
    return f"| {row.group} | {row.name} | {baseline} | {row.ours:.3g} s | {ratio} | {row.same} |"


def machine(threads: int) -> dict[str, Any]:
    import torch

    model = platform.processor() or "unknown"
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [text for text in info.read_text().splitlines() if text.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "cpu": model, "cores": os.cpu_count(), "threads": threads, "load_at_start": load,
        "torch": torch.__version__, "python": platform.python_version(), "system": platform.system(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions; results are printed, not written")
    parser.add_argument("--one-batch", action="store_true", help="of nine equal baseline batches run one, times nine")
    parser.add_argument("--threads", type=int, default=1, help="threads of each side (1: CPU time means most)")
    groups = ["encoders", "grids", "boxes", "training", "kept", "caches"]
    parser.add_argument("--only", nargs="*", default=groups, choices=groups, help="some of the groups")
    options = parser.parse_args()
    started, about = time.time(), machine(options.threads)
    bench = Bench(options.threads, options.quick, options.one_batch)
    from speed_report import write

    for group in options.only:
        getattr(bench, group)()
        about["minutes"] = round((time.time() - started) / 60, 1)
        rows = [{**asdict(row), "ratio": row.ratio} for row in bench.rows]
        write(None if options.quick else RESULTS, about, rows, bench.curves, bench.memory)


if __name__ == "__main__":
    main()
