"""What was measured, one row per case, label and protocol, and the means of it. Benchmarks have the same rows."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ...errors import BadInput
from ...files import write_text
from .metrics import MEASURES, PRESENCE, PROTOCOLS, Metrics

COLUMNS = ("case", "domain", "label", "protocol")
RUN_COLUMNS = ("source", "method", "seed", "points")  # of a benchmark's rows, before the others


@dataclass(frozen=True)
class Score:
    """The measures of one label of one case under one protocol.

    source, method, seed, points: which run of a benchmark made it: its training domain, method, seed, and grid points
      per side, 0 for the whole box.
    """

    case: str
    domain: str
    label: str
    protocol: str
    metrics: Metrics
    source: str = ""
    method: str = ""
    seed: int = 0
    points: int = 0

    @property
    def dice(self) -> float | None:
        return self.metrics.dice

    def value(self, measure: str) -> float | None:
        """A measure as it enters a mean: the volume error without its sign, or over- and undershoot would cancel."""
        found = getattr(self.metrics, measure)
        return abs(found) if measure == "volume_error_percent" and found is not None else found


def write_scores(path: Path, scores: Sequence[Score], of_runs: bool = False) -> None:
    """As CSV; an undefined value is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    where = (*RUN_COLUMNS, *COLUMNS) if of_runs else COLUMNS
    measured = [each.name for each in fields(Metrics)]
    writer.writerow([*where, *measured])
    for score in scores:
        values = [getattr(score.metrics, name) for name in measured]
        cells = ["" if value is None else f"{value:.6g}" for value in values]
        writer.writerow([*(getattr(score, name) for name in where), *cells])
    write_text(path, text.getvalue())


def read_scores(path: Path) -> list[Score]:
    """The inverse of ``write_scores``; columns that are not there have their defaults.

    Raises:
      BadInput: for a damaged file.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [_score(row) for row in csv.DictReader(file)]
    except (ValueError, KeyError, TypeError, csv.Error):
        raise BadInput(f"{path} is damaged.", "Delete it: this run is then tested again.") from None


def _score(row: dict[str, str]) -> Score:
    if None in row.values():
        raise ValueError("a row is cut short")
    measured = {each.name: each for each in fields(Metrics)}
    numbers: dict[str, Any] = {
        name: float(row[name]) if row[name] else None for name in measured if name in row and name != "slices"
    }
    if not set(MEASURES) - set(PRESENCE) <= numbers.keys():  # presence is younger than some tables
        raise ValueError("a measure is missing")
    run = {name: row[name] if name in ("source", "method") else int(row[name]) for name in RUN_COLUMNS if name in row}
    metrics = Metrics(**numbers, slices=int(row.get("slices") or 0))
    case, domain, label, protocol = (row[name] for name in COLUMNS)
    return Score(case, domain, label, protocol, metrics, **run)  # type: ignore[arg-type]


def by_label(scores: Iterable[Score]) -> dict[str, dict[str, dict[str, Any]]]:
    """Label -> protocol -> metrics of one case, as events carry them."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for score in scores:
        found.setdefault(score.label, {})[score.protocol] = asdict(score.metrics)
    return found


# ---- means ----------------------------------------------------------------------------------------------------------


def statistics(values: Iterable[float | None]) -> dict[str, Any]:
    """Mean, standard deviation (n - 1), smallest, largest and number of the defined values; None where undefined."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return {"mean": None, "sd": None, "min": None, "max": None, "cases": 0}
    mean = sum(known) / len(known)
    sd = math.sqrt(sum((value - mean) ** 2 for value in known) / (len(known) - 1)) if len(known) > 1 else None
    return {"mean": mean, "sd": sd, "min": min(known), "max": max(known), "cases": len(known)}


def summarise(scores: Sequence[Score]) -> dict[str, Any]:
    """label -> protocol -> measure -> statistics over cases, per domain, and the mean of the domains' means.

    The mean of all cases and the mean of domain means differ when domains differ in size; the paper's table
    can be read either way, so both are given.
    """
    summary: dict[str, Any] = {}
    for label in dict.fromkeys(score.label for score in scores):
        for protocol in PROTOCOLS:
            chosen = [score for score in scores if score.label == label and score.protocol == protocol]
            measures = ("dice",) if protocol == "reference" else MEASURES
            summary.setdefault(label, {})[protocol] = {each: _one_measure(chosen, each) for each in measures}
    return summary


def _one_measure(scores: Sequence[Score], measure: str) -> dict[str, Any]:
    domains = {
        domain: statistics(score.value(measure) for score in scores if score.domain == domain)
        for domain in dict.fromkeys(score.domain for score in scores)
    }
    means = [each["mean"] for each in domains.values() if each["mean"] is not None]
    return {
        **statistics(score.value(measure) for score in scores),
        "mean_of_domains": sum(means) / len(means) if means else None,
        "domains": domains,
    }
