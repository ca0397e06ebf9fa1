"""Writing files so that nobody ever sees half of one, and where the program keeps its own."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from .errors import BadInput, DiskFull

# Windows neither replaces nor deletes a file that a program has open or mapped, as weights are
IN_USE = "Close what has it open, 3D Slicer or another desam, or make it writable; then try again."
DEEPEST = 40  # levels of JSON in a file; those written here have 5
ABANDONED = 86_400.0  # seconds without a change after which nobody is writing a file any more, wherever they sit
_MARK = re.compile(r"desam-([0-9a-f]{8})-(\d+)-[0-9a-f]{4}")  # as ``mark`` makes it

_FORMER = re.compile(r"\.[0-9a-f]{8}\.[^.].*\.(desam|pt|csv|md|json|png|npz|nii|nii\.gz|nrrd|mha)")  # before marks


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path``; on success it is flushed and renamed to it, on failure removed.

    The temporary name keeps the file's full suffix, because writers choose the format by it.

    Raises:
      DiskFull: when the disk has no room or the quota is used up. BadInput: the older file cannot be replaced.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep_once(path.parent)
    temporary = path.with_name(f".{mark()}.{path.name}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFull(
                f"The disk is full: {path.name} could not be written to {path.parent}.",
                "Free some space or choose another folder; nothing half-written was left.",
            ) from error
        if isinstance(error, PermissionError) and path.exists():
            raise BadInput(f"{path} cannot be replaced ({error.strerror or error}).", IN_USE) from error
        raise
    finally:
        with suppress(OSError):  # an error before this one says more; what stays is swept another day
            temporary.unlink(missing_ok=True)


def check_name(path: Path) -> None:
    """Refuses a name that is not UTF-8: image libraries end the whole process over it. Raises BadInput."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = str(path).encode(errors="backslashreplace").decode()
        raise BadInput(f"The name {shown} is not valid UTF-8.", "Rename the file or folder.") from None


def probe(path: Path) -> None:
    """Asks before hours of work whether its result can be written there; leaves nothing behind.

    Raises:
      BadInput: a folder in its place, a name that is too long, no permission, a file where a folder should be.
    """
    blocked = next((folder for folder in path.parents if folder.is_file()), None)
    if blocked:
        raise BadInput(f"{blocked} is a file: there can be no {path.name} in it.", "Choose another output.")
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep_once(path.parent)
        temporary = path.with_name(f".{mark()}.{path.name}")  # as long as that of ``atomic_path``
        temporary.touch(exist_ok=False)
        temporary.unlink()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadInput(f"{path} cannot be written: {reason}.", "Choose another output.") from None
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


# ---- what a process that was killed leaves behind -------------------------------------------------------------------


def mark() -> str:
    """Part of a temporary name: the machine, the process, and four digits that tell its temporary files apart."""
    return f"desam-{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:4]}"


def is_stray(path: Path) -> bool:
    """Whether something under a temporary name has no owner any more.

    A folder may be shared by machines and containers, of whose processes nothing is known here: what they left goes
    when it is a file that was not written to for a day.
    """
    found = _MARK.search(path.name)
    if not found and not _FORMER.fullmatch(path.name):
        return False
    if found and found[1] == _machine():
        return not _is_running(int(found[2]))
    try:
        return path.is_file() and time.time() - path.stat().st_mtime > ABANDONED
    except OSError:
        return False


def sweep(folder: Path | None = None) -> None:
    """Removes what processes that were killed left in a folder; default: the scratch folders of the system's."""
    with suppress(OSError):
        for path in list((folder or Path(tempfile.gettempdir())).iterdir()):
            if is_stray(path):
                with suppress(OSError):
                    path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)


def make_scratch_folder(kind: str, where: Path | None = None) -> Path:
    """A new folder that only this user can read, beside those that are swept first."""
    sweep(where)
    return Path(tempfile.mkdtemp(prefix=f"{mark()}-{kind}-", dir=where))


@contextmanager
def scratch_folder(kind: str, where: Path | None = None) -> Iterator[Path]:
    """A scratch folder that is removed at the end of the block, or, after a kill, at the next start."""
    folder = make_scratch_folder(kind, where)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@cache
def _sweep_once(folder: Path) -> None:
    sweep(folder)


@cache
def _machine() -> str:
    """Eight digits for the machine, or the container, whose process numbers are meant."""
    names = [platform.node()]
    with suppress(OSError):
        names.append(os.readlink("/proc/self/ns/pid"))
        names.append(Path("/etc/machine-id").read_text())
    return f"{zlib.crc32(' '.join(names).encode()):08x}"


def _is_running(process: int) -> bool:
    if sys.platform == "win32":  # os.kill would end it
        handle = ctypes.windll.kernel32.OpenProcess(0x100000, False, process)  # SYNCHRONIZE
        ended = bool(handle) and ctypes.windll.kernel32.WaitForSingleObject(handle, 0) == 0
        ctypes.windll.kernel32.CloseHandle(handle) if handle else None
        return bool(handle) and not ended
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # somebody else's
    return True


def write_text(path: str | Path, text: str) -> None:
    """Writes a UTF-8 text file in one piece."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def home() -> Path:
    """The folder for models, weights and the feature cache: ``DESAM_HOME``, or the user's own data folder."""
    from platformdirs import user_data_path

    chosen = os.environ.get("DESAM_HOME")
    path = Path(os.path.expanduser(chosen) if chosen else user_data_path("DeSAM", appauthor=False))
    if path.parts[:1] == ("~",):  # neither HOME nor an entry among the users, as in some containers
        raise BadInput("This account has no home folder.", "Set DESAM_HOME to a folder of yours.")
    return path


def parse_json(text: str | bytes) -> Any:
    """JSON of whatever origin.

    Raises:
      ValueError: also for what ``json`` lets through or fails over: NaN, Infinity, 1e999, a key that
        stands twice, nesting without end.
    """

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is no number in JSON")

    def finite(digits: str) -> float:
        number = float(digits)
        return number if abs(number) < float("inf") else refuse(digits)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) < len(pairs):
            again = next(key for n, (key, _) in enumerate(pairs) if key in dict(pairs[:n]))
            raise ValueError(f"it says {again!r} twice")
        return table

    def check(value: Any, level: int = 0) -> None:
        if level > DEEPEST:
            raise ValueError("it is nested too deeply")
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            check(each, level + 1)

    try:
        value = json.loads(text, parse_constant=refuse, parse_float=finite, object_pairs_hook=unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    check(value)
    return value
