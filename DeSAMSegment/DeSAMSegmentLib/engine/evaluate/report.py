"""The report of an evaluation: one CSV row per measurement, means as JSON, and a page to read as Markdown."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ...errors import printable
from ...files import write_text
from .scores import Score, write_scores

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
    "painted_percent": "empty slices painted %",
    "missed_percent": "slices missed %",
}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #1c1e21; }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3em 0.8em; text-align: right; border-bottom: 1px solid #d8dade; }
th:first-child, td:first-child { text-align: left; }
th { border-bottom: 2px solid #1c1e21; vertical-align: bottom; }
img { max-width: 100%; margin: 1em 0; }
"""
CONVENTIONS = """\
A label absent in both ground truth and prediction has nothing to measure and is left out of every mean. Absent in one
of the two, its Dice is 0 and its distances are undefined and left out; the number of cases behind each mean is in
summary.json. HD95 is the larger of the two directed 95th percentiles, ASSD the mean over both surfaces, both in
millimetres on the volume's own grid. The volume error of a case is signed; its mean is of absolute values. Painted are
slices without the label where it was found, missed are slices with it where nothing was. What follows ± is the standard
deviation over cases."""


@dataclass(frozen=True)
class EvaluationResult:
    """What ``Finished.result`` holds: one row per case, label and protocol, their means, and what failed."""

    folder: Path
    scores: list[Score] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)  # see ``scores.summarise``
    failed: dict[str, str] = field(default_factory=dict)  # case -> reason


def write_report(result: EvaluationResult, setup: Mapping[str, Any]) -> list[Path]:
    """Writes metrics.csv, summary.json and report.md, each in one piece; returns their paths."""
    table, means = result.folder / "metrics.csv", result.folder / "summary.json"
    write_scores(table, result.scores)
    facts = {"setup": setup, "labels": result.summary, "failed": result.failed}
    write_text(means, json.dumps(facts, indent=1) + "\n")
    return [table, means, write_markdown(result.folder, "Evaluation", page(result, setup))]


def page(result: EvaluationResult, setup: Mapping[str, Any]) -> list[str]:
    """Means first, then every case, then the figures, as blocks of Markdown."""
    scores, summary, failed = result.scores, result.summary, result.failed
    cases = list(dict.fromkeys(score.case for score in scores))
    counts = f"{len(cases)} case{'' if len(cases) == 1 else 's'} scored, {len(failed)} failed."
    blocks = [f"{counts} Source: {plainly(setup['source'])}; {setup['device']}."]
    if remarks := setup.get("remarks"):
        blocks.append("\n".join(f"- {plainly(remark)}" for remark in remarks))
    for protocol in ("labelled", "all"):
        blocks += [f"## {TITLES[protocol]}", _means(summary, protocol)]
    blocks += [f"## {TITLES['reference']}", _reference_means(summary), "## Cases", _cases(scores)]
    if failed:
        rows = [(plainly(case), plainly(reason)) for case, reason in failed.items()]
        blocks += ["## Failed", markdown_table(("case", "reason"), rows)]
    blocks += ["## How to read this", CONVENTIONS]
    drawn = [case for case in cases if (result.folder / "pictures" / f"{case}.png").is_file()]
    return blocks + [f"![{plainly(case)}](pictures/{quote(case)}.png)" for case in drawn]


def _means(summary: Mapping[str, Any], protocol: str) -> str:
    rows = []
    for label, protocols in summary.items():
        measures = protocols[protocol]
        domains = list(measures["dice"]["domains"])
        for domain in domains if len(domains) > 1 else []:
            parts = [measures[each]["domains"][domain] for each in COLUMNS]
            rows.append((plainly(label), plainly(domain) or "-", str(parts[0]["cases"]), *map(spread, parts)))
        whole = [measures[each] for each in COLUMNS]
        rows.append((plainly(label), "**all cases**", str(whole[0]["cases"]), *map(spread, whole)))
        if len(domains) > 1:
            means = [number(part["mean_of_domains"]) for part in whole]
            rows.append((plainly(label), "mean of domains", str(len(domains)), *means))
    return markdown_table(("label", "domain", "cases", *COLUMNS.values()), rows)


def _reference_means(summary: Mapping[str, Any]) -> str:
    rows = []
    for label, protocols in summary.items():
        dice = protocols["reference"]["dice"]
        rows.append((plainly(label), str(dice["cases"]), spread(dice), number(dice["mean_of_domains"])))
    return markdown_table(("label", "cases", "Dice", "mean of domains"), rows)


def _cases(scores: Sequence[Score]) -> str:
    header = ("case", "domain", "label", "slices", *COLUMNS.values(), "Dice on labelled slices", "ground truth ml")
    labelled = {(score.case, score.label): score.dice for score in scores if score.protocol == "labelled"}
    rows = []
    for score in scores:
        if score.protocol == "all":
            metrics = score.metrics
            values = [number(getattr(metrics, each)) for each in COLUMNS]
            both, volume = number(labelled.get((score.case, score.label))), f"{metrics.ground_truth_ml:.1f}"
            where = (plainly(score.case), plainly(score.domain) or "-", plainly(score.label))
            rows.append((*where, str(metrics.slices), *values, both, volume))
    return markdown_table(header, rows)


def spread(part: Mapping[str, Any]) -> str:
    """``mean ± sd`` of statistics, as a cell."""
    return number(part["mean"]) + ("" if part["sd"] is None else f" ± {number(part['sd'])}")


def number(value: float | None) -> str:
    """Three significant places after the point below 10, one above; a dash where undefined."""
    if value is None:
        return "-"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def plainly(text: str) -> str:
    """A name or message in Markdown: what would be markup or HTML in it is shown as it is."""
    return re.sub(r"([*`\[\]])", r"\\\1", printable(text).replace("&", "&amp;").replace("<", "&lt;"))


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; its cells may be emphasised, and are a line each, whatever the names in them."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(printable(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def write_markdown(folder: Path, title: str, blocks: Sequence[str]) -> Path:
    """report.md; returns its path."""
    path = folder / "report.md"
    write_text(path, "\n\n".join([f"# {title}", *blocks]) + "\n")
    return path


def write_html(folder: Path, title: str, blocks: Sequence[str], name: str = "report.html") -> Path:
    """A page of the same blocks as report.md, with its images inside; returns its path.

    Nothing in the name of a case or a site becomes a link, an image or markup.
    """
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    body = "\n".join(_rendered(folder, block) for block in [f"# {title}", *blocks])
    path = folder / name
    write_text(path, f'<!doctype html><html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n')
    return path


def _rendered(folder: Path, block: str) -> str:
    from markdown_it import MarkdownIt  # not among what a panel needs

    if image := re.fullmatch(r"!\[(.*)\]\((.*)\)", block):
        data = base64.b64encode((folder / image[2]).read_bytes()).decode()
        return f'<img alt="{html.escape(image[1])}" src="data:image/png;base64,{data}">'
    page = MarkdownIt("zero").enable(["heading", "table"]).render(block)
    return re.sub(r"<td>\*\*(.*)\*\*</td>", r"<td><strong>\1</strong></td>", page)
