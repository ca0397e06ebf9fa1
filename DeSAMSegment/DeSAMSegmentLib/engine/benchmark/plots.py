"""The curves of a benchmark, Dice against shift and Dice against points, and pictures of cases under every method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ...data.slices import Slices
from ...files import atomic_path
from ..pictures import INK, PAPER, draw_slice, shown_window
from .scores import Mean

LINES = ("-", "--", "-.", ":")
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
            linestyle=LINES[number // 3 % len(LINES)],
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
    labels: Mapping[int, str],
) -> None:
    """The slice with the largest organ once per method: truth as a white line, the prediction as an area.

    Arguments:
      truth: (K, J, I) label values. predictions: method -> (K, J, I) label values and the case's Dice.
      labels: value -> name.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    areas = [(slices.native_truth(truth, i) > 0).sum() for i in range(len(slices))]
    index = int(np.argmax(areas))
    (top, bottom), sides = shown_window(slices, truth, truth, [index])
    figure = Figure(figsize=(2.6 * len(predictions), 3.3), dpi=110, facecolor=PAPER)
    FigureCanvasAgg(figure)
    for place, (name, (prediction, dice)) in enumerate(predictions.items(), 1):
        axes = figure.add_subplot(1, len(predictions), place)
        draw_slice(axes, slices, index, truth, prediction, labels)
        axes.set(xlim=sides, ylim=(bottom, top))
        axes.set_title(f"{name}\nDice {'-' if dice is None else f'{dice:.2f}'}", color=INK, fontsize=9)
    figure.suptitle(f"{title}, slice {index + 1} of {len(slices)}", color=INK, fontsize=11)
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.01, top=0.78, wspace=0.03)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, facecolor=PAPER)
