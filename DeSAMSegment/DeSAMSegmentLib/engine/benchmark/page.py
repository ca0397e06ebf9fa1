"""A report as a list of blocks, written as Markdown and as one HTML file that carries its pictures."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...files import write_text

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #1c1e21; }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3em 0.8em; text-align: right; border-bottom: 1px solid #d8dade; }
th:first-child, td:first-child { text-align: left; }
th { border-bottom: 2px solid #1c1e21; vertical-align: bottom; }
td.best { font-weight: 700; }
img { max-width: 100%; margin: 1em 0; }
"""


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Table:
    """``bold`` holds (row, column) of cells to stand out."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    bold: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True)
class Picture:
    """A PNG under the report's folder."""

    title: str
    path: Path


Block = Heading | Text | Table | Picture


def write_pages(folder: Path, title: str, blocks: Sequence[Block]) -> list[Path]:
    """report.md and report.html; returns their paths."""
    whole = [Heading(title, 1), *blocks]
    markdown, page = folder / "report.md", folder / "report.html"
    write_text(markdown, "\n\n".join(_markdown(block, folder) for block in whole) + "\n")
    body = "\n".join(_html(block) for block in whole)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    write_text(page, f'<!doctype html><html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n')
    return [markdown, page]


def _markdown(block: Block, folder: Path) -> str:
    if isinstance(block, Heading):
        return "#" * block.level + " " + block.text
    if isinstance(block, Text):
        return block.text
    if isinstance(block, Picture):
        return f"![{block.title}]({block.path.relative_to(folder).as_posix()})"
    lines = [list(block.header), ["---"] * len(block.header)]
    for r, row in enumerate(block.rows):
        lines.append([f"**{cell}**" if (r, c) in block.bold else cell for c, cell in enumerate(row)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{html.escape(block.text)}</h{block.level}>"
    if isinstance(block, Text):
        return "".join(f"<p>{html.escape(part)}</p>" for part in block.text.split("\n\n"))
    if isinstance(block, Picture):
        data = base64.b64encode(block.path.read_bytes()).decode()
        return f'<img alt="{html.escape(block.title)}" src="data:image/png;base64,{data}">'
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in block.header)
    rows = []
    for r, row in enumerate(block.rows):
        cells = (
            f'<td class="best">{html.escape(cell)}</td>' if (r, c) in block.bold else f"<td>{html.escape(cell)}</td>"
            for c, cell in enumerate(row)
        )
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
