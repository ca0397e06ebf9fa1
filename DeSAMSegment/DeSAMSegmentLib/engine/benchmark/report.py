"""The report of a benchmark: tables as in the paper, curves, differences to the rival, pictures of cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...data.cases import load_labelled, patient_finder
from ...data.slices import Slices, SliceSpec
from ...data.volume import read_labels
from ..training_set import restricted
from .methods import METHODS, TABLE_TITLES, TABLES, Method
from .page import Block, Heading, Picture, Table, Text, write_pages
from .plan import CURVE, REAL, Split
from .plots import draw_curves, draw_methods
from .runs import run_folder
from .scores import Mean, Score, difference, mean

PROTOCOL_TITLES = {"all": "all slices of every volume", "labelled": "labelled slices (the protocol of the paper)"}
HOW_TO_READ = """\
Means are over test cases (and labels), computed for each seed; what follows ± is the standard deviation between seeds.
"mean of domains" gives every site the same weight, "mean of cases" every case: the paper's table can be read both
ways.
A case in which a label is absent in truth and prediction is left out; absent in one of the two, its Dice is 0.

The difference to the rival is of the same cases and seeds, with a 95 % bootstrap interval over patients.
"""


@dataclass(frozen=True)
class Material:
    """What a report is made of.

    Attributes:
      setup: facts about how the numbers came about, title -> text.
      points: grids that were tested; the first is the one of the tables.
      patient_pattern: what tells the patient from a case's name.
      labels: that were trained, value -> name.
    """

    folder: Path
    title: str
    methods: Sequence[Method]
    splits: Sequence[Split]
    seeds: Sequence[int]
    points: Sequence[int]
    scores: Sequence[Score]
    setup: dict[str, str]
    patient_pattern: str = ""
    labels: Mapping[int, str] = field(default_factory=dict)

    def of(self, method: Method, protocol: str = "all", points: int | None = None) -> list[Score]:
        """The scores of a method at the tables' grid, or at another."""
        grid = 0 if method.changes["mode"] == "box" else (points or self.points[0])
        return [
            score
            for score in self.scores
            if score.method == method.id and score.protocol == protocol and score.points == grid
        ]

    def patient(self, case: str) -> str:
        """The patient of a test case, however it was changed."""
        known = (test.case.name for split in self.splits for test in split.test if test.name == case)
        return patient_finder(self.patient_pattern)(next(known, case))


def write_benchmark(material: Material) -> list[Path]:
    """Writes report.md, report.html and what they show; returns the two paths."""
    blocks: list[Block] = [Table(("", ""), [(key, value) for key, value in material.setup.items()])]
    present = {method.id for method in material.methods}
    shown: list[set[str]] = []
    for table, ids in TABLES.items():
        chosen = [METHODS[id] for id in ids if id in present]
        own = {method.id for method in chosen}
        if len(chosen) > 1 and not any(own <= other for other in shown):
            shown.append(own)
            blocks += _table(material, TABLE_TITLES[table], chosen)
    if not shown:
        blocks += _table(material, "All methods", list(material.methods))
    blocks += _differences(material)
    blocks += _shift_curve(material)
    blocks += _points_curve(material)
    blocks += _pictures(material)
    blocks += [Heading("How to read this"), Text(HOW_TO_READ)]
    return write_pages(material.folder, material.title, blocks)


def _table(material: Material, title: str, methods: Sequence[Method]) -> list[Block]:
    blocks: list[Block] = [Heading(title)]
    for protocol, words in PROTOCOL_TITLES.items():
        blocks += [Text(f"Dice, {words}."), dice_table(material, methods, protocol)]
    blocks += [Text("HD95 and ASSD in mm, all slices, outside the training site."), _distances(material, methods)]
    return blocks


def dice_table(material: Material, methods: Sequence[Method], protocol: str) -> Table:
    """A row per method, a column per domain, and the means over what is not the training site."""
    domains = list(dict.fromkeys(domain for split in material.splits for domain in split.domains))
    header = ("method", "seeds", *domains, "mean of cases outside", "mean of domains outside")
    cells: list[list[Mean]] = []
    for method in methods:
        scores = material.of(method, protocol)
        outside = [score for score in scores if score.domain != REAL]
        row = [mean(score for score in scores if score.domain == domain) for domain in domains]
        cells.append([*row, mean(outside), mean(outside, of_domains=True)])
    bold = set()
    for column in range(len(header) - 2):
        known = [(row[column].mean, r) for r, row in enumerate(cells) if row[column].mean is not None]
        if known:
            bold.add((max(known)[1], column + 2))
    rows = [
        [method.title, str(max(each.seeds for each in row)), *map(words, row)]
        for method, row in zip(methods, cells, strict=True)
    ]
    return Table(header, rows, frozenset(bold))


def words(each: Mean, digits: int = 3) -> str:
    """``0.812 ± 0.010``; a dash where nothing is defined."""
    if each.mean is None:
        return "-"
    return f"{each.mean:.{digits}f}" + (f" ± {each.sd:.{digits}f}" if each.sd is not None else "")


def _distances(material: Material, methods: Sequence[Method]) -> Table:
    rows = []
    for method in methods:
        outside = [score for score in material.of(method) if score.domain != REAL]
        values = [words(mean(outside, measure), 1) for measure in ("hd95_mm", "assd_mm", "volume_error_percent")]
        rows.append([method.title, *values])
    return Table(("method", "HD95 mm", "ASSD mm", "volume error %"), rows)


def _differences(material: Material) -> list[Block]:
    rows = []
    for method in material.methods:
        rival = next((each for each in material.methods if each.id == method.rival), None)
        if rival is None:
            continue
        parts = {"outside": lambda s: s.domain != REAL, "training site": lambda s: s.domain == REAL}
        for where, wanted in parts.items():
            found = difference(
                filter(wanted, material.of(method)), filter(wanted, material.of(rival)), material.patient
            )
            if found:
                interval = f"{found.low:+.3f} to {found.high:+.3f}"
                rows.append((method.title, rival.title, where, f"{found.mean:+.3f}", interval, str(found.cases)))
    if not rows:
        return []
    header = ("method", "against", "where", "difference of Dice", "95 % interval", "case x seed x label")
    return [Heading("Differences, case by case"), Table(header, rows)]


def _shift_curve(material: Material) -> list[Block]:
    """Dice against the strength of the mixed shift, for every method."""
    tests = {test.domain: test for split in material.splits for test in split.test}
    strengths = {0.0: REAL} | {test.strength: domain for domain, test in tests.items() if test.effect == CURVE}
    if len(strengths) < 3:
        return []
    curves = {}
    for method in material.methods:
        scores = material.of(method)
        curves[method.title] = [
            (strength, mean(score for score in scores if score.domain == domain))
            for strength, domain in sorted(strengths.items())
        ]
    path = material.folder / "plots" / "shift.png"
    draw_curves(path, curves, "strength of the simulated shift (0 = the training site)", material.title)
    return [Heading("Dice against shift"), Picture("Dice against shift", path)]


def _points_curve(material: Material) -> list[Block]:
    """Dice against grid points per side (Fig. 3 of the paper), outside the training site."""
    if len(material.points) < 3:
        return []
    methods = [method for method in material.methods if method.changes["mode"] == "grid"]
    grids = sorted(material.points)
    curves, rows = {}, []
    for method in methods:
        curve = []
        for points in grids:
            outside = [score for score in material.of(method, points=points) if score.domain != REAL]
            curve.append((float(points), mean(outside)))
        curves[method.title] = curve
        rows.append([method.title, *(words(each) for _, each in curve)])
    if not curves:
        return []
    path = material.folder / "plots" / "points.png"
    draw_curves(path, curves, "grid points per side", material.title)
    table = Table(("Dice, all slices, outside", *(f"{points} x {points}" for points in grids)), rows)
    return [Heading("Number of points, as in Fig. 3 of the paper"), table, Picture("Dice against points", path)]


def _pictures(material: Material) -> list[Block]:
    """Best, median and worst case of the first method outside the training site, under every method."""
    seed, first = material.seeds[0], material.methods[0]
    ranked: dict[tuple[str, str], list[float]] = {}
    for score in material.of(first):
        if score.seed == seed and score.domain != REAL and score.dice is not None:
            ranked.setdefault((score.source, score.case), []).append(score.dice)
    order = sorted(ranked, key=lambda key: sum(ranked[key]) / len(ranked[key]))
    if not order:
        return []
    picks = {"worst": order[0], "median": order[len(order) // 2], "best": order[-1]}
    blocks: list[Block] = [Heading(f"Cases: best, median and worst of {first.title}, seed {seed}")]
    for what, (source, name) in reversed(picks.items()):
        path = material.folder / "pictures" / f"{what}.png"
        _draw_case(material, path, f"{what}: {name}, trained on {source}", source, name, seed)
        blocks.append(Picture(f"{what}: {name}", path))
    return blocks


def _draw_case(material: Material, path: Path, title: str, source: str, name: str, seed: int) -> None:
    split = next(split for split in material.splits if split.source == source)
    test = next(test for test in split.test if test.name == name)
    volume, truth = load_labelled(test.load())
    truth = restricted(truth, list(material.labels))
    predictions: dict[str, Any] = {}
    for method in material.methods[:7]:
        file = run_folder(material.folder, source, method, seed) / "predictions" / f"{name}.nii.gz"
        if file.is_file():
            found = [
                score.dice for score in material.of(method)
                if (score.source, score.seed, score.case) == (source, seed, name) and score.dice is not None
            ]  # fmt: skip
            predictions[method.id] = (read_labels(file).array, sum(found) / len(found) if found else None)
    draw_methods(path, title, Slices(volume, SliceSpec.for_volume(volume)), truth, predictions, material.labels)
