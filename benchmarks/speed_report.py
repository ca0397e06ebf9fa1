"""The table, the JSON and the figure of ``speed.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

GROUPS = ("encoder", "grid", "box", "training step", "kept in memory", "features on disk")
NOTES = """
CPU seconds of one side's process, medians of alternating runs; "~": the baseline ran one of its nine equal batches,
times nine. Baseline: `benchmarks/naive.py`, the published decode on the same tensors: features copied per prompt,
context computed per prompt, every mask decoded. Our side's process calls `engine.runtime.allocator.tune_allocator()`;
the baseline's has the C library as it comes, like the published code (decoding hardly gains from it: without it on
either side a run by hand gave 71 for the grid and 126 for the box of ViT-B features).
"Grid" is the mask of the best-scored point, which is what the published evaluation reads; the masks of both sides are
compared pixel by pixel. Weights are random, so logits lie close around zero, and a pixel within rounding of it (1e-5)
can fall on either side. The aim for 32 x 32 points is for the paper's width; at the lite width a slice's context costs
next to nothing, so that the points are nearly all there is to pay for from 9 x 9 on.

Training, 8 slices x 1 point, is the published sampling: nothing is shared there between prompts, both sides do the
same convolutions, at nearly what the processor can do, and what is saved is all the rest. With several points per
slice the context is shared. "Kept in memory" has this project's own code on both sides, with and without what is
kept: PRIM's tokens of a grid (`model/token_cache.py`), and freed memory (`engine/runtime/allocator.py`). Losses are
Dice + BCE + 10 MSE; the optimiser's step is left out on both sides.

segment-anything's automatic mask generator itself needs torchvision and is not run: its mask head on the same points,
in its batches of 64, is.
"""


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| | | baseline | here | ratio | aim | |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        unit = "" if row["baseline"] is None else " s"
        baseline = "" if row["baseline"] is None else f"{'~' if row['scale'] != 1 else ''}{row['baseline']:.3g} s"
        ratio = "" if row["ratio"] is None else f"**{row['ratio']:.3g}**"
        aim = "" if row["target"] is None else f"{row['target']:.3g}"
        cells = (row["group"], row["name"], baseline, f"{row['ours']:.3g}{unit}", ratio, aim, row["same"])
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def curve_table(curves: dict[str, dict[int, float]]) -> str:
    shapes = [name for name in curves if not name.endswith("baseline")]
    if not shapes:
        return ""
    points = list(curves[shapes[0]])
    lines = ["| points | " + " | ".join(map(str, points)) + " |", "|---" * (len(points) + 1) + "|"]
    lines += [f"| {name}, s | " + " | ".join(f"{curves[name][n]:.2f}" for n in points) + " |" for name in shapes]
    return "\n".join(lines)


def memory_table(memory: dict[str, dict[str, float]]) -> str:
    lines = ["| peak memory of the process | baseline | here |", "|---|---|---|"]
    for group, peaks in memory.items():
        cells = [f"{peaks[side] / 2**30:.2f} GiB" if side in peaks else "" for side in ("baseline", "ours")]
        lines.append(f"| {group} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def write(
    folder: Path | None, about: dict[str, Any], rows: list[dict[str, Any]],
    curves: dict[str, dict[int, float]], memory: dict[str, dict[str, float]],
) -> None:  # fmt: skip
    """Prints the report; with a folder also writes speed-cpu.md, .json and .png there.

    Rows that the folder holds from an earlier run and that this one did not measure stay.
    """
    stored = folder / "speed-cpu.json" if folder else None
    if stored is not None and stored.exists():
        rows, curves, memory = merged(json.loads(stored.read_text()), rows, curves, memory)
    facts = ", ".join(f"{name} {value}" for name, value in about.items())
    parts = ["# Speed on a CPU", facts, table(rows), "## Grid points", curve_table(curves)]
    text = "\n\n".join([*parts, "## Memory", memory_table(memory), NOTES.strip()]) + "\n"
    print(text)
    if folder is None:
        return
    folder.mkdir(exist_ok=True)
    (folder / "speed-cpu.md").write_text(text + "\n![](speed-cpu.png)\n")
    everything = {"about": about, "rows": rows, "curves": curves, "memory": memory}
    (folder / "speed-cpu.json").write_text(json.dumps(everything, indent=1) + "\n")
    picture(folder / "speed-cpu.png", rows, curves)


def merged(
    before: dict[str, Any], rows: list[dict[str, Any]],
    curves: dict[str, dict[int, float]], memory: dict[str, dict[str, float]],
) -> tuple[list[dict[str, Any]], dict[str, dict[int, float]], dict[str, dict[str, float]]]:  # fmt: skip
    """An earlier run's figures, with those of this run in their place."""
    every = {(row["group"], row["name"]): row for row in [*before["rows"], *rows]}
    order = {group: place for place, group in enumerate(GROUPS)}
    old_curves = {name: {int(n): s for n, s in curve.items()} for name, curve in before["curves"].items()}
    ranked = sorted(every.values(), key=lambda row: order[row["group"]])
    return ranked, old_curves | curves, before["memory"] | memory


def picture(path: Path, rows: list[dict[str, Any]], curves: dict[str, dict[int, float]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 5.2), width_ratios=(1.25, 1), layout="constrained")
    shown = [row for row in rows if row["ratio"] is not None and row["same"] != "another model"][::-1]
    bars = left.barh([f"{r['group']}: {r['name']}" for r in shown], [r["ratio"] for r in shown], color="#3b7dd8")
    for bar, row in zip(bars, shown, strict=True):
        end = max(row["ratio"], row["target"] or 0) * 1.06
        left.text(end, bar.get_y() + bar.get_height() / 2, f"{row['ratio']:.3g}", va="center", fontsize=8)
        if row["target"]:
            left.plot([row["target"]] * 2, [bar.get_y(), bar.get_y() + bar.get_height()], color="#d8503b", lw=2)
    left.set_xscale("log")
    left.set_xlim(0.8, max(r["ratio"] for r in shown) * 2.2)
    left.set_xlabel("times less CPU time than the baseline (red: aim)")
    left.tick_params(axis="y", labelsize=8)
    names = {"vit_b": "ViT-B features, width 'paper'", "lite_medsam": "lite_medsam features, width 'lite'"}
    for shape, colour in (("vit_b", "#3b7dd8"), ("lite_medsam", "#3ba55d")):
        if shape in curves:
            ours, baseline = curves[shape], curves[f"{shape} baseline"]
            right.loglog(list(ours), list(ours.values()), "o-", color=colour, label=names[shape])
            right.loglog(list(baseline), list(baseline.values()), "--", color=colour, label="  decoded as published")
    right.set_xlabel("grid points per slice")
    right.set_ylabel("CPU seconds per slice, decoder")
    right.set_xticks([1, 9, 25, 81, 169, 1024], ["1", "9", "25", "81", "169", "1024"])
    right.minorticks_off()
    right.grid(alpha=0.3)
    if curves:
        right.legend(fontsize=8)
    figure.savefig(path, dpi=110)
