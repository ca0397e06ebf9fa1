"""``desam evaluate``: a model, or finished label maps, against the truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..engine.options import SegmentOptions
from . import options as shared
from .cases import choose_cases, choose_labels
from .view import make_view


@shared.takes(SegmentOptions)
def command(
    dataset: Annotated[Path, typer.Argument(help="nnU-Net raw folder with the true labels.")],
    output: Annotated[Path, typer.Argument(help="Folder of the report: report.md, metrics.csv, pictures.")],
    chosen: dict[str, Any],
    model: Annotated[str, typer.Option("--model", "-m", help="Model to run: a .desam file or a library name.")] = "",
    predictions: Annotated[
        Path | None,
        typer.Option("--predictions", help="Folder of finished label maps CASE.nii.gz, instead of a model."),
    ] = None,
    keep: shared.Keep = "",
    exclude: shared.Exclude = "",
    domain: shared.Domains = None,
    labels: Annotated[str, typer.Option(help="Labels to score, names or values, separated by commas.")] = "",
    slices: Annotated[str, typer.Option(help="all slices of the truth were drawn, or only those labelled.")] = "all",
    device: shared.Device = "auto",
    no_cache: shared.NoCache = False,
    json: shared.Json = False,
) -> int:
    """Measure Dice, HD95, ASSD and volume error of every case: a table, a page and a picture per case."""
    from ..data.cases import read_dataset
    from ..data.features import FeatureCache
    from ..engine.events import Finished
    from ..errors import BadInput

    options = shared.build(SegmentOptions, chosen)
    if slices not in ("all", "labelled"):
        raise BadInput(f"--slices is 'all' or 'labelled', not {slices!r}.")
    data = read_dataset(dataset)
    values = choose_labels(labels, data.labels) or tuple(data.labels)
    cases = [replace(case, slices=slices) for case in choose_cases(data.cases, keep, exclude, domain)]

    from ..engine.evaluate import evaluate

    failed = 0
    with make_view(json) as view:
        for event in evaluate(
            cases,
            {value: data.labels[value] for value in values},
            output,
            model=model or None,
            predictions=predictions,
            options=options,
            device=device,
            cache=None if no_cache else FeatureCache(),
        ):
            view.show(event)
            if isinstance(event, Finished):
                failed = len(event.result.failed)
    return 1 if failed else 0
