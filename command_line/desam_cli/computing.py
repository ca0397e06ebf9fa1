"""What segments volumes for ``desam segment``: a device of this computer, or the DeSAM on another one."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.engine.options import SegmentOptions
from DeSAMSegmentLib.engine.segment.files import Segmenting
from DeSAMSegmentLib.errors import BadInput, is_full
from DeSAMSegmentLib.jobs.remote import RemoteRun, RemoteWorker, host_of

if TYPE_CHECKING:
    from DeSAMSegmentLib.data.volume import Volume
    from DeSAMSegmentLib.engine.runtime.session import Session


def segmenter(
    model: Path, options: SegmentOptions, device: str, cache: bool, threads: int = 0
) -> Callable[[Volume], Segmenting]:
    """What begins the segmentation of a volume; encoder and model are loaded, or the connection stands.

    Arguments:
      device: as for ``Session``, or ``ssh HOST``. threads: of this process; 0 leaves them to torch.

    Raises:
      DeSAMError: no such device, no weights of the encoder, no way to that computer.
    """
    host = host_of(device)
    if host is not None:
        if not cache:
            raise BadInput("Over ssh features are always kept, on the other computer.", "Leave out --no-cache.")
        worker = RemoteWorker(host)
        return lambda volume: RemoteRun(volume, worker, str(model), options)

    from DeSAMSegmentLib.engine.segment.segment import Segmentation

    session = session_of(device, FeatureCache() if cache else None, threads)
    network = session.model(model)
    session.begin_with(network.card)

    def begin(volume: Volume) -> Segmenting:
        session.begin_with(network.card)  # back from the CPU, where an earlier volume ran out of memory
        return Segmentation(volume, network, options, session)

    return begin


def session_of(device: str, cache: FeatureCache | None, threads: int = 0) -> Session:
    """The one session of this process on a device, its encoder loaded once; ``threads`` as above."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    session = _session(device)
    session.cache = cache
    return session


@lru_cache(maxsize=1)
def _session(device: str) -> Session:
    from DeSAMSegmentLib.engine.runtime.session import Session

    return Session(device)


def device_words(device: str) -> str:
    """The device in words."""
    from DeSAMSegmentLib.engine.runtime.device import choose, describe

    return device if host_of(device) is not None else describe(choose(device))


def ends_all(error: Exception) -> bool:
    """Whether all volumes would meet it: a full disk, no way to the other computer."""
    return is_full(error) or getattr(error, "kind", "") == "no-connection"
