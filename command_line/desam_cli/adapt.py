"""``desam adapt``: a model learns a new site from its unlabelled scans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from DeSAMSegmentLib.data.cases import Case, read_dataset
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.engine.options import TrainOptions
from DeSAMSegmentLib.engine.segment.targets import plan

from . import options as shared
from .view import follow


def command(
    model: Annotated[str, typer.Argument(help="Model to start from: a .desam file or a library name.")],
    scans: Annotated[Path, typer.Argument(help="Folder of volumes of the new site; labels are not needed.")],
    output: Annotated[Path, typer.Argument(help="Folder of the run: best.desam is the new version.")],
    replay: Annotated[
        Path | None,
        typer.Option(metavar="DATASET", help="Data that the model learned from, mixed in against forgetting."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the confident slices.")] = 5,
    name: Annotated[str, typer.Option(help="Name of the new version.")] = "",
    device: shared.Device = "auto",
    no_cache: shared.NoCache = False,
    json: shared.Json = False,
) -> None:
    """Adapt a model to a new site without labels: slices that it is sure of teach a new version."""
    from DeSAMSegmentLib.engine.runtime.session import Session
    from DeSAMSegmentLib.engine.train.train import train

    session = Session(device, None if no_cache else FeatureCache())
    card = session.model(model).card
    options = TrainOptions.adaptation(card, base=model, epochs=epochs, **({"name": name} if name else {}))
    cases = [Case(target.name, target.source) for target in plan(scans, output, "seg.nrrd")]
    earlier = read_dataset(replay).cases if replay else []
    follow(train(cases, card.labels, output, options, session, replay=earlier), json)
