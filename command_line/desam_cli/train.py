"""``desam train``: fine-tune a decoder on a data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from DeSAMSegmentLib.data.cases import read_dataset
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.engine.options import TrainOptions
from DeSAMSegmentLib.engine.train.run_folder import BEST, CONFIG, stored_cases

from . import options as shared
from .selection import choose_cases, choose_labels, stored_choice
from .view import follow

DATASET = "nnU-Net raw folder: imagesTr, labelsTr, dataset.json; no images with --from-labels."
OUTPUT = "Folder of the run: best.desam, last.desam, metrics.csv, curves.png."
REPLAY = "Earlier data of the --base model, mixed in (--replay-share) so that it does not forget."
RESUME = "Go on with the run in OUTPUT where it stopped, with its options."
CACHE = "Features kept on disk, more while a training needs more; default: as stored."


@shared.takes(TrainOptions)
def command(
    dataset: Annotated[Path, typer.Argument(help=DATASET)],
    output: Annotated[Path, typer.Argument(help=OUTPUT)],
    chosen: dict[str, Any],
    keep: shared.Keep = "",
    exclude: shared.Exclude = "",
    domain: shared.Domains = None,
    replay: Annotated[Path | None, typer.Option(metavar="DATASET", help=REPLAY)] = None,
    resume: Annotated[bool, typer.Option("--resume", help=RESUME)] = False,
    device: shared.Device = "auto",
    no_cache: shared.NoCache = False,
    cache_gb: Annotated[float | None, typer.Option(min=0, metavar="GB", help=CACHE)] = None,
    json: shared.Json = False,
) -> None:
    """Fine-tune a decoder on a data set. Ctrl-C keeps the best model so far; --resume goes on exactly."""
    names = chosen.pop("labels", None)
    options = shared.resumed(output, chosen) if resume else shared.build(TrainOptions, chosen)
    data = read_dataset(dataset, images=not options.from_labels)
    if names:
        options = replace(options, labels=tuple(choose_labels(names, data.labels)))
    if resume and not (keep or exclude or domain):
        cases = stored_choice(data.cases, stored_cases(output))
    else:
        cases = choose_cases(data.cases, keep, exclude, domain)
    cases = [replace(case, slices=options.slices) for case in cases]

    from DeSAMSegmentLib.engine.runtime.session import Session
    from DeSAMSegmentLib.engine.train.train import train

    limit = None if cache_gb is None else cache_gb * 1e9
    session = Session(device, None if no_cache else FeatureCache(limit_bytes=limit))
    earlier = read_dataset(replay).cases if replay else []
    events = train(cases, data.labels, output, options, session, replay=earlier, resume=resume)
    again = f"desam train {dataset} {output}{f' --replay {replay}' if replay else ''} --resume"
    follow(events, json, lambda: _stopped(again, output, not no_cache))


def _stopped(command: str, output: Path, are_kept: bool) -> str:
    """What Ctrl-C or a scheduler's SIGTERM leaves, and how to go on; ``are_kept``: whether features are."""
    if not (output / CONFIG).is_file():
        return "Stopped before the run was written: the same command starts it."
    again = f"'{command}' goes on with the same options."
    if not (output / BEST).is_file():
        kept = "; computed features are kept" if are_kept else ""
        return f"Stopped before the first epoch was finished{kept}. {again}"
    return f"Stopped: the best model so far is {output / BEST}. {again}"
