"""``desam info``: versions, device, folders and cache, for a bug report or a look around."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.errors import BadInput
from DeSAMSegmentLib.files import home
from DeSAMSegmentLib.store import weights
from DeSAMSegmentLib.store.card import software
from DeSAMSegmentLib.store.library import Library
from rich.filesize import decimal

from . import options as shared
from .view import print_json, print_records, say

SERIES = {
    "number": "series", "description": "description", "modality": "modality", "slices": "slices",
    "spacing": "spacing (mm)", "uid": "UID", "problem": "problem",
}  # fmt: skip


def command(
    folder: Annotated[Path | None, typer.Argument(help="A folder: list the DICOM series in and below it.")] = None,
    device: shared.Device = "auto",
    json: shared.Json = False,
) -> None:
    """Show versions, the device that would be used, folders, weights and the cache's size; or a folder's series."""
    if folder is not None:
        _series(folder, json)
        return
    from DeSAMSegmentLib.engine.runtime.device import choose, describe

    cache, library = FeatureCache(), Library()
    size = cache.size_bytes()
    models = library.list()
    shipped = sum(entry.shipped for entry in models)
    here = [each.info.id for each in weights.status() if each.path is not None]
    facts: dict[str, Any] = {
        **software(),
        "device": describe(choose(device)),
        "home": str(home()),
        "models": f"{len(models) - shipped} in {library.folder}, {shipped} shipped",
        "weights": ", ".join(here) or "none",
        "cache": f"{decimal(size) if size else 'empty'} in {cache.root}",
    }
    if json:
        print_json(facts)
        return
    print_records([{"key": key, "value": value} for key, value in facts.items()], False, {"key": "", "value": ""})


def _series(folder: Path, json: bool) -> None:
    from DeSAMSegmentLib.data.dicom import find_series

    if not folder.exists():
        raise BadInput(f"There is no folder {folder}.", "Check the spelling.")
    found = find_series(folder)
    if not found and not json:
        say(f"There are no DICOM images in {folder}.")
        return
    print_records([{key: getattr(each, key) for key in SERIES} for each in found], json, SERIES)
