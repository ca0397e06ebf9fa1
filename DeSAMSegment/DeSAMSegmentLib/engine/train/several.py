"""One training on several devices of this computer: a process for each, which take every step together (``team.py``).

Nothing here is needed, or imported, where there is one device. The process that asks computes nothing: it hands on the
events of the first one, and ends all of them when one is gone.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib.util import find_spec
from multiprocessing import connection, pool
from pathlib import Path
from typing import Any

from ...data.cases import Case
from ...data.feature_cache import FeatureCache
from ...errors import BadInput, DeSAMError
from ...files import scratch_folder
from ...store.card import LabelInfo
from ..events import EpochDone, Event, Finished, Log, Started
from ..options import TrainOptions
from ..runtime.session import Session
from .team import Deserted, FabricTeam

PATIENCE = timedelta(days=7)  # that the others wait while the first one validates
DESERTED = 70  # exit code of a process that another one has left alone


@dataclass(frozen=True)
class TeamJob:
    """What every process of a team is told; ``session`` makes its session of a device and the cache."""

    arguments: dict[str, Any]
    devices: Sequence[str]
    cache: FeatureCache
    session: Callable[[str, FeatureCache], Session]
    port: int
    scratch: Path


def devices_of(name: str, count: int) -> list[str]:
    """The first ``count`` devices of a kind; of the CPU, that many processes.

    Raises:
      BadInput: where there are not so many, or what they need is not installed.
    """
    import torch

    from ..runtime.device import choose

    kind = choose(name)
    if kind.type == "cuda" and kind.index is None:
        there = torch.cuda.device_count()
    else:
        there = count if kind.type == "cpu" else 1
    if count > there:
        raise BadInput(
            f"{count} devices were asked for, and of {kind.type} there are {there}.", "Ask for fewer, or for the CPU."
        )
    if find_spec("lightning_fabric") is None:
        what = "Training on several devices needs the package lightning-fabric."
        raise BadInput(what, 'Run `pip install "desam-segment[multi]"`.')
    return [f"{kind.type}:{number}" if kind.type == "cuda" else kind.type for number in range(count)]


def train_on(
    devices: Sequence[str],
    cases: Sequence[Case],
    labels: dict[int, str] | Sequence[LabelInfo],
    folder: str | Path,
    options: TrainOptions,
    cache: FeatureCache | None = None,
    *,
    replay: Sequence[Case] = (),
    resume: bool = False,
    session: Callable[[str, FeatureCache], Session] = Session,
) -> Iterator[Event]:
    """``train`` by a process for each of ``devices``: the same losses and weights, to rounding.

    Arguments:
      cache: where the processes meet; None for one that is deleted afterwards.

    Raises:
      DeSAMError: as ``train``; and where a process is gone, what was saved.
    """
    context = multiprocessing.get_context("spawn")
    with scratch_folder("team") as scratch:
        cache = cache or FeatureCache(scratch / "features")
        arguments: dict[str, Any] = {"cases": cases, "labels": labels, "folder": folder, "options": options}
        arguments |= {"replay": replay, "resume": resume}
        job = TeamJob(arguments, devices, cache, session, _free_port(), scratch)
        members: dict[Any, Any] = {}
        try:
            for rank in range(len(devices)):
                ours, theirs = context.Pipe(duplex=False)
                members[ours] = context.Process(target=_member, args=(rank, job, theirs), daemon=True)
                members[ours].start()
                theirs.close()
            yield from _heard(members, Path(folder))
        finally:
            for process in members.values():
                process.kill()
            for process in members.values():
                process.join()


def _heard(members: dict[Any, Any], folder: Path) -> Iterator[Event]:
    """What the processes send, until the training is finished. Raises what one of them raised."""
    epoch, pipes = 0, list(members)
    while pipes:
        ready: list[Any] = connection.wait(pipes)
        for pipe in ready:
            try:
                message = pipe.recv()
            except EOFError:
                pipes.remove(pipe)
                members[pipe].join()
                if members[pipe].exitcode == DESERTED and pipes:
                    continue  # the one that is gone is among the others
                raise _gone(members, pipe, epoch, folder) from None
            if isinstance(message, Exception):
                raise message
            if isinstance(message, EpochDone):
                epoch = message.epoch
            if isinstance(message, Started):
                message = replace(message, device=f"{len(members)} x {message.device}")
            yield message
            if isinstance(message, Finished):
                return


def _gone(members: dict[Any, Any], pipe: Any, epoch: int, folder: Path) -> DeSAMError:
    """What happened to a process that ended without a word, and what is left."""
    number, code = list(members).index(pipe) + 1, members[pipe].exitcode
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    kept = f"All up to epoch {epoch} is saved in {folder}." if epoch else "Features that were computed are kept."
    what = f"Process {number} of {len(members)} of the training was ended {how}, often for want of memory. {kept}"
    return DeSAMError(what, "Resume the training, on fewer devices if it happens again.", kind="process-gone")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


# ---- in each process ------------------------------------------------------------------------------------------------


def _member(rank: int, job: TeamJob, pipe: Any) -> None:
    """The training of one process. The first one sends its events; every one sends what ended it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the one that asked ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # gloo says there whom it has met
    warnings.filterwarnings("ignore")
    tempfile.tempdir = str(job.scratch)  # the one that asked removes it, whatever becomes of this process
    try:
        from .train import train

        fabric = _fabric(rank, job)
        device = job.devices[rank]
        session = job.session(device, job.cache)
        if rank:
            session.log = lambda text: pipe.send(Log(f"{device}, process {rank + 1}: {text}", "warning"))  # type: ignore[method-assign]
        team = FabricTeam(fabric)
        for event in train(**job.arguments, session=session, team=team):
            if rank == 0:
                pipe.send(event)
    except Deserted:
        os._exit(DESERTED)
    except Exception as error:
        told = pool.ExceptionWithTraceback(error, error.__traceback__)  # type: ignore[attr-defined]
        pipe.send(error if isinstance(error, DeSAMError) else told)


def _fabric(rank: int, job: TeamJob) -> Any:
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import LightningEnvironment
    from lightning_fabric.strategies import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(job.port)}
    fabric = Fabric(
        accelerator=job.devices[0].split(":")[0],
        devices=len(job.devices),
        strategy=DDPStrategy(timeout=PATIENCE),
        plugins=[LightningEnvironment()],
    )
    fabric.launch()
    return fabric


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
