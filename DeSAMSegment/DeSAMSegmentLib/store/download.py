"""Downloading one large file over a line that may break: resumed, checked, renamed, or nothing.

Plain ``urllib``, because pooch's own downloaders start again from the first byte after a cut, and 2.5 GB over a
hospital's proxy are cut often. Proxies come from the environment (HTTPS_PROXY, NO_PROXY), as everywhere.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any

from ..errors import DiskFull, DownloadFailed

PART = ".part"  # the suffix of an unfinished download
BLOCK = 1 << 18  # bytes between two looks at ``cancelled``
RESERVE = 100_000_000  # bytes of the disk to leave free
ATTEMPTS = 5  # in a row without a single new byte
PAUSE = 0.5  # seconds, times the failures so far
TIMEOUT = 30.0  # seconds without a byte
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Progress = Callable[[int, int], None]
Cancelled = Callable[[], bool]


class Cut(Exception):
    """The line broke; what arrived is kept and the next attempt goes on from there."""


def fetch(
    url: str,
    target: Path,
    sha256: str,
    size: int = 0,
    progress: Progress | None = None,
    cancelled: Cancelled | None = None,
) -> bool:
    """Downloads ``url`` to ``target``, going on where an earlier attempt stopped.

    Arguments:
      sha256: of the whole file; empty takes what comes.
      size: expected bytes, for the disk check and until the server says.
      progress: called with bytes done and in total. cancelled: asked between blocks.

    Returns:
      False when it was cancelled; the part stays for the next time.

    Raises:
      DownloadFailed: refused, cut too often, or another file than expected. DiskFull.
    """
    part = target.with_name(target.name + PART)
    target.parent.mkdir(parents=True, exist_ok=True)
    _check_room(target, size - _size(part))
    try:
        if not _fetch_part(url, part, size, progress, cancelled or (lambda: False)):
            return False
        _check_hash(url, part, sha256)
        os.replace(part, target)
    except OSError as problem:
        if problem.errno in FULL:
            # Nothing half-written is left behind: the part would only keep the disk full.
            part.unlink(missing_ok=True)
            raise DiskFull(
                f"The disk is full: {target.name} could not be written to {target.parent}.",
                "Free some space, or set DESAM_HOME to a folder on another disk.",
            ) from problem
        raise DownloadFailed(f"{target.name} could not be written ({problem.strerror}).") from problem
    return True


def _fetch_part(url: str, part: Path, size: int, progress: Progress | None, cancelled: Cancelled) -> bool:
    failures, reason = 0, ""
    while failures < ATTEMPTS:
        before = _size(part)
        try:
            return _attempt(url, part, size, progress, cancelled)
        except Cut as cut:
            reason = str(cut)
        failures = 0 if _size(part) > before else failures + 1
        if cancelled():
            return False
        time.sleep(PAUSE * failures)
    raise DownloadFailed(f"The download of {url} was cut ({reason}).", "Try again: it continues where it stopped.")


def _attempt(url: str, part: Path, size: int, progress: Progress | None, cancelled: Cancelled) -> bool:
    """One connection. Raises Cut for what may pass, DownloadFailed for what will not."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"User-Agent": "DeSAM", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        # An opener of its own: urlopen's shared one keeps the proxies of its first use.
        response = urllib.request.build_opener().open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as problem:
        if problem.code == 416:  # the part is as long as the file, or longer: its hash will tell
            return True
        if problem.code >= 500 or problem.code in (408, 429):
            raise Cut(f"HTTP {problem.code}") from None
        raise DownloadFailed(f"The server refused {url} (HTTP {problem.code} {problem.reason}).") from None
    except (OSError, HTTPException) as problem:
        raise Cut(str(getattr(problem, "reason", problem)) or type(problem).__name__) from None
    with response:
        done = have if response.status == 206 else 0  # 200: the server cannot resume and sends all of it
        announced = _total(response, done)
        total = announced or size
        with part.open("ab" if done else "wb") as file:
            while not cancelled():
                block = _read(response)
                if not block:
                    break
                file.write(block)
                done += len(block)
                if progress:
                    progress(done, max(done, total))
            else:
                return False
    if done < announced:
        raise Cut("the connection was closed early")
    return True


def _read(response: Any) -> bytes:
    """A block; network trouble becomes Cut, so that an OSError outside is the disk's."""
    try:
        return response.read1(BLOCK)
    except (OSError, HTTPException) as problem:
        raise Cut(str(problem) or type(problem).__name__) from None


def _total(response: Any, start: int) -> int:
    """Bytes of the whole file as far as the server says; 0 if it does not."""
    length = response.headers.get("Content-Length")
    return start + int(length) if length and length.isdigit() else 0


def _check_hash(url: str, part: Path, sha256: str) -> None:
    digest = hashlib.sha256()
    with part.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    if sha256 and digest.hexdigest() != sha256:
        part.unlink()
        raise DownloadFailed(
            f"What {url} sent is not the expected file (its SHA-256 is {digest.hexdigest()[:12]}...).",
            "A proxy may have sent a page of its own.",
        )
    with part.open("rb+") as file:
        os.fsync(file.fileno())


def _check_room(target: Path, missing: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if missing > 0 and free < missing + RESERVE:
        raise DiskFull(
            f"{target.name} needs {missing / 1e6:,.0f} MB more; {free / 1e6:,.0f} MB are free in {target.parent}.",
            "Free some space, or set DESAM_HOME to a folder on another disk.",
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
