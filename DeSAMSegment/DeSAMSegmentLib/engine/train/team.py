"""Who takes part in a training: one process alone, or one for each of several devices.

Processes of a team run the same training, each on its share of the slices: what adds up over a batch (what its Dice is
made of, gradients, losses) is summed over all of them, so that each takes the step that one alone would take, to
rounding. The first alone validates and writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")


class Team:
    """One process alone."""

    rank, size = 0, 1

    def share(self, count: int) -> slice:
        """Which of ``count`` slices are this process's; none where there are fewer than processes, for some."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, each of which must ask."""
        return tensor

    def shared(self, value: T, rank: int = 0) -> T:
        """The value that the process ``rank`` has, for all, each of which must ask."""
        return value


ALONE = Team()


class Deserted(RuntimeError):
    """Another process of the team is gone."""


class FabricTeam(Team):
    """The processes of a ``lightning_fabric.Fabric`` that is launched. Asking raises Deserted where one is gone."""

    def __init__(self, fabric: Any) -> None:
        self.fabric, self.rank, self.size = fabric, fabric.global_rank, fabric.world_size

    def sum(self, tensor: Tensor) -> Tensor:
        with self._asking():
            return self.fabric.all_reduce(tensor.to(self.fabric.device), reduce_op="sum").to(tensor.device)

    def shared(self, value: T, rank: int = 0) -> T:
        with self._asking():
            return self.fabric.broadcast(value, src=rank)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # gloo's and NCCL's
            raise Deserted(str(error)) from error
