"""The curves of a benchmark, Dice against shift and Dice against points, and pictures of cases under every method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...data.slices import Slices
from ...files import atomic_path
from ..pictures import COLOURS, PAPER, TRUTH
from .scores import Mean

STYLES = ("-", "--", "-.", ":")
MARKERS = "osD^vP*X"

Curve = Sequence[tuple[float, Mean]]


def draw_curves(path: Path, curves: Mapping[str, Curve], xlabel: str, title: str) -> None:
    """One line per method, Dice over ``xlabel``, with the spread between seeds as bars."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, (name, curve) in enumerate(curves.items()):
        known = [(x, each.mean, each.sd or 0.0) for x, each in curve if each.mean is not None]
        axes.errorbar(
            [x for x, _, _ in known],
            [dice for _, dice, _ in known],
            yerr=[sd for _, _, sd in known],
            label=name,
            color=f"C{number}",
            linestyle=STYLES[number // 3 % len(STYLES)],
            marker=MARKERS[number % len(MARKERS)],
            capsize=3,
        )
    axes.set(xlabel=xlabel, ylabel="Dice, all slices", title=title, ylim=(0, 1))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def draw_methods(
    path: Path,
    title: str,
    slices: Slices,
    truth: np.ndarray,
    predictions: Mapping[str, tuple[np.ndarray, float | None]],
) -> None:
    """The slice with the largest organ once per method: truth as a white line, the prediction as an area.

    Arguments:
      truth: (K, J, I) label values. predictions: method -> (K, J, I) label values and the case's Dice.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    areas = [(slices.native_truth(truth, i) > 0).sum() for i in range(len(slices))]
    index = int(np.argmax(areas))
    figure = Figure(figsize=(2.6 * len(predictions), 3.3), dpi=110, facecolor=PAPER)
    FigureCanvasAgg(figure)
    for place, (name, (prediction, dice)) in enumerate(predictions.items(), 1):
        axes = figure.add_subplot(1, len(predictions), place)
        _draw(axes, slices, index, truth, prediction)
        axes.set_title(f"{name}\nDice {'-' if dice is None else f'{dice:.2f}'}", color="white", fontsize=9)
    figure.suptitle(f"{title}, slice {index + 1} of {len(slices)}", color="white", fontsize=11)
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.01, top=0.78, wspace=0.03)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, facecolor=PAPER)


def _draw(axes: Any, slices: Slices, index: int, truth: np.ndarray, prediction: np.ndarray) -> None:
    from matplotlib.colors import to_rgba

    true, mask = slices.native_truth(truth, index), slices.native_truth(prediction, index)
    height, width = slices.pixel_spacing
    axes.imshow(slices.native_image(index), cmap="gray", vmin=0, vmax=255, interpolation="bilinear")
    for place, value in enumerate(np.unique(truth[truth > 0]).tolist()):
        area = np.zeros((*mask.shape, 4))
        area[mask == value] = to_rgba(COLOURS[place % len(COLOURS)], 0.45)
        axes.imshow(area, interpolation="nearest")
        if (true == value).any():
            axes.contour(true == value, levels=[0.5], colors=[TRUTH], linewidths=1.0)
    axes.set_aspect(height / width)
    axes.set_axis_off()
    rows, columns = np.nonzero(true)
    if rows.size:
        side = max(np.ptp(rows), np.ptp(columns), 40)
        axes.set_xlim(max(0, columns.mean() - side), min(true.shape[1] - 1, columns.mean() + side))
        axes.set_ylim(min(true.shape[0] - 1, rows.mean() + side), max(0, rows.mean() - side))
