"""The page about an archive: how many cases are done, which failed and what helps, and the ones to look at first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from DeSAMSegmentLib.engine.options import SegmentOptions, resolve
from DeSAMSegmentLib.errors import printable
from DeSAMSegmentLib.files import scratch_folder
from DeSAMSegmentLib.store.card import ModelCard, utc_now

from .manifest import Record, read_manifests
from .tree import TreeTarget

SHOWN = 12  # cases with a picture
LISTED = 200  # cases in a table


def write_summary(
    folder: Path, title: str, cases: Sequence[TreeTarget], card: ModelCard, options: SegmentOptions
) -> Path:
    """summary.html of a tree's cases, of all parts; its path. Pictures: volumes and segmentations are read again."""
    from DeSAMSegmentLib.engine.evaluate.report import markdown_table, write_html

    known = read_manifests(folder)
    found = [(each, known[each.output]) for each in cases if each.output in known]
    failed = [record for _, record in found if record.error]
    done = sorted(((case, record) for case, record in found if not record.error), key=lambda each: each[1].confidence)
    flagged = sum(1 for _, record in done if record.flagged)
    blocks = [
        f"{len(cases)} volumes: {len(done)} segmented, of them {flagged} with slices flagged for review; "
        f"{len(failed)} failed, {len(cases) - len(found)} not begun. Model {card.title or card.name}. {utc_now()}."
    ]
    if failed:
        reasons = [(printable(each.input), each.error, each.remedy) for each in failed[:LISTED]]
        blocks += [f"## Failed ({len(failed)})", markdown_table(("volume", "what happened", "what to do"), reasons)]
    names = [label.name for label in card.labels]
    header = ("segmentation", "lowest confidence", "at slice", "flagged slices", *(f"{name} ml" for name in names))
    rows = [
        (printable(each.output), f"{each.confidence:.2f}", str(each.lowest), f"{len(each.flagged)} of {each.slices}",
         *(f"{each.millilitres.get(name, 0):.1f}" for name in names))
        for _, each in done[:LISTED]
    ]  # fmt: skip
    blocks += ["## Segmented, the least sure first", markdown_table(header, rows)]
    if notes := [(printable(each.input), each.note) for _, each in done if each.note][:LISTED]:
        blocks += ["## How they were read", markdown_table(("volume", "note"), notes)]
    with scratch_folder("summary") as scratch:
        for number, (case, record) in enumerate(done[:SHOWN]):
            picture = scratch / f"{number}.png"
            try:
                _draw(picture, case, record, card, options)
            except Exception as error:  # whatever changed since it was written: the page is about the others too
                blocks.append(f"No picture of {printable(case.output)}: {printable(str(error))}")
            else:
                blocks.append(f"![{printable(case.output)}]({picture})")
        return write_html(folder, title, blocks, "summary.html")


def _draw(picture: Path, case: TreeTarget, record: Record, card: ModelCard, options: SegmentOptions) -> None:
    """The slice that the model is least sure of."""
    from DeSAMSegmentLib.data.labels import membership_type
    from DeSAMSegmentLib.data.reading import read_labels, read_volume
    from DeSAMSegmentLib.data.slices import Slices
    from DeSAMSegmentLib.engine.figures import INK, PAPER, draw_slice, drawing

    volume = read_volume(case.source, files=case.files)
    values = read_labels(case.path).array
    members = np.zeros(values.shape, membership_type(len(card.labels)))
    for number, label in enumerate(card.labels):
        members |= (values == label.value).astype(members.dtype) << number
    slices = Slices(volume, resolve(card, options)[1])
    with drawing(picture, figsize=(3.4, 3.8), dpi=90, facecolor=PAPER) as figure:
        axes = figure.subplots()
        names = [label.name for label in card.labels]
        draw_slice(axes, slices, slices.index(record.lowest), np.zeros_like(members), members, names)
        axes.set_title(f"{case.name[:40]}\nslice {record.lowest} · confidence {record.confidence:.2f}", color=INK)
        axes.title.set_fontsize(9)
