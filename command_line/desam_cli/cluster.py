"""The cases of an archive on several processes or machines (dask.distributed, ``pip install desam-segment[cluster]``).

One case is one task; a process that dies costs the case that it was at, which another then takes. Label maps come back
to the process that asked, which alone writes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

from DeSAMSegmentLib.errors import BadInput

from .archive.archive import ArchiveJob, Outcome, decode, failed, read
from .archive.tree import TreeTarget

SLURM = "slurm"
WAIT = 30  # seconds for a scheduler to answer


def place(workers: int, scheduler: str) -> str:
    """Where the work is done, in words."""
    return f"the scheduler {scheduler}" if scheduler else f"{workers} processes"


def outcomes(cases: list[TreeTarget], job: ArchiveJob, workers: int, scheduler: str) -> Iterator[Outcome]:
    """The outcomes of cases, in the order in which they end.

    Arguments:
      workers: processes on this machine, or jobs of SLURM. scheduler: address of a running one, or ``slurm``.

    Raises:
      BadInput: dask is not installed, or there is no such scheduler.
    """
    with _client(workers, scheduler) as client:
        from distributed import as_completed

        if not scheduler:
            job = replace(job, threads=max(1, (os.cpu_count() or 1) // workers))
        waiting = iter(cases)
        # one more than each worker has at work: label maps come no faster than they are written
        first = islice(waiting, 2 * max(1, workers, len(client.scheduler_info()["workers"])))
        case_of = {_submit(client, case, job): case for case in first}
        ended = as_completed(list(case_of))
        for future in ended:
            case = case_of.pop(future)
            following = next(waiting, None)
            if following:
                case_of[added := _submit(client, following, job)] = following
                ended.add(added)
            yield _outcome(future, case, job)


def _submit(client: Any, case: TreeTarget, job: ArchiveJob) -> Any:
    before = {case.output: job.before[case.output]} if case.output in job.before else {}
    return client.submit(task, case, replace(job, before=before), pure=False)


def _outcome(future: Any, case: TreeTarget, job: ArchiveJob) -> Outcome:
    try:
        return future.result()
    except Exception as error:  # it died with every process that took it
        died = type(error).__name__ == "KilledWorker"
        what = f"Every process that took {case.source} died, most likely for want of memory."
        return failed(case, job, BadInput(what, "Try it again with fewer workers.") if died else error)


def task(case: TreeTarget, job: ArchiveJob) -> Outcome:
    """One case, in a worker."""
    from . import app  # noqa: F401  # what other packages add, research its variants

    record = None
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
