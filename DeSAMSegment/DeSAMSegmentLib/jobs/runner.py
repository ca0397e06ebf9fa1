"""Carries requests out, one session for all of them: model and encoder stay warm from one to the next."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from ..engine.events import Event
from ..errors import BadInput
from .remote import RemoteWorker, host_of
from .requests import Request, SegmentFileRequest, SegmentRequest


class Runner:
    """One at a time; ``run`` is a generator of events, closing it cancels the job."""

    def __init__(self) -> None:
        self._session: tuple[str, Any] | None = None
        self._remote: RemoteWorker | None = None

    def run(self, request: Request) -> Generator[Event, None, None]:
        """Events of the job; raises what the engine raises."""
        if not isinstance(request, Request):
            raise BadInput(f"There is no job of the kind {type(request).__name__}.")
        host = host_of(getattr(request, "device", ""))
        if host is not None and isinstance(request, SegmentRequest | SegmentFileRequest):
            yield from self._remote_worker(host).events(request)
            return
        yield from request.events(self.session(request.device) if hasattr(request, "device") else None)  # type: ignore[arg-type]

    def _remote_worker(self, host: str) -> RemoteWorker:
        """The connection of all jobs on a computer; choosing another computer ends it."""
        if self._remote and self._remote.host != host:
            self._remote.close()
            self._remote = None
        self._remote = self._remote or RemoteWorker(host)
        return self._remote

    def session(self, device: str) -> Any:
        """The session of all jobs on a device; choosing another device ends it."""
        from ..data.feature_cache import FeatureCache
        from ..engine.runtime.session import Session

        if self._session is None or self._session[0] != device:
            self._session = None  # its encoder goes before the next one comes
            self._session = device, Session(device)
        session = self._session[1]
        session.cache = FeatureCache()  # its limit may have been set anew meanwhile
        return session
