"""``desam info``: versions, device, folders and cache, for a bug report or a look around."""

from __future__ import annotations

from typing import Any

from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.files import home
from DeSAMSegmentLib.store import weights
from DeSAMSegmentLib.store.card import software
from DeSAMSegmentLib.store.library import Library
from rich.filesize import decimal

from . import options as shared
from .view import print_json, print_records


def command(device: shared.Device = "auto", json: shared.Json = False) -> None:
    """Show versions, the device that would be used, folders, weights and the cache's size."""
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
