"""The curves of a training run as a picture, drawn without a window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..files import atomic_path


def draw_curves(history: list[dict[str, Any]], path: Path, title: str) -> None:
    """Loss on the left axis, validation Dice on the right, the epoch that is kept marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot: it keeps global state and may open a window inside Slicer
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
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
        kept = [row for row in history if row["best"] and row["validation_dice"] != ""][-1:]
        for row in kept:
            label = f"kept: {row['validation_dice']:.3f} in epoch {row['epoch']}"
            right.plot(row["epoch"], row["validation_dice"], "o", color="tab:red", label=label)
        more_handles, more_labels = right.get_legend_handles_labels()
        handles, labels = handles + more_handles, labels + more_labels
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
