"""Work on several processes or machines (dask.distributed, ``pip install desam-segment[cluster]``).

What is shared out are the cases of an archive, the features of a training, the runs of a benchmark. A process that dies
costs the piece that it was at, which another then takes. Label maps come back to the process that asked, which alone
writes; features and runs go to folders that all must have under the same path.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from DeSAMSegmentLib.engine.events import Event, Log, Progress
from DeSAMSegmentLib.errors import BadInput, reason

from .archive.archive import ArchiveJob, Outcome, decode, failed, read
from .archive.tree import TreeTarget
from .computing import session_of
from .remedies import REMEDIES

if TYPE_CHECKING:
    from DeSAMSegmentLib.data.feature_cache import FeatureCache
    from DeSAMSegmentLib.engine.train.training_set import Share

SLURM = "slurm"
WAIT = 30  # seconds for a scheduler to answer


def place(workers: int, scheduler: str) -> str:
    """Where the work is done, in words."""
    return f"the scheduler {scheduler}" if scheduler else f"{workers} processes"


def ended(
    task: Callable[..., Any], calls: Iterable[tuple[Any, ...]], workers: int, scheduler: str
) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Each call's arguments with the future of ``task(*arguments, threads)``, in the order in which they end.

    Arguments:
      workers: processes on this machine, or jobs of SLURM. scheduler: address of a running one, or ``slurm``.

    Raises:
      BadInput: dask is not installed, or there is no such scheduler.
    """
    threads = 0 if scheduler else max(1, (os.cpu_count() or 1) // workers)
    with _client(workers, scheduler) as client:
        from distributed import as_completed

        waiting = iter(calls)
        # one more than each worker has at work: label maps come no faster than they are written
        first = islice(waiting, 2 * max(1, workers, len(client.scheduler_info()["workers"])))
        call_of = {client.submit(task, *call, threads, pure=False): call for call in first}
        futures = as_completed(list(call_of))
        for future in futures:
            call = call_of.pop(future)
            following = next(waiting, None)
            if following:
                call_of[added := client.submit(task, *following, threads, pure=False)] = following
                futures.add(added)
            yield call, future


def result(future: Any, what: str) -> Any:
    """What a task returned. Raises what it raised, and BadInput where it ended every process that took it."""
    try:
        return future.result()
    except Exception as error:
        if type(error).__name__ != "KilledWorker":
            raise
        died = f"Every process that took {what} died, most likely for want of memory."
        raise BadInput(died, "Try it again with fewer workers.") from None


# ---- the features of a training -------------------------------------------------------------------------------------


def features(
    shares: Sequence[Share], cache: FeatureCache, device: str, workers: int, scheduler: str
) -> Iterator[Event]:
    """Computes features of cases into a cache; what fails is left to the training, which computes what it misses."""
    calls = ((share, cache, device) for share in shares)
    for done, ((share, *_), future) in enumerate(ended(encode, calls, workers, scheduler), 1):
        try:
            result(future, share.case.name)
        except Exception as error:
            yield Log(f"Features of {share.case.name} come later: {reason(error, REMEDIES)}", "warning")
        yield Progress(f"Features, by {place(workers, scheduler)}", done, len(shares))


def encode(share: Share, cache: FeatureCache, device: str, threads: int) -> None:
    """One case's features, in a worker."""
    share.encode(session_of(device, cache, threads))


# ---- the cases of an archive ----------------------------------------------------------------------------------------


def outcomes(cases: list[TreeTarget], job: ArchiveJob, workers: int, scheduler: str) -> Iterator[Outcome]:
    """The outcomes of cases, in the order in which they end. Raises BadInput as ``ended``."""
    outputs = ((case, {case.output: job.before[case.output]} if case.output in job.before else {}) for case in cases)
    calls = ((case, replace(job, before=before)) for case, before in outputs)
    for (case, _), future in ended(task, calls, workers, scheduler):
        yield _outcome(future, case, job)


def _outcome(future: Any, case: TreeTarget, job: ArchiveJob) -> Outcome:
    try:
        return result(future, str(case.source))
    except Exception as error:  # it died with every process that took it
        return failed(case, job, error)


def task(case: TreeTarget, job: ArchiveJob, threads: int) -> Outcome:
    """One case, in a worker."""
    from . import app  # noqa: F401  # what other packages add, research its variants

    record, job = None, replace(job, threads=threads)
    try:
        record, volume = read(case, job)
        if volume is None:
            return Outcome(case, record, finished_before=True)
        events = decode(case, record, volume, job)
        while True:
            try:
                next(events)
            except StopIteration as end:
                return end.value
    except Exception as error:
        return failed(case, job, error, record)


@contextmanager
def _client(workers: int, scheduler: str) -> Iterator[Any]:
    try:
        from distributed import Client, LocalCluster

        if scheduler == SLURM:
            from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise BadInput(f"Workers need dask ({error}).", 'Run `pip install "desam-segment[cluster]"`.') from None
    if scheduler and scheduler != SLURM:
        try:
            client = Client(scheduler, timeout=WAIT)
        except (OSError, ValueError) as error:
            raise BadInput(f"No dask scheduler answers at {scheduler} ({error}).", "Check its address.") from None
        with client:
            yield client
        return
    cluster: Any
    if scheduler:
        cluster = SLURMCluster()  # as its jobqueue.yaml says
        cluster.scale(jobs=max(1, workers))
    else:
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=None,  # dask would end a process that takes more than its share of a machine that has plenty
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        )
    with cluster, Client(cluster) as client:
        yield client
