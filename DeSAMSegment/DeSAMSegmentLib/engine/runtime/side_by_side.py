"""Several slices at once on a CPU, each on threads of its own.

Two threads in every operation wait for each other thousands of times a slice, spinning, and where another program has
one of the cores they mostly wait. Slices side by side wait for nothing until one is done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(work: Callable[[T], R], items: Iterable[T], at_once: int) -> Generator[R, None, None]:
    """``work`` of each of ``items``, in their order; the threads that torch may use are shared out evenly.

    Whoever stops iterating waits for what has begun.
    """
    threads = torch.get_num_threads()
    remaining = iter(items)
    pool = ThreadPoolExecutor(at_once, "desam-slice", torch.set_num_threads, (max(1, threads // at_once),))
    try:
        # as many again are waiting, so that nobody is idle while the results are used in their order
        running: deque[Future[R]] = deque(pool.submit(work, item) for item in islice(remaining, 2 * at_once))
        while running:
            done = running.popleft().result()
            running.extend(pool.submit(work, item) for item in islice(remaining, 1))
            yield done
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # what threads to come will have
