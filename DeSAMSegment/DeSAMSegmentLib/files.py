"""Writing files so that nobody ever sees half of one, and where the program keeps its own."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import DiskFull


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path``; on success it is flushed and renamed to it, on failure removed.

    The temporary name keeps the file's full suffix, because writers choose the format by it.

    Raises:
      DiskFull: when the disk has no room or the quota is used up.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
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
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes a UTF-8 text file in one piece."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def home() -> Path:
    """The folder for models, weights and the feature cache: ``DESAM_HOME``, or the user's own data folder."""
    chosen = os.environ.get("DESAM_HOME")
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_data_path

    return user_data_path("DeSAM", appauthor=False)
