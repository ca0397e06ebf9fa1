"""The report of a benchmark: tables as in the paper, curves, differences to a baseline, example cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from DeSAMSegmentLib.data.cases import load_labelled, patient_finder
from DeSAMSegmentLib.data.labels import Matcher, drawn
from DeSAMSegmentLib.data.reading import read_labels
from DeSAMSegmentLib.data.slices import Slices, SliceSpec
from DeSAMSegmentLib.engine.evaluate.report import markdown_table, write_html, write_markdown
from DeSAMSegmentLib.engine.evaluate.scores import Score
from DeSAMSegmentLib.engine.figures import INK, PAPER, draw_slice, drawing, shown_window

from .methods import METHODS, TABLES, Method
from .plan import CURVE, REAL, BenchmarkOptions, Run
from .scores import Mean, difference, mean

LINES = ("-", "--", "-.", ":")
MARKERS = "osD^vP*X"
PROTOCOL_TITLES = {"all": "all slices of every volume", "labelled": "labelled slices (the protocol of the paper)"}
HOW_TO_READ = """\
Means are over test cases (and labels), computed for each seed; what follows ± is the standard deviation between seeds.
"mean of domains" gives every site the same weight, "mean of cases" every case: the paper's table can be read both
ways.
A case in which a label is absent in ground truth and prediction is left out; absent in one of the two, its Dice is 0.

The difference to the baseline is of the same cases and seeds, with a 95 % bootstrap interval over patients.
"""


@dataclass(frozen=True)
class Material:
    """What a report is made of.

    Attributes:
      options: of the methods, those that have runs.
      labels: that were trained, value -> name.
      setup: facts about how the numbers came about, title -> text.
    """

    folder: Path
    options: BenchmarkOptions
    labels: Mapping[int, str]
    scores: Sequence[Score]
    setup: Mapping[str, str]

    def of(self, method: Method, protocol: str = "all", points: int | None = None) -> list[Score]:
        """The scores of a method at the tables' grid, or at another."""
        wanted = (method.id, protocol, points or self.options.grids(method)[0])
        return [score for score in self.scores if (score.method, score.protocol, score.points) == wanted]

    def patient(self, case: str) -> str:
        """The patient of a test case, however it was changed."""
        known = (test.case.name for split in self.options.splits for test in split.test if test.name == case)
        return patient_finder(self.options.train.patient_pattern)(next(known, case))


def outside(scores: Sequence[Score]) -> list[Score]:
    """Those outside the training site."""
    return [score for score in scores if score.domain != REAL]


def dice_of_cases(scores: Sequence[Score], seed: int) -> dict[tuple[str, str], float]:
    """(source, case) -> Dice over the labels, of one method."""
    found: dict[tuple[str, str], list[float]] = {}
    for score in scores:
        if score.seed == seed and score.dice is not None:
            found.setdefault((score.source, score.case), []).append(score.dice)
    return {case: sum(dice) / len(dice) for case, dice in found.items()}


def write_benchmark(material: Material) -> list[Path]:
    """Writes report.md, report.html and what they show; returns the two paths."""
    methods, title = material.options.methods, material.options.title
    blocks = [markdown_table(("", ""), list(material.setup.items()))]
    shown: list[set[str]] = []
    for heading, ids in TABLES.values():
        chosen = [METHODS[id] for id in ids if METHODS[id] in methods]
        own = {method.id for method in chosen}
        if len(chosen) > 1 and not any(own <= other for other in shown):
            shown.append(own)
            blocks += _table(material, heading, chosen)
    if not shown:
        blocks += _table(material, "All methods", methods)
    blocks += _differences(material)
    blocks += _shift_curve(material)
    blocks += _points_curve(material)
    blocks += _pictures(material)
    blocks += ["## How to read this", HOW_TO_READ]
    return [write(material.folder, title, blocks) for write in (write_markdown, write_html)]


def _table(material: Material, title: str, methods: Sequence[Method]) -> list[str]:
    blocks = [f"## {title}"]
    for protocol, words in PROTOCOL_TITLES.items():
        blocks += [f"Dice, {words}.", dice_table(material, methods, protocol)]
    return [*blocks, "HD95 and ASSD in mm, all slices, outside the training site.", _distances(material, methods)]


def dice_table(material: Material, methods: Sequence[Method], protocol: str) -> str:
    """A row per method, a column per domain, and the means over what is not the training site."""
    domains = list(dict.fromkeys(domain for split in material.options.splits for domain in split.domains))
    cells: list[list[Mean]] = []
    for method in methods:
        scores = material.of(method, protocol)
        row = [mean(score for score in scores if score.domain == domain) for domain in domains]
        cells.append([*row, mean(outside(scores)), mean(outside(scores), of_domains=True)])
    columns = zip(*cells, strict=True)
    best = [max((each.mean for each in column if each.mean is not None), default=None) for column in columns]
    rows = []
    for method, row in zip(methods, cells, strict=True):
        words = [
            f"**{mean_words(each)}**" if each.mean == top is not None else mean_words(each)
            for each, top in zip(row, best, strict=True)
        ]
        rows.append([method.title, str(max(each.seeds for each in row)), *words])
    return markdown_table(("method", "seeds", *domains, "mean of cases outside", "mean of domains outside"), rows)


def mean_words(each: Mean, digits: int = 3) -> str:
    """``0.812 ± 0.010``; a dash where nothing is defined."""
    if each.mean is None:
        return "-"
    return f"{each.mean:.{digits}f}" + (f" ± {each.sd:.{digits}f}" if each.sd is not None else "")


def _distances(material: Material, methods: Sequence[Method]) -> str:
    rows = []
    for method in methods:
        scores = outside(material.of(method))
        values = [mean_words(mean(scores, measure), 1) for measure in ("hd95_mm", "assd_mm", "volume_error_percent")]
        rows.append([method.title, *values])
    return markdown_table(("method", "HD95 mm", "ASSD mm", "volume error %"), rows)


def _differences(material: Material) -> list[str]:
    rows = []
    present = {method.id: method for method in material.options.methods}
    for method in [each for each in present.values() if each.baseline in present]:
        baseline = present[method.baseline]
        for where, at_home in (("outside", False), ("training site", True)):
            ours, theirs = (
                [score for score in material.of(each) if (score.domain == REAL) == at_home]
                for each in (method, baseline)
            )
            found = difference(ours, theirs, material.patient)
            if found:
                interval = f"{found.low:+.3f} to {found.high:+.3f}"
                rows.append((method.title, baseline.title, where, f"{found.mean:+.3f}", interval, str(found.cases)))
    if not rows:
        return []
    header = ("method", "against", "where", "difference of Dice", "95 % interval", "case x seed x label")
    return ["## Differences, case by case", markdown_table(header, rows)]


def _shift_curve(material: Material) -> list[str]:
    """Dice against the strength of the mixed shift, for every method."""
    tests = {test.domain: test for split in material.options.splits for test in split.test}
    strengths = {0.0: REAL} | {test.strength: domain for domain, test in tests.items() if test.effect == CURVE}
    if len(strengths) < 3:
        return []
    curves = {
        method.title: [
            (strength, mean(score for score in material.of(method) if score.domain == domain))
            for strength, domain in sorted(strengths.items())
        ]
        for method in material.options.methods
    }
    xlabel = "strength of the simulated shift (0 = the training site)"
    draw_dice_curves(material.folder / "plots" / "shift.png", curves, xlabel, material.options.title)
    return ["## Dice against shift", "![Dice against shift](plots/shift.png)"]


def _points_curve(material: Material) -> list[str]:
    """Dice against grid points per side (Fig. 3 of the paper), outside the training site."""
    grids = sorted(material.options.points)
    curves = {
        method.title: [(float(points), mean(outside(material.of(method, points=points)))) for points in grids]
        for method in material.options.methods
        if method.changes["mode"] == "grid"
    }
    if len(grids) < 3 or not curves:
        return []
    path = material.folder / "plots" / "points.png"
    draw_dice_curves(path, curves, "grid points per side", material.options.title)
    rows = [[title, *(mean_words(each) for _, each in curve)] for title, curve in curves.items()]
    table = markdown_table(("Dice, all slices, outside", *(f"{points} x {points}" for points in grids)), rows)
    return ["## Number of points, as in Fig. 3 of the paper", table, "![Dice against points](plots/points.png)"]


def _pictures(material: Material) -> list[str]:
    """Best, median and worst case of the first method outside the training site, under every method."""
    seed, first = material.options.seeds[0], material.options.methods[0]
    ranked = dice_of_cases(outside(material.of(first)), seed)
    order = sorted(ranked, key=lambda case: ranked[case])
    if not order:
        return []
    blocks = [f"## Cases: best, median and worst of {first.title}, seed {seed}"]
    for what, place in {"best": -1, "median": len(order) // 2, "worst": 0}.items():
        source, name = order[place]
        path = material.folder / "pictures" / f"{what}.png"
        _draw_case(material, path, f"{what}: {name}, trained on {source}", source, name, seed)
        blocks.append(f"![{what}: {name}](pictures/{what}.png)")
    return blocks


def _draw_case(material: Material, path: Path, title: str, source: str, name: str, seed: int) -> None:
    test = next(test for split in material.options.splits for test in split.test if test.name == name)
    volume, labels = load_labelled(test.load())
    matcher = Matcher(list(material.labels.values()), list(material.labels))
    predictions: dict[str, tuple[np.ndarray, float | None]] = {}
    for method in material.options.methods[:7]:
        file = Run(material.folder, method, source, seed).prediction_path(name)
        if file.is_file():
            dice = dice_of_cases(material.of(method), seed).get((source, name))
            predictions[method.id] = (matcher.members(name, read_labels(file)), dice)
    slices, ground_truth = Slices(volume, SliceSpec.for_volume(volume)), matcher.members(name, labels)
    draw_methods(path, title, slices, ground_truth, predictions, matcher.labels)


# ---- figures ------------------------------------------------------------------------------------------------------


def draw_dice_curves(path: Path, curves: Mapping[str, Sequence[tuple[float, Mean]]], xlabel: str, title: str) -> None:
    """One line per method, Dice over ``xlabel``, with the spread between seeds as bars."""
    with drawing(path, figsize=(8, 4.8), layout="constrained") as figure:
        axes = figure.subplots()
        for number, (name, curve) in enumerate(curves.items()):
            known = [(x, each.mean, each.sd or 0.0) for x, each in curve if each.mean is not None]
            x, dice, sd = zip(*known, strict=True) if known else ((), (), ())
            look = {"linestyle": LINES[number // 3 % len(LINES)], "marker": MARKERS[number % len(MARKERS)]}
            axes.errorbar(x, dice, yerr=sd, label=name, color=f"C{number}", capsize=3, **look)
        axes.set(xlabel=xlabel, ylabel="Dice, all slices", title=title, ylim=(0, 1))
        axes.grid(alpha=0.3)
        figure.legend(loc="outside right center", frameon=False)


def draw_methods(
    path: Path,
    title: str,
    slices: Slices,
    ground_truth: np.ndarray,
    predictions: Mapping[str, tuple[np.ndarray, float | None]],
    labels: Sequence[str],
) -> None:
    """The slice with the largest organ once per method: ground truth as a white line, the prediction as an area.

    Arguments:
      ground_truth: (K, J, I) memberships. predictions: method -> (K, J, I) memberships and the case's Dice.
      labels: their names.
    """
    areas = [drawn(slices.native_labels(ground_truth, i)).sum() for i in range(len(slices))]
    index = int(np.argmax(areas))
    (top, bottom), sides = shown_window(slices, ground_truth, ground_truth, [index])
    with drawing(path, figsize=(2.6 * len(predictions), 3.3), dpi=110, facecolor=PAPER) as figure:
        for place, (name, (prediction, dice)) in enumerate(predictions.items(), 1):
            axes = figure.add_subplot(1, len(predictions), place)
            draw_slice(axes, slices, index, ground_truth, prediction, labels)
            axes.set(xlim=sides, ylim=(bottom, top))
            axes.set_title(f"{name}\nDice {'-' if dice is None else f'{dice:.2f}'}", color=INK, fontsize=9)
        figure.suptitle(f"{title}, slice {slices.index(index)} (0 to {len(slices) - 1})", color=INK, fontsize=11)
        figure.subplots_adjust(left=0.005, right=0.995, bottom=0.01, top=0.78, wspace=0.03)
