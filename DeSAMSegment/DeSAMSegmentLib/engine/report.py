"""The report of an evaluation: one CSV row per measurement, means as JSON, and a page to read as Markdown."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import write_text
from .metrics import MEASURES, PROTOCOLS, Metrics

TITLES = {
    "labelled": "Labelled slices (the protocol of the paper)",
    "all": "All slices of the volume",
    "reference": "Published code's Dice (256 x 256, without the last labelled slice)",
}
COLUMNS = {
    "dice": "Dice",
    "hd95_mm": "HD95 mm",
    "assd_mm": "ASSD mm",
    "volume_error_percent": "volume error %",
}
CONVENTIONS = """\
A label absent in both truth and prediction has nothing to measure and is left out of every mean. Absent in
one of the two, its Dice is 0 and its distances are undefined and left out; the number of cases behind each
mean is in summary.json. HD95 is the larger of the two directed 95th percentiles, ASSD the mean over both
surfaces, both in millimetres on the volume's own grid. The volume error of a case is signed; its mean is of
absolute values. `sd` is the standard deviation over cases.
"""


@dataclass(frozen=True)
class Row:
    """The measures of one label of one case under one protocol."""

    case: str
    domain: str
    label: str
    protocol: str
    metrics: Metrics


def statistics(values: Iterable[float | None]) -> dict[str, Any]:
    """Mean, standard deviation (n - 1), smallest, largest and number of the defined values; None where
    undefined.
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return {"mean": None, "sd": None, "min": None, "max": None, "cases": 0}
    mean = sum(known) / len(known)
    sd = math.sqrt(sum((value - mean) ** 2 for value in known) / (len(known) - 1)) if len(known) > 1 else None
    return {"mean": mean, "sd": sd, "min": min(known), "max": max(known), "cases": len(known)}


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """label -> protocol -> measure -> statistics over cases, per domain, and the mean of the domains' means.

    The mean of all cases and the mean of domain means differ when domains differ in size; the paper's table
    can be read either way (E-10), so both are given.
    """
    summary: dict[str, Any] = {}
    for label in dict.fromkeys(row.label for row in rows):
        for protocol in PROTOCOLS:
            chosen = [row for row in rows if row.label == label and row.protocol == protocol]
            measures = ("dice",) if protocol == "reference" else MEASURES
            summary.setdefault(label, {})[protocol] = {each: _one_measure(chosen, each) for each in measures}
    return summary


def _one_measure(rows: Sequence[Row], measure: str) -> dict[str, Any]:
    domains = {
        domain: statistics(_value(row, measure) for row in rows if row.domain == domain)
        for domain in dict.fromkeys(row.domain for row in rows)
    }
    means = [each["mean"] for each in domains.values() if each["mean"] is not None]
    return {
        **statistics(_value(row, measure) for row in rows),
        "mean_of_domains": sum(means) / len(means) if means else None,
        "domains": domains,
    }


def _value(row: Row, measure: str) -> float | None:
    """A measure as it enters a mean: the volume error without its sign, or over- and undershoot would cancel."""
    value = getattr(row.metrics, measure)
    return abs(value) if measure == "volume_error_percent" and value is not None else value


def write_report(
    folder: Path,
    rows: Sequence[Row],
    summary: Mapping[str, Any],
    failed: Mapping[str, str],
    setup: Mapping[str, Any],
) -> list[Path]:
    """Writes metrics.csv, summary.json and report.md, each in one piece; returns their paths."""
    files = {
        "metrics.csv": table(rows),
        "summary.json": json.dumps({"setup": setup, "labels": summary, "failed": failed}, indent=1) + "\n",
        "report.md": page(folder, rows, summary, failed, setup),
    }
    for name, text in files.items():
        write_text(folder / name, text)
    return [folder / name for name in files]


def table(rows: Sequence[Row]) -> str:
    """The CSV: one line per case, label and protocol; an undefined value is an empty cell."""
    text = io.StringIO()
    names = list(Metrics().to_dict())
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "domain", "label", "protocol", *names])
    for row in rows:
        values = row.metrics.to_dict()
        cells = ["" if values[name] is None else f"{values[name]:.6g}" for name in names]
        writer.writerow([row.case, row.domain, row.label, row.protocol, *cells])
    return text.getvalue()


def page(
    folder: Path,
    rows: Sequence[Row],
    summary: Mapping[str, Any],
    failed: Mapping[str, str],
    setup: Mapping[str, Any],
) -> str:
    """The Markdown page: means first, then every case, then the pictures."""
    cases = list(dict.fromkeys(row.case for row in rows))
    lines = ["# Evaluation", ""]
    lines += [
        f"{len(cases)} cases scored, {len(failed)} failed. Source: {setup['source']}; {setup['device']}.",
        "",
    ]
    for protocol in ("labelled", "all"):
        lines += [f"## {TITLES[protocol]}", "", *_means(summary, protocol), ""]
    lines += [
        "## " + TITLES["reference"],
        "",
        *_reference_means(summary),
        "",
        "## Cases",
        "",
        *_cases(rows),
        "",
    ]
    if failed:
        lines += ["## Failed", "", *(f"- {case}: {reason}" for case, reason in failed.items()), ""]
    lines += ["## How to read this", "", CONVENTIONS, ""]
    lines += [f"![{case}](pictures/{case}.png)" for case in cases if (folder / "pictures" / f"{case}.png").is_file()]
    return "\n".join(lines) + "\n"


def _means(summary: Mapping[str, Any], protocol: str) -> list[str]:
    lines = _header("label", "domain", "cases", *COLUMNS.values())
    for label, protocols in summary.items():
        measures = protocols[protocol]
        domains = list(measures["dice"]["domains"])
        for domain in domains if len(domains) > 1 else []:
            parts = [measures[each]["domains"][domain] for each in COLUMNS]
            lines.append(_line(label, domain or "-", str(parts[0]["cases"]), *map(spread, parts)))
        whole = [measures[each] for each in COLUMNS]
        lines.append(_line(label, "**all cases**", str(whole[0]["cases"]), *map(spread, whole)))
        if len(domains) > 1:
            means = [number(part["mean_of_domains"]) for part in whole]
            lines.append(_line(label, "mean of domains", str(len(domains)), *means))
    return lines


def _reference_means(summary: Mapping[str, Any]) -> list[str]:
    lines = _header("label", "cases", "Dice", "mean of domains")
    for label, protocols in summary.items():
        dice = protocols["reference"]["dice"]
        lines.append(_line(label, str(dice["cases"]), spread(dice), number(dice["mean_of_domains"])))
    return lines


def _cases(rows: Sequence[Row]) -> list[str]:
    lines = _header("case", "domain", "label", "slices", *COLUMNS.values(), "Dice on labelled slices", "truth ml")
    labelled = {(row.case, row.label): row.metrics.dice for row in rows if row.protocol == "labelled"}
    for row in rows:
        if row.protocol != "all":
            continue
        values = [number(getattr(row.metrics, each)) for each in COLUMNS]
        both = number(labelled.get((row.case, row.label)))
        volume = f"{row.metrics.truth_ml:.1f}"
        lines.append(_line(row.case, row.domain or "-", row.label, str(row.metrics.slices), *values, both, volume))
    return lines


def spread(part: Mapping[str, Any]) -> str:
    """``mean ± sd`` of statistics, as a cell."""
    return number(part["mean"]) + ("" if part["sd"] is None else f" ± {number(part['sd'])}")


def number(value: float | None) -> str:
    """Three significant places after the point below 10, one above; a dash where undefined."""
    if value is None:
        return "-"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _header(*titles: str) -> list[str]:
    return [_line(*titles), "|" + "|".join("---" for _ in titles) + "|"]


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
