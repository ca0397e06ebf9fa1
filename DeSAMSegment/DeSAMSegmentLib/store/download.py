"""Downloading one large file over a line that may break: resumed, checked, renamed, or nothing.

Plain ``urllib``, because pooch's own downloaders start again from the first byte after a cut, and 2.5 GB over a
hospital's proxy are cut often. Proxies come from the environment (HTTPS_PROXY, NO_PROXY), as everywhere.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any

from ..errors import DiskFull, DownloadFailed
from ..files import IN_USE

PART = ".part"  # the suffix of an unfinished download
BLOCK = 1 << 18  # bytes between two looks at ``cancelled``
RESERVE = 100_000_000  # bytes of the disk to leave free
ATTEMPTS = 5  # in a row without a single new byte
PAUSE = 0.5  # seconds, times the failures so far
TIMEOUT = 30.0  # seconds without a byte
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

DENIED = (401, 402, 403, 407, 451, 511)  # a permission or a password is missing, or a gateway wants a login
TUNNEL = re.compile(r"Tunnel connection failed: (\d+)")  # http.client's words for a proxy's refusal
RANGE = re.compile(r"bytes (\d+)-")

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
    """Downloads ``url`` to ``target``, going on where an earlier attempt stopped; False when it was cancelled.

    Arguments:
      sha256: of the whole file; empty takes what comes.
      size: expected bytes, for the disk check and until the server says; with a sha256 exact, and never exceeded.
      progress: called with bytes done and in total. cancelled: asked between blocks.

    Raises:
      DownloadFailed: refused, cut too often, or another file than expected. DiskFull.
    """
    part = target.with_name(target.name + PART)
    target.parent.mkdir(parents=True, exist_ok=True)
    _check_room(target, size - _size(part))
    try:
        whole = (exact := size if sha256 else 0) and _size(part) == exact
        if not (whole or _fetch_part(url, part, exact, progress, cancelled or (lambda: False))):
            return False
        _check_hash(url, part, sha256)
        os.replace(part, target)
    except OSError as problem:
        if problem.errno in FULL:
            part.unlink(missing_ok=True)  # it would only keep the disk full
            raise DiskFull(
                f"The disk is full: {target.name} could not be written to {target.parent}.",
                "Free some space, or set DESAM_HOME to a folder on another disk.",
            ) from problem
        what = f"{target.name} could not be written ({problem.strerror})."
        raise DownloadFailed(what, IN_USE if target.exists() else "") from problem
    finally:
        if not _size(part):
            part.unlink(missing_ok=True)
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
    """One connection. ``size`` is exact, or 0. Raises Cut for what may pass, DownloadFailed for what will not."""
    have = _size(part)
    response = _open(url, have)
    if response is None:
        return True
    with response:
        done = _start(response, have)
        announced = _total(response, done)
        _check_is_file(url, response, announced, size)
        total = size or announced
        with part.open("ab") as file:
            while not cancelled():
                block = _read(response)
                if not block:
                    break
                if done == 0 and block.lstrip()[:1] == b"<":
                    raise _page(url)
                file.write(block[max(0, have - done) :])  # what is here is not written again: no answer can spoil it
                done += len(block)
                if total and done > total:
                    file.truncate(have)
                    raise DownloadFailed(f"{url} sent more than the {total:,} bytes that were expected.", _by_hand(url))
                if progress:
                    progress(done, max(done, total))
            else:
                return False
    if done < total:
        raise Cut("the connection was closed early")
    return True


def _open(url: str, have: int) -> Any:
    """The answer to one request, from byte ``have``; None when there is nothing beyond it. Raises as ``_attempt``."""
    request = urllib.request.Request(url, headers={"User-Agent": "DeSAM", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        # An opener of its own: urlopen's shared one keeps the proxies of its first use.
        return urllib.request.build_opener().open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as problem:
        if problem.code == 416:  # the part is as long as the file, or longer: its hash will tell
            return None
        if (problem.code >= 500 and problem.code not in DENIED) or problem.code in (408, 429):
            raise Cut(f"HTTP {problem.code}") from None
        raise _refused(url, problem.code, problem.reason) from None
    except (OSError, HTTPException) as problem:
        cause = getattr(problem, "reason", problem)
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise DownloadFailed(
                f"The certificate that answered for {url} is not trusted ({cause.verify_message}).",
                f"Where a proxy reads along, set SSL_CERT_FILE to a file with its certificate. {_by_hand(url)}",
            ) from None
        if (refusal := TUNNEL.search(str(cause))) and int(refusal[1]) in DENIED:
            raise _refused(url, int(refusal[1]), "from the proxy") from None
        raise Cut(str(cause) or type(problem).__name__) from None


def _check_is_file(url: str, response: Any, announced: int, size: int) -> None:
    """Raises DownloadFailed where a proxy or a portal answers with a page of its own."""
    if response.headers.get("Content-Type", "").lower().startswith("text/html") or (
        size and announced and announced != size
    ):
        raise _page(url)


def _page(url: str) -> DownloadFailed:
    return DownloadFailed(f"What answered for {url} is not the file, but most likely a page of a proxy.", _by_hand(url))


def _refused(url: str, code: int, reason: str) -> DownloadFailed:
    what = f"The server refused {url} (HTTP {code} {reason})."
    if code not in DENIED:
        return DownloadFailed(what)
    proxy = "HTTPS_PROXY=http://NAME:PASSWORD@HOST:PORT"
    words = {407: f"The proxy wants a name and a password: set {proxy}.", 511: "The network wants a login first."}
    return DownloadFailed(what, f"{words.get(code, f'If a proxy is needed, set {proxy}.')} {_by_hand(url)}")


def _by_hand(url: str) -> str:
    return f"Or download {url} with a browser and add the file."


def _read(response: Any) -> bytes:
    """A block; network trouble becomes Cut, so that an OSError outside is the disk's."""
    try:
        return response.read1(BLOCK)
    except (OSError, HTTPException) as problem:
        raise Cut(str(problem) or type(problem).__name__) from None


def _start(response: Any, have: int) -> int:
    """The byte that an answer begins with: 0 where the server cannot resume and sends all of it (200)."""
    if response.status != 206:
        return 0
    told = RANGE.match(response.headers.get("Content-Range", ""))
    start = int(told[1]) if told else have
    if start > have:
        raise Cut("another part was sent than asked for")
    return start


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
