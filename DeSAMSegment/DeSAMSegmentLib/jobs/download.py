"""A download with callbacks as a generator of events."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator
from typing import Any

from ..engine.events import Event, Progress


def download_events(weights: str) -> Generator[Event, None, Any]:
    """Yields Progress a few times a second and returns the file's path; closing the generator stops the download."""
    from ..store.weights import download

    messages: queue.Queue[Any] = queue.Queue()
    stop = threading.Event()

    def work() -> None:
        try:
            path = download(weights, progress=lambda done, total: messages.put((done, total)), cancelled=stop.is_set)
            messages.put(path)
        except BaseException as error:
            messages.put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            message = messages.get()
            if isinstance(message, BaseException):
                raise message
            if not isinstance(message, tuple):
                return message
            done, total = message
            yield Progress(f"{done / 1e6:.0f} of {total / 1e6:.0f} MB", done, total)
    finally:
        stop.set()
