"""What became of each case of an archive: one JSON line per case, and whether a case is finished."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from DeSAMSegmentLib.errors import BadInput
from DeSAMSegmentLib.files import parse_json
from DeSAMSegmentLib.store.weights import hash_file


@dataclass(frozen=True)
class Record:
    """One line of a manifest.

    Attributes:
      output, input, series: as of ``tree.TreeTarget``.
      input_digest: SHA-256 of the bytes that were read; output_digest: of the file that was written.
      settings: all that the result depends on besides: SHA-256 of the model's file, options, format.
      seconds: reading, segmenting and writing. millilitres: per label.
      confidence: of the slice with the lowest, at ``lowest`` along the array axis that slices are counted along.
      flagged: slices that somebody should look at.
      error, remedy: why there is no output, and what to do; empty when there is one.
      written: ISO time.
    """

    output: str = ""
    input: str = ""
    series: str = ""
    input_digest: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    output_digest: str = ""
    seconds: float = 0.0
    slices: int = 0
    millilitres: dict[str, float] = field(default_factory=dict)
    confidence: float = 1.0
    lowest: int = 0
    flagged: list[int] = field(default_factory=list)
    note: str = ""
    error: str = ""
    remedy: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    written: str = ""

    def is_finished(self, input_digest: str, settings: dict[str, Any], path: Path) -> bool:
        """Whether ``path`` is what these settings make of this input, byte for byte."""
        same = (self.input_digest, self.settings, self.error) == (input_digest, settings, "")
        return same and path.is_file() and hash_file(path) == self.output_digest


class Manifest:
    """The records of one process in an output folder: ``manifest.jsonl``, of part 2 of 4 ``manifest.2-of-4.jsonl``.

    Each process appends to a file of its own, so that nothing is shared that a network's file system has to lock.
    """

    def __init__(self, folder: Path, part: tuple[int, int] = (1, 1)) -> None:
        self.folder = folder
        own = "" if part == (1, 1) else f".{part[0]}-of-{part[1]}"
        self.path = folder / f"manifest{own}.jsonl"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps a second process off the same part. The system releases the lock of a process that dies.

        Raises:
          BadInput: when another process holds it, or the folder cannot be written to.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.path.with_suffix(".lock"), timeout=0)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            what = f"Another process is writing {self.path}."
            raise BadInput(what, "Wait for its end, give each process a part of its own, or another folder.") from None
        except NotImplementedError:
            pass  # a file system without locks: parts have their own files all the same
        except OSError as error:
            raise BadInput(
                f"{self.folder} cannot be written to ({error.strerror}).", "Choose another folder."
            ) from None
        try:
            yield
        finally:
            lock.release()

    def append(self, record: Record) -> None:
        """Adds a line, on the disk when this returns; what a kill left of a line before stays a line of its own."""
        line = json.dumps(asdict(record), ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
        with self.path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


def read_manifests(folder: Path) -> dict[str, Record]:
    """The latest record of each output of a folder, from the manifests of all parts. Torn lines are passed over."""
    records = []
    for path in sorted(folder.glob("manifest*.jsonl")):
        for line in path.read_bytes().splitlines():
            try:
                records.append(_record(parse_json(line)))
            except (ValueError, TypeError, AttributeError):
                continue
    return {each.output: each for each in sorted(records, key=lambda each: each.written)}


def _record(values: Any) -> Record:
    """Raises ValueError, TypeError or AttributeError for what is none."""
    known = {each.name for each in fields(Record)}
    record = Record(**{key: value for key, value in values.items() if key in known})
    for name, fresh in vars(Record()).items():
        if not isinstance(getattr(record, name), int | float if isinstance(fresh, float) else type(fresh)):
            raise TypeError(name)
    return record
