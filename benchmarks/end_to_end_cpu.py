"""``end_to_end.py --device cpu``: volumes from file to file on a CPU, and how the cost of a slice grows.

    python benchmarks/end_to_end.py --device cpu [--slices 100] [--rounds 3] [--only PART ...] [--nnunet PYTHON]

``--nnunet``: a Python that has nnunetv2 (an environment of its own); without it that row is left out.
Writes results/end-to-end-cpu.*.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import naive
import numpy as np
import torch
from DeSAMSegmentLib.data.reading import read_volume
from DeSAMSegmentLib.data.slices import Slices
from DeSAMSegmentLib.engine.options import SegmentOptions, resolve
from DeSAMSegmentLib.engine.runtime import memory
from DeSAMSegmentLib.engine.runtime.loading import DeSAM
from DeSAMSegmentLib.engine.runtime.session import Session
from DeSAMSegmentLib.engine.segment.segment import Segmentation
from DeSAMSegmentLib.files import write_text
from DeSAMSegmentLib.model.types import Features, Prompts

HERE = Path(__file__).resolve().parent
HOME = HERE.parent
DATA = HOME.parent / "shared" / "data"
MODEL = HOME / "DeSAMSegment" / "Resources" / "Models" / "brain-mr.desam"
REAL = {"MR": "Dataset107_Brain/imagesTr/colin27_0000.nii.gz", "CT": "Dataset106_LungLesion/imagesTr/lung2_0000.nii.gz"}
SIZES = {"MR": (1, (217, 181)), "CT": (3, (512, 512))}  # slices per slice of the MR; rows and columns
PARTS = ("MR", "CT", "decoders", "threads", "growth")
SIDES, LABELS, SLICES = (1, 3, 5, 9), (1, 4, 16), (1, 2, 4)
ABOUT = """The model is `brain-mr.desam` (LiteMedSAM, lite width; a box model, whose points are ranked by SAM's own IoU head: on the CT, masks mean nothing and all 81 points may be accepted).
Ours: `desam segment --no-cache`, a process per volume, start included. nnU-Net v2: its predictor on a 2-D plan made by its planner's rules, random weights, mirroring and half-overlapping tiles as it does by default, one thread (more cost more CPU seconds here), start included.
CPU seconds are of all threads; others work on this machine, so that seconds of the wall clock are upper bounds."""  # noqa: E501

ABOUT_DECODERS = """In this process on one thread, in turns. The others have the same encoder and points: segment-anything's own mask decoder, all masks in its generator's batches of 64, and the published decoder at our
width, timed on 9 of its 81 decodes and counted nine times."""  # noqa: E501
ABOUT_THREADS = """Grid, as many slices as there are cores. All threads on one slice was the only way before slices were put side by side: the threads of one operation wait for each other by spinning, and
where other jobs have the cores they mostly spin."""  # noqa: E501


# ---- volumes ----


def make_volume(kind: str, slices: int, path: Path) -> str:
    """Writes a volume of the true size; returns what it is."""
    import SimpleITK as sitk

    count, (rows, columns) = slices * SIZES[kind][0], SIZES[kind][1]
    if not (DATA / REAL[kind]).exists():
        noise = np.random.default_rng(0).normal(400, 150, (count, rows // 16 + 1, columns // 16 + 1))
        blocks = noise.repeat(16, 1).repeat(16, 2)[:, :rows, :columns].astype(np.int16)
        sitk.WriteImage(sitk.GetImageFromArray(blocks), str(path))
        return f"{columns} x {rows} x {count}, synthetic"
    image = sitk.ReadImage(str(DATA / REAL[kind]))
    if kind == "CT":  # along the patient only
        size, spacing = image.GetSize(), image.GetSpacing()
        thick = spacing[2] * (size[2] - 1) / max(1, count - 1)
        grid = (sitk.Transform(), sitk.sitkLinear, image.GetOrigin(), (*spacing[:2], thick), image.GetDirection())
        image = sitk.Resample(image, (*size[:2], count), *grid)
    first = (image.GetDepth() - count) // 2
    sitk.WriteImage(image[:, :, first : first + count], str(path))
    return f"{columns} x {rows} x {count}, {Path(REAL[kind]).name}" + ", resampled along z" * (kind == "CT")


# ---- file to file ----


def child(command: list[str], **environment: str) -> tuple[float, float]:
    """Seconds of the wall clock and of the CPU that a process took."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command} failed:\n{said}")
    return time.perf_counter() - begun, usage.ru_utime + usage.ru_stime


def whole(kind: str, slices: int, folder: Path, options: argparse.Namespace) -> tuple[list[dict[str, Any]], str]:
    volume = folder / f"{kind}.nii.gz"
    about = make_volume(kind, slices, volume)
    count, rows = slices * SIZES[kind][0], list[dict[str, Any]]()
    for mode in ("grid", "box"):
        out = folder / f"{kind}-{mode}.nii.gz"
        command = [sys.executable, "-m", "desam_cli", "segment", str(volume), str(out), "-m", str(MODEL)]
        wall, cpu = child([*command, "--no-cache", "--device", "cpu", "--mode", mode])
        rows.append({"name": f"ours, {mode}", "wall": wall, "cpu": cpu, "slices": count})
        print(rows[-1], flush=True)
    if options.nnunet:
        script, out = HERE / "nnunet_predict.py", folder / f"{kind}-nn.nii.gz"
        wall, cpu = child([str(options.nnunet), str(script), str(volume), str(out)], OMP_NUM_THREADS="1")
        rows.append({"name": "nnU-Net v2, 2-D plan", "wall": wall, "cpu": cpu, "slices": count})
        print(rows[-1], flush=True)
    return rows, about


# ---- in this process, one thread, CPU seconds ----


class Bench:
    """The model, its encoder and slices of the MR."""

    def __init__(self, volume: Path) -> None:
        torch.set_num_threads(1)
        self.session, self.volume = Session("cpu"), read_volume(volume)
        self.model = self.session.model(MODEL)
        self.encoder = self.session.begin_with(self.model.card)

    def with_labels(self, count: int) -> DeSAM:
        """The same decoder ``count`` times over."""
        card = self.model.card
        labels = tuple(replace(card.labels[0], value=k + 1, name=f"{k}") for k in range(count))
        model = DeSAM(replace(self.model.config, labels=count, shared_prim=True))
        own = self.model.tensors()
        first = {name: name for name in model.tensors()}
        for name in first:
            parts = name.split(".")
            parts[1 if parts[0] == "pdmm" else 3 if "iou_heads" in parts else 0] = "0" if len(parts) > 1 else parts[0]
            first[name] = ".".join(parts) if name not in own else name
        model.load_tensors({name: own[source] for name, source in first.items()})
        model.card = replace(card, labels=labels)
        return model.eval()

    def ours(self, mode: str, points: int = 9, labels: int = 1, slices: int = 1) -> float:
        """CPU seconds per slice."""
        model = self.with_labels(labels) if labels > 1 else self.model
        self.session.tokens.__init__()  # type: ignore[misc]
        middle = range((len(self.volume.array) - slices) // 2, (len(self.volume.array) + slices) // 2)
        segmentation = Segmentation(self.volume, model, SegmentOptions(mode=mode, points=points), self.session, middle)
        return seconds(lambda: list(segmentation.events())) / slices

    def threads(self) -> dict[str, tuple[float, float]]:
        """Wall clock and CPU seconds per slice of as many slices as there are cores, by how the cores are used."""
        cores, at_once, found = os.cpu_count() or 1, memory.slices_at_once, {}
        ways = {"one thread": (1, at_once), "slices side by side": (cores, at_once)}
        for name, (threads, rule) in (ways | {"all threads on one slice": (cores, lambda *_: 1)}).items():
            torch.set_num_threads(threads)
            memory.slices_at_once = rule
            begun = time.perf_counter()
            cpu = self.ours("grid", slices=cores)
            found[name] = ((time.perf_counter() - begun) / cores, cpu)
            print(name, found[name], flush=True)
        memory.slices_at_once = at_once
        torch.set_num_threads(1)
        return found

    @torch.inference_mode()
    def theirs(self) -> dict[str, float]:
        """CPU seconds per slice, encoder included, of SAM's own head and of the published decoder."""
        slices = Slices(self.volume, resolve(self.model.card, SegmentOptions())[1])
        image, config = slices.image(len(slices) // 2)[None], self.model.config
        encoding = seconds(lambda: self.encoder.encode(image))
        features = self.encoder.encode(image)
        sys.path.insert(0, str(HOME / "Testing"))
        import formula

        tensors = formula.weights(formula.published_shapes(config.level_widths, config.pdmm_widths))
        decoder = naive.NaiveDecoder(tensors, 9, config.input_size)
        grid = Prompts.grid(9, config.input_size).xy
        assert grid is not None
        return {
            "segment-anything's head": encoding + seconds(lambda: sam_head(decoder, features, grid)),
            "the published way": encoding + 9 * seconds(lambda: decoder.grid(features, grid[:9])),
        }


def sam_head(decoder: naive.NaiveDecoder, features: Features, grid: torch.Tensor) -> None:
    """Every mask of a grid by segment-anything's own decoder, in its generator's batches of 64."""
    for points in grid[:, None].split(64):
        sparse, dense = decoder.prompt_encoder((points, torch.ones(points.shape[:2])), None, None)
        pe = decoder.prompt_encoder.get_dense_pe()
        decoder.mask_decoder(features.neck, pe, sparse, dense, multimask_output=True)


def seconds(work: Callable[[], Any]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def decoders(bench: Bench, rounds: int) -> tuple[dict[str, float], list[str]]:
    """Medians of CPU seconds per slice with 81 points: ours and theirs in turns."""
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, each in ({"ours, grid": bench.ours("grid"), "ours, box": bench.ours("box")} | bench.theirs()).items():
            found.setdefault(name, []).append(each)
        print(found, flush=True)
    medians = {name: statistics.median(each) for name, each in found.items()}
    lines = ["## One slice, encoder included", "", ABOUT_DECODERS, ""]
    lines += ["| | CPU, s | against ours, grid |", "|---|---|---|"]
    return medians, lines + [f"| {name} | {x:.2f} | {x / medians['ours, grid']:.2f} |" for name, x in medians.items()]


def threads(bench: Bench, rounds: int) -> tuple[dict[str, list[float]], list[str]]:
    ways = [bench.threads() for _ in range(rounds)]
    found = {way: [statistics.median(each[way][k] for each in ways) for k in (0, 1)] for way in ways[0]}
    lines = ["## Threads", "", ABOUT_THREADS, "", "| | wall, s per slice | CPU, s per slice |", "|---|---|---|"]
    return found, lines + [f"| {way} | {wall:.2f} | {cpu:.2f} |" for way, (wall, cpu) in found.items()]


def growth(bench: Bench, rounds: int) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Medians of CPU seconds per slice as points, labels and slices grow, in turns."""
    rows: dict[str, dict[str, list[float]]] = {"points": {}, "labels, grid": {}, "labels, box": {}, "slices, grid": {}}
    for _ in range(rounds):
        for side in SIDES:
            rows["points"].setdefault(str(side * side), []).append(bench.ours("grid", side))
        for labels in LABELS:
            for mode in ("grid", "box"):
                rows[f"labels, {mode}"].setdefault(str(labels), []).append(bench.ours(mode, labels=labels))
        for slices in SLICES:
            rows["slices, grid"].setdefault(str(slices), []).append(bench.ours("grid", slices=slices))
        print(rows, flush=True)
    medians = {row: {x: statistics.median(y) for x, y in found.items()} for row, found in rows.items()}
    lines = ["## As it grows", "", "CPU seconds per slice on one thread, on the MR.", ""]
    for name, values in medians.items():
        lines += [f"| {name} | {' | '.join(values)} |", "|---" * (len(values) + 1) + "|"]
        lines += ["| s | " + " | ".join(f"{each:.2f}" for each in values.values()) + " |", ""]
    return medians, [*lines, "![CPU seconds per slice](end-to-end-cpu.png)"]


# ---- report ----


def plot(rows: dict[str, dict[str, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3), layout="constrained")
    groups = {"points": ["points"], "labels": ["labels, grid", "labels, box"], "slices": ["slices, grid"]}
    for axes, (title, names) in zip(figure.subplots(1, 3), groups.items(), strict=True):
        for name in names:
            axes.plot([int(x) for x in rows[name]], list(rows[name].values()), "o-", label=name.split(", ")[-1])
        axes.set(xlabel=title, ylabel="CPU seconds per slice", ylim=(0, None))
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.legend()
    figure.savefig(path, dpi=110)


def table(rows: list[dict[str, Any]]) -> list[str]:
    ours = next(row["cpu"] for row in rows if row["name"] == "ours, grid")
    lines = ["| | wall, s | CPU, s | CPU s per slice | CPU against ours, grid |", "|---" * 5 + "|"]
    for row in rows:
        wall = f"{row['wall']:.0f}" if "wall" in row else ""
        each = f"{row['cpu'] / row['slices']:.2f}"
        lines.append(f"| {row['name']} | {wall} | {row['cpu']:.0f} | {each} | {row['cpu'] / ours:.2f} |")
    return lines


def main(options: argparse.Namespace) -> None:
    load, results, figures = os.getloadavg(), HERE / "results", dict[str, Any]()
    text = ["# A whole volume on a CPU", "", f"{os.cpu_count()} cores, torch {torch.__version__}. {ABOUT}", ""]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in [kind for kind in SIZES if kind in options.only]:
            figures[kind], about = whole(kind, options.slices, folder, options)
            text += [f"## {kind}: {about}", "", *table(figures[kind]), ""]
        make_volume("MR", max(SLICES), folder / "slices.nii.gz")
        bench = Bench(folder / "slices.nii.gz")
        bench.ours("grid")  # the first call chooses kernels
        for part, measure in {"decoders": decoders, "threads": threads, "growth": growth}.items():
            if part in options.only:
                figures[part], lines = measure(bench, options.rounds)
                text += [*lines, ""]
    if left := [part for part in PARTS if part not in options.only]:
        text += [f"Left out of this run: {', '.join(left)}.", ""]
    if not options.nnunet:
        text += ["nnU-Net was left out: no `--nnunet PYTHON` was given.", ""]
    text += [f"{options.rounds} round(s). Load averages before and after: {load[0]:.1f}, {os.getloadavg()[0]:.1f}."]
    print("\n".join(text))
    if not options.print_only:
        if "growth" in figures:
            plot(figures["growth"], results / "end-to-end-cpu.png")
        write_text(results / "end-to-end-cpu.md", "\n".join(text) + "\n")
        write_text(results / "end-to-end-cpu.json", json.dumps(figures, indent=1) + "\n")
