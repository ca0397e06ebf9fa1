"""Failures a user can act on: what happened, what to do about it, and for the faces a kind with data.

An engine says what is the case; it does not know whether a panel or a command line is listening. What to do is said
here only where it is the same for everybody ("Export it again"). Where it differs, the error has a ``kind`` and data,
and each face has words of its own for it: ``desam_cli/remedies.py``, ``panel/kit/remedies.py``. Anything that is not a
``DeSAMError`` is an internal error and keeps its traceback.
"""

from __future__ import annotations

import errno
import unicodedata
from collections.abc import Mapping
from typing import Any

JOINERS = "\u200c\u200d"  # format characters that Persian and Indic scripts are written with


class DeSAMError(Exception):
    """Base of all failures with a remedy.

    Arguments:
      what: what happened, one sentence, naming the file or node concerned.
      do: what the user can do about it, whichever face they use; may be empty.
      kind: what the faces look their own remedy up by; empty where ``do`` is enough.
      data: what a face's remedy may name: text and numbers.
    """

    def __init__(self, what: str, do: str = "", *, kind: str = "", **data: Any) -> None:
        self.what, self.do = printable(what), printable(do)
        self.kind, self.data = kind, data
        super().__init__(f"{self.what} {self.do}".strip())

    def in_words(self, remedies: Mapping[str, str]) -> str:
        """What happened and what a face advises."""
        return printable(f"{self.what} {self.remedy(remedies)}")

    def remedy(self, remedies: Mapping[str, str]) -> str:
        """What a face advises: its own remedy for this kind, or the general one."""
        words = remedies.get(self.kind)
        return printable(words.format(**self.data) if words else self.do)


def printable(text: str) -> str:
    """The text on one line, without what would steer a terminal or turn its direction: names come from files."""
    words = " ".join(text.split())
    if words.isprintable():
        return words
    return "".join(c for c in words if c in JOINERS or unicodedata.category(c) not in ("Cc", "Cf", "Cs"))


def reason(error: Exception, remedies: Mapping[str, str] | None = None) -> str:
    """Why one case of many failed: a DeSAMError in a face's words, anything else with its class."""
    if isinstance(error, DeSAMError):
        return error.in_words(remedies or {})
    return f"{type(error).__name__}: {printable(str(error))[:300] or 'no more is known'}"


def is_full(error: Exception) -> bool:
    """Whether the disk was full: of many cases the others would meet the same one."""
    return isinstance(error, DiskFull) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)


class BadInput(DeSAMError):
    """The user's file, folder or option cannot be used (exit code 2 of the command line)."""


class BadVolume(BadInput):
    """An image that cannot be segmented: unreadable, not 3-D, not finite, constant."""


class BadLabels(BadInput):
    """A label map that does not fit its image, or lacks the label asked for."""


class BadDataset(BadInput):
    """A data set folder that is empty or not in the nnU-Net raw layout."""


class BadModelFile(BadInput):
    """A model file that is damaged, of another format, or made for another backbone."""


class WeightsMissing(BadInput):
    """The weights of a frozen backbone are not installed."""


class DownloadFailed(DeSAMError):
    """A download was cut, refused, or gave a file with the wrong SHA-256."""


class DiskFull(DeSAMError):
    """A file could not be written; nothing half-written is left."""


class OutOfMemory(DeSAMError):
    """Neither a smaller batch nor the CPU was enough."""
