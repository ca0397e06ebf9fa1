"""Failures a user can act on: one line that says what happened and what to do about it.

Every face of the program (panel, console, command line) shows ``str(error)`` as it stands, so the text is written
for a radiology researcher. Anything that is not a ``DeSAMError`` is a defect of the program and keeps its traceback.
"""

from __future__ import annotations


class DeSAMError(Exception):
    """Base of all failures with a remedy.

    Arguments:
      what: what happened, one sentence, naming the file or node concerned.
      do: what the user can do about it, one sentence; may be empty.
    """

    def __init__(self, what: str, do: str = "") -> None:
        self.what = " ".join(what.split())
        self.do = " ".join(do.split())
        super().__init__(f"{self.what} {self.do}".strip())


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
    """The weights of a frozen backbone are not on this computer."""


class DownloadFailed(DeSAMError):
    """A download was cut, refused, or gave a file with the wrong SHA-256."""


class DiskFull(DeSAMError):
    """A file could not be written; nothing half-written is left."""


class OutOfMemory(DeSAMError):
    """Neither a smaller batch nor the CPU was enough."""
