"""Figures as PNG files, drawn without a window: an evaluated case, and the curves of a training run.

matplotlib is imported when something is drawn, and never its pyplot, which keeps global state and may open a window
inside Slicer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..data.labels import drawn, has, ignored
from ..data.slices import Slices
from ..files import atomic_path
from .evaluate.metrics import bounding_box

# Told apart by people with any kind of colour vision, on grey (Okabe and Ito 2008).
COLOURS = ("#56B4E9", "#E69F00", "#CC79A7", "#009E73", "#F0E442", "#D55E00", "#0072B2")
PAPER, INK, GROUND_TRUTH = "#15181c", "#e8eaed", "#ffffff"


@contextmanager
def drawing(path: Path, **figure: Any) -> Iterator[Any]:
    """A new matplotlib figure, written as PNG to ``path`` when the block ends.

    Arguments:
      figure: as matplotlib's Figure takes them.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(**{"dpi": 120, **figure})
    FigureCanvasAgg(made)
    yield made
    with atomic_path(path) as temporary:
        made.savefig(temporary, format="png", facecolor=made.get_facecolor())


# ---- an evaluated case ----------------------------------------------------------------------------------------------


def draw_case(
    path: Path,
    title: str,
    slices: Slices,
    ground_truth: np.ndarray,
    prediction: np.ndarray,
    labels: Sequence[str],
    known: np.ndarray | None = None,
) -> None:
    """The slices with the lowest Dice, the median Dice and the largest organ, in true proportions.

    Arguments:
      path: PNG to write.
      ground_truth, prediction: memberships (K, J, I) on the grid of ``slices.volume``.
      labels: names of the labels that were scored.
      known: bool per slice, where there is ground truth; others are not chosen. None = everywhere.
    """
    chosen = choose_slices(slices, ground_truth, prediction, known)
    window = shown_window(slices, ground_truth, prediction, [index for index, _, _ in chosen])
    with drawing(path, figsize=(3.6 * len(chosen), 4.4), facecolor=PAPER) as figure:
        for place, (index, why, dice) in enumerate(chosen, start=1):
            axes = figure.add_subplot(1, len(chosen), place)
            draw_slice(axes, slices, index, ground_truth, prediction, labels)
            axes.set_xlim(window[1])
            axes.set_ylim(window[0][::-1])
            heading = f"slice {slices.index(index)} (0 to {len(slices) - 1}) · {why} · Dice {dice:.2f}"
            axes.set_title(heading, color=INK, fontsize=8.5)
        figure.suptitle(title, color=INK, fontsize=12, y=0.985)
        _legend(figure, labels)
        figure.subplots_adjust(left=0.01, right=0.99, top=0.87, bottom=0.1, wspace=0.03)


def choose_slices(
    slices: Slices, ground_truth: np.ndarray, prediction: np.ndarray, known: np.ndarray | None
) -> list[tuple[int, str, float]]:
    """Up to three different slices as (index, why, Dice of all labels together), in order along the axis."""
    scored = []
    for index in range(len(slices)):
        target, mask = slices.native_labels(ground_truth, index), slices.native_labels(prediction, index)
        area, found = int(drawn(target).sum()), int((drawn(mask) & ~ignored(target)).sum())
        if known is not None and not area:
            continue
        if area + found:
            scored.append((2.0 * int(drawn(target & mask).sum()) / (area + found), area, index))
    if not scored:
        return [(len(slices) // 2, "no label", 1.0)]
    by_dice = sorted(scored)
    picks = {
        max(scored, key=lambda each: each[1])[2]: "largest area",
        by_dice[len(by_dice) // 2][2]: "median Dice",
        by_dice[0][2]: "lowest Dice",
    }
    dice = {index: value for value, _, index in scored}
    return [(index, picks[index], dice[index]) for index in sorted(picks)]


def draw_slice(
    axes: Any,
    slices: Slices,
    index: int,
    ground_truth: np.ndarray,
    prediction: np.ndarray,
    labels: Sequence[str],
) -> None:
    """One slice in mm: the prediction as areas, ground truth as lines; ``shown_window`` says which part to look at."""
    from matplotlib.colors import to_rgba

    height, width = _size_mm(slices)
    extent = (0.0, width, height, 0.0)
    axes.imshow(slices.image(index), cmap="gray", vmin=0, vmax=255, extent=extent, interpolation="bilinear")
    target, mask = slices.native_labels(ground_truth, index), slices.native_labels(prediction, index)
    rows, columns = target.shape
    x, y = (np.arange(columns) + 0.5) * width / columns, (np.arange(rows) + 0.5) * height / rows
    for number in range(len(labels)):
        colour = COLOURS[number % len(COLOURS)]
        area = np.zeros((*mask.shape, 4))
        area[has(mask, number)] = to_rgba(colour, 0.35)
        axes.imshow(area, extent=extent, interpolation="nearest")
        for members, line, thick in ((mask, colour, 1.6), (target, GROUND_TRUTH, 0.9)):
            inside = has(members, number)
            if inside.any() and min(inside.shape) > 1:
                axes.contour(x, y, inside, levels=[0.5], colors=[line], linewidths=thick)
    axes.set_axis_off()
    axes.set_aspect("equal")


def _size_mm(slices: Slices) -> tuple[float, float]:
    """Height and width of a slice in mm."""
    rows, columns = slices.native_shape
    height, width = slices.pixel_spacing
    return rows * height, columns * width


def shown_window(
    slices: Slices, ground_truth: np.ndarray, prediction: np.ndarray, chosen: list[int]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """What to show, in mm (top, bottom), (left, right): the labels with a margin, at least 45 % of the slice,
    the same for all slices of the case.
    """
    size = _size_mm(slices)
    seen = np.zeros(slices.native_shape, bool)
    for index in chosen:
        seen |= drawn(slices.native_labels(ground_truth, index)) | drawn(slices.native_labels(prediction, index))
    if not seen.any():
        return (0.0, size[0]), (0.0, size[1])
    spacing = slices.pixel_spacing
    centres, spans = [], []
    for axis, part in enumerate(bounding_box(seen)):
        centres.append((part.start + part.stop) / 2 * spacing[axis])
        spans.append((part.stop - part.start) * spacing[axis])
    side = max(1.5 * max(spans), 0.45 * max(size))
    ranges = []
    for centre, whole in zip(centres, size, strict=True):
        span = min(side, whole)
        low = min(max(0.0, centre - span / 2), whole - span)
        ranges.append((low, low + span))
    return ranges[0], ranges[1]


def _legend(figure: Any, labels: Sequence[str]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Line2D([], [], color=GROUND_TRUTH, linewidth=1.2, label="ground truth")]
    for place, name in enumerate(labels):
        colour = COLOURS[place % len(COLOURS)]
        handles.append(Patch(color=colour, alpha=0.7, label=f"{name.replace('_', ' ')}, predicted"))
    style = {"frameon": False, "labelcolor": INK, "fontsize": 9}
    figure.legend(handles=handles, loc="lower center", ncols=min(5, len(handles)), **style)


# ---- a training run -------------------------------------------------------------------------------------------------


def draw_training_curves(history: list[dict[str, Any]], path: Path, title: str) -> None:
    """Loss on the left axis, validation Dice on the right, the epoch that is kept marked."""
    from matplotlib.ticker import MaxNLocator

    with drawing(path, figsize=(7, 4), layout="constrained") as figure:
        axes = figure.subplots()
        epochs = [row["epoch"] for row in history]
        axes.plot(epochs, [row["loss"] for row in history], color="tab:blue", label="training loss")
        axes.set(xlabel="epoch", ylabel="loss", title=title, ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        validated = [(row["epoch"], row["validation_dice"]) for row in history if row["validation_dice"] != ""]
        handles, labels = axes.get_legend_handles_labels()
        if validated:
            right = axes.twinx()
            right.plot(*zip(*validated, strict=True), color="tab:orange", marker=".", label="validation Dice (3-D)")
            right.set(ylabel="Dice", ylim=(0, 1))
            for row in [row for row in history if row["best"] and row["validation_dice"] != ""][-1:]:
                label = f"kept: {row['validation_dice']:.3f} in epoch {row['epoch']}"
                right.plot(row["epoch"], row["validation_dice"], "o", color="tab:red", label=label)
            more_handles, more_labels = right.get_legend_handles_labels()
            handles, labels = handles + more_handles, labels + more_labels
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        axes.grid(alpha=0.3)
