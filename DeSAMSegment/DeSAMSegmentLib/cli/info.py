"""``desam info``: versions, device, folders and cache, for a bug report or a look around."""

from __future__ import annotations

from typing import Any

from .. import __version__
from ..files import home
from . import options as shared
from .view import print_records
from .weights import megabytes


def command(device: shared.Device = "auto", json: shared.Json = False) -> None:
    """Show versions, the device that would be used, folders, weights and the cache's size."""
    from ..data.features import FeatureCache
    from ..engine.device import choose, describe
    from ..engine.provenance import software
    from ..store import weights
    from ..store.library import Library

    cache, library = FeatureCache(), Library()
    here = [each.info.id for each in weights.status() if each.path is not None]
    facts: dict[str, Any] = {
        **({"desam-segment": __version__} | software()),
        "device": describe(choose(device)),
        "home": str(home()),
        "models": f"{len(library.list())} in {library.folder}",
        "weights": ", ".join(here) or "none",
        "cache": f"{megabytes(cache.size_bytes()) or 'empty'} in {cache.root}",
    }
    if json:
        print_records([facts], True, {})
        return
    print_records([{"key": key, "value": value} for key, value in facts.items()], False, {"key": "", "value": ""})
