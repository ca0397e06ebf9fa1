"""The picture of an evaluated case: three slices with the truth's outline and the prediction's area."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..data.slices import Slices
from ..files import atomic_path
from .metrics import bounding_box

# Told apart by people with any kind of colour vision, on grey (Okabe and Ito 2008).
COLOURS = ("#56B4E9", "#E69F00", "#CC79A7", "#009E73", "#F0E442", "#D55E00", "#0072B2")
PAPER, INK, TRUTH = "#15181c", "#e8eaed", "#ffffff"


def draw_case(
    path: Path,
    title: str,
    slices: Slices,
    truth: np.ndarray,
    prediction: np.ndarray,
    labels: Mapping[int, str],
    known: np.ndarray | None = None,
) -> None:
    """Draws the slices with the lowest Dice, the median Dice and the largest organ, in true proportions.

    Arguments:
      path: PNG to write.
      truth, prediction: label maps (K, J, I) on the grid of ``slices.volume``.
      labels: value -> name of the labels that were scored.
      known: bool per slice, where truth was drawn; others are not chosen. None = everywhere.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    wanted = list(labels)
    truth, prediction = (
        np.where(np.isin(truth, wanted), truth, 0),
        np.where(np.isin(prediction, wanted), prediction, 0),
    )
    chosen = choose_slices(slices, truth, prediction, known)
    figure = Figure(figsize=(3.6 * len(chosen), 4.4), dpi=120, facecolor=PAPER)
    FigureCanvasAgg(figure)  # an own canvas: no window, no state shared with a host program's pyplot
    window = shown_window(slices, truth, prediction, [index for index, _, _ in chosen])
    for place, (index, why, dice) in enumerate(chosen, start=1):
        axes = figure.add_subplot(1, len(chosen), place)
        draw_slice(axes, slices, index, truth, prediction, labels)
        axes.set_xlim(window[1])
        axes.set_ylim(window[0][::-1])
        axes.set_title(f"slice {index + 1} of {len(slices)} · {why} · Dice {dice:.2f}", color=INK, fontsize=8.5)
    figure.suptitle(title, color=INK, fontsize=12, y=0.985)
    _legend(figure, labels)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.87, bottom=0.1, wspace=0.03)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=PAPER)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def choose_slices(
    slices: Slices, truth: np.ndarray, prediction: np.ndarray, known: np.ndarray | None
) -> list[tuple[int, str, float]]:
    """Up to three different slices as (index, why, Dice of all labels together), in order along the axis."""
    scored = []
    for index in range(len(slices)):
        true, mask = slices.native_truth(truth, index), slices.native_truth(prediction, index)
        if known is not None and not true.any():
            continue
        total = int((true > 0).sum() + (mask > 0).sum())
        if total:
            scored.append((2.0 * int(((true == mask) & (true > 0)).sum()) / total, int((true > 0).sum()), index))
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
    truth: np.ndarray,
    prediction: np.ndarray,
    labels: Mapping[int, str],
) -> None:
    """One slice in mm: the prediction as areas, the truth as lines; ``shown_window`` says which part to look at."""
    from matplotlib.colors import to_rgba

    height, width = _size_mm(slices)
    extent = (0.0, width, height, 0.0)
    axes.imshow(slices.image(index), cmap="gray", vmin=0, vmax=255, extent=extent, interpolation="bilinear")
    true, mask = slices.native_truth(truth, index), slices.native_truth(prediction, index)
    rows, columns = true.shape
    x, y = (np.arange(columns) + 0.5) * width / columns, (np.arange(rows) + 0.5) * height / rows
    for place, value in enumerate(labels):
        colour = COLOURS[place % len(COLOURS)]
        area = np.zeros((*mask.shape, 4))
        area[mask == value] = to_rgba(colour, 0.35)
        axes.imshow(area, extent=extent, interpolation="nearest")
        for array, line, thick in ((mask, colour, 1.6), (true, TRUTH, 0.9)):
            if (array == value).any() and min(array.shape) > 1:
                axes.contour(x, y, array == value, levels=[0.5], colors=[line], linewidths=thick)
    axes.set_axis_off()
    axes.set_aspect("equal")


def _size_mm(slices: Slices) -> tuple[float, float]:
    """Height and width of a slice in mm."""
    rows, columns = slices.native_shape
    height, width = slices.pixel_spacing
    return rows * height, columns * width


def shown_window(
    slices: Slices, truth: np.ndarray, prediction: np.ndarray, chosen: list[int]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """What to show, in mm (top, bottom), (left, right): the labels with a margin, at least 45 % of the slice,
    the same for all pictures of the case.
    """
    size = _size_mm(slices)
    seen = np.zeros(slices.native_shape, bool)
    for index in chosen:
        seen |= (slices.native_truth(truth, index) > 0) | (slices.native_truth(prediction, index) > 0)
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


def _legend(figure: Any, labels: Mapping[int, str]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Line2D([], [], color=TRUTH, linewidth=1.2, label="truth")]
    for place, name in enumerate(labels.values()):
        handles.append(
            Patch(color=COLOURS[place % len(COLOURS)], alpha=0.7, label=f"{name.replace('_', ' ')}, predicted")
        )
    figure.legend(
        handles=handles,
        loc="lower center",
        ncols=min(5, len(handles)),
        frameon=False,
        labelcolor=INK,
        fontsize=9,
    )
