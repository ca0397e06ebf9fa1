"""The runs of a benchmark on several processes or machines, by dask (``desam_cli/cluster.py``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from desam_cli.cluster import ended, result
from desam_cli.computing import session_of
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.engine.events import Event, Progress
from DeSAMSegmentLib.store.card import LabelInfo

from .benchmark import Bench
from .plan import BenchmarkOptions, Run


def carried_out(bench: Bench, runs: Sequence[Run], workers: int, scheduler: str) -> Iterator[Event]:
    """Trains and tests the runs, each in one process, into their folders.

    Raises:
      DeSAMError: what one of them raises; BadInput where it ended every process that took it.
    """
    calls = ((run, bench.labels, bench.options, bench.session.cache) for run in runs)
    for done, ((run, *_), future) in enumerate(ended(run_there, calls, workers, scheduler), 1):
        result(future, run.name)
        yield Progress("runs", done, len(runs))


def run_there(
    run: Run, labels: Sequence[LabelInfo], options: BenchmarkOptions, cache: FeatureCache | None, threads: int
) -> None:
    """One run, in a worker."""
    for _ in Bench(labels, options, session_of(options.device, cache, threads)).execute(run):
        pass
