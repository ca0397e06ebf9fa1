"""``desam train``: fine-tune a decoder on a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from DeSAMSegmentLib.data.cases import read_dataset
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.engine.events import Event
from DeSAMSegmentLib.engine.options import TrainOptions
from DeSAMSegmentLib.engine.train.run_folder import BEST, CONFIG, stored_cases
from DeSAMSegmentLib.errors import BadInput

from . import options as shared
from .selection import choose_cases, choose_labels, stored_choice
from .view import follow

DATASET = "nnU-Net raw folder: imagesTr, labelsTr, dataset.json; no images with --from-labels."
OUTPUT = "Folder of the run: best.desam, last.desam, metrics.csv, curves.png."
REPLAY = "Earlier data of the --base model, mixed in (--replay-share) so that it does not forget."
RESUME = "Go on with the run in OUTPUT where it stopped, with its options."
DEVICES = "GPUs, or processes of the CPU, that share encoding and steps (more than one needs lightning-fabric)."
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
    devices: Annotated[int, typer.Option(min=1, metavar="N", help=DEVICES)] = 1,
    workers: shared.Workers = 0,
    scheduler: shared.Scheduler = "",
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

    cache = None if no_cache else FeatureCache(limit_bytes=None if cache_gb is None else cache_gb * 1e9)
    run: dict[str, Any] = {"replay": read_dataset(replay).cases if replay else [], "resume": resume}
    begin = _trainer(cache, device, devices, workers, scheduler)
    events = begin(cases, data.labels, output, options, **run)
    again = f"desam train {dataset} {output}{f' --replay {replay}' if replay else ''} --resume"
    follow(events, json, lambda: _stopped(again, output, not no_cache))


def _trainer(
    cache: FeatureCache | None, device: str, devices: int, workers: int, scheduler: str
) -> Callable[..., Iterator[Event]]:
    """``train``, or what stands for it on several devices, with everything but what is trained."""
    if devices > 1:
        from DeSAMSegmentLib.engine.train.several import devices_of, train_on

        if workers or scheduler:
            raise BadInput("Several devices share the encoding themselves.", "Give --devices, or --workers.")
        return partial(train_on, devices_of(device, devices), cache=cache)
    from DeSAMSegmentLib.engine.runtime.session import Session
    from DeSAMSegmentLib.engine.train.train import train

    ahead = None
    if workers or scheduler:
        from .cluster import features

        ahead = partial(features, device=device, workers=workers, scheduler=scheduler)
    return partial(train, session=Session(device, cache), ahead=ahead)


def _stopped(command: str, output: Path, are_kept: bool) -> str:
    """What Ctrl-C or a scheduler's SIGTERM leaves, and how to go on; ``are_kept``: whether features are."""
    if not (output / CONFIG).is_file():
        return "Stopped before the run was written: the same command starts it."
    again = f"'{command}' goes on with the same options."
    if not (output / BEST).is_file():
        kept = "; computed features are kept" if are_kept else ""
        return f"Stopped before the first epoch was finished{kept}. {again}"
    return f"Stopped: the best model so far is {output / BEST}. {again}"
