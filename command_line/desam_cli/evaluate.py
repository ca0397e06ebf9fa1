"""``desam evaluate``: a model, or finished label maps, against ground truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from DeSAMSegmentLib.data.cases import read_dataset
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.engine.options import SegmentOptions
from DeSAMSegmentLib.errors import BadInput

from . import options as shared
from .selection import choose_cases, choose_labels
from .view import follow


@shared.takes(SegmentOptions)
def command(
    dataset: Annotated[Path, typer.Argument(help="nnU-Net raw folder with ground truth.")],
    output: Annotated[Path, typer.Argument(help="Folder of the report: report.md, metrics.csv, pictures.")],
    chosen: dict[str, Any],
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="MODEL", help="Model to run: a .desam file or a library name.")
    ] = "",
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions", metavar="FOLDER", help="Folder of finished label maps CASE.nii.gz, instead of a model."
        ),
    ] = None,
    keep: shared.Keep = "",
    exclude: shared.Exclude = "",
    domain: shared.Domains = None,
    labels: Annotated[
        str, typer.Option(metavar="LABELS", help="Labels to score, names or values, separated by commas.")
    ] = "",
    slices: Annotated[str, typer.Option(metavar="all|labelled", help="Which slices have ground truth.")] = "all",
    device: shared.Device = "auto",
    no_cache: shared.NoCache = False,
    json: shared.Json = False,
) -> int:
    """Measure Dice, HD95, ASSD and volume error of every case: a table, a page and a picture per case."""
    options = shared.build(SegmentOptions, chosen)
    if slices not in ("all", "labelled"):
        raise BadInput(f"--slices is 'all' or 'labelled', not {slices!r}.")
    data = read_dataset(dataset)
    known = choose_labels(labels, data.labels)
    cases = [replace(case, slices=slices) for case in choose_cases(data.cases, keep, exclude, domain)]

    from DeSAMSegmentLib.engine.evaluate.evaluate import evaluate
    from DeSAMSegmentLib.engine.runtime.session import Session

    session = Session(device, None if no_cache else FeatureCache())
    events = evaluate(cases, known, output, session, model=model or None, predictions=predictions, options=options)
    return 1 if follow(events, json).result.failed else 0
