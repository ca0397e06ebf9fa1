"""Which volumes a call segments, and which file each of them becomes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import BadInput
from ...files import check_name

VOLUMES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
OTHER_TYPES = (".png", ".jpg", ".tif", ".tiff", ".stl", ".gz", ".mhd", ".nhdr", ".hdr", ".img", ".vtk", ".h5")
CHANNEL = re.compile(r"(.+)_(?!0000)\d{4}", re.DOTALL)  # a stem of any channel of nnU-Net's but the first
WRITTEN = (".seg.nrrd", ".nii.gz", ".nii", ".nrrd", ".mha", ".dcm")
SUFFIXES = {"dicomseg": ".seg.dcm"}  # of formats that are not called by them


@dataclass(frozen=True)
class Target:
    """One volume (a file or a DICOM folder) and the segmentation file it becomes."""

    name: str
    source: Path
    path: Path


def plan(source: Path, output: Path, format: str) -> list[Target]:
    """Pairs every volume of ``source`` with its output file.

    Raises:
      BadInput: no such file, no volume in the folder, an unknown output type, an output that would replace an
      input.
    """
    suffix = suffix_of(format)
    if not source.exists():
        raise BadInput(f"There is no file or folder {source}.", "Check the path of the volume.")
    check_name(output)
    volumes = _volumes(source if case_name(source).strip(".") else Path(os.path.abspath(source)))  # "." has no name
    if output.name.lower().endswith(WRITTEN) and not output.is_dir():
        if len(volumes) > 1:
            raise BadInput(f"{source} holds {len(volumes)} volumes, {output.name} is one file.", "Name a folder.")
        targets = [Target(case_name(volumes[0]), volumes[0], output)]
    elif output.is_file() or output.suffix.lower() in OTHER_TYPES:
        types = ", ".join(WRITTEN)
        raise BadInput(f"{output} is not a type of file that can be written.", f"Choose one of {types}, or a folder.")
    else:
        targets = [Target(name, each, output / f"{name}{suffix}") for name, each in named(volumes)]
    check_targets(targets)
    return targets


def suffix_of(format: str) -> str:
    """The suffix of files of a format.

    Raises:
      BadInput: when it is none that can be written.
    """
    suffix = SUFFIXES.get(format, "." + format.lstrip("."))
    if suffix not in (*WRITTEN[:-1], *SUFFIXES.values()):
        types = ", ".join((*WRITTEN[:-1], *SUFFIXES))
        raise BadInput(f"Cannot write files of type {format}.", f"Choose one of {types}.")
    return suffix


def check_targets(targets: list[Target]) -> None:
    """Nothing may replace its volume, and no two become one file, nor two that only some file systems tell apart."""
    taken: dict[str, Path] = {}
    for target in targets:
        if os.path.realpath(target.path) == os.path.realpath(target.source):  # no error over links in a circle
            raise BadInput(f"{target.path} is the volume itself.", "Choose another output, it would be replaced.")
        if target.path.suffix.lower() == ".dcm" and target.path.is_file() and target.source in target.path.parents:
            raise BadInput(f"{target.path} may be one of the images.", "Choose another output, it would be replaced.")
        other = taken.setdefault(str(target.path).casefold(), target.source)
        if other is not target.source:
            raise BadInput(
                f"{other.name} and {target.source.name} would both become {target.path.name}.",
                "Rename one of them, or segment them one at a time.",
            )


def _volumes(source: Path) -> list[Path]:
    """The file itself; the volumes of a folder; the folder itself when it is a DICOM series; its series
    otherwise.
    """
    if source.is_file():
        return [source]
    entries = sorted(entry for entry in source.iterdir() if not entry.name.startswith("."))
    if files := volume_files(entries):
        return files
    if any(entry.is_file() for entry in entries):
        return [source]
    folders = [entry for entry in entries if entry.is_dir() and any(entry.iterdir())]
    if not folders:
        raise BadInput(
            f"The folder {source} holds no volume.", f"Give a folder of {', '.join(VOLUMES)} or DICOM files."
        )
    return folders


def volume_files(entries: Iterable[Path]) -> list[Path]:
    """Those of one folder's entries that are volumes."""
    files = [entry for entry in entries if entry.is_file() and entry.name.lower().endswith(VOLUMES)]
    files = [entry for entry in files if not entry.name.lower().endswith(".seg.nrrd")]  # results of an earlier call
    # nnU-Net: of a case that has a first channel, the others are no volumes of their own
    first = {case_name(entry) for entry in files if _stem(entry).endswith("_0000")}
    return [entry for entry in files if not (found := CHANNEL.fullmatch(_stem(entry))) or found[1] not in first]


def named(volumes: Sequence[Path]) -> list[tuple[str, Path]]:
    """Volumes of one folder with the names of their cases; beside x.nii.gz, x_0000.nii.gz keeps its number."""
    stems = {_stem(each) for each in volumes}
    return [(_stem(each) if case_name(each) in stems else case_name(each), each) for each in volumes]


def case_name(path: Path) -> str:
    """The case name: without the suffix, and without nnU-Net's channel number."""
    return _stem(path).removesuffix("_0000")


def _stem(path: Path) -> str:
    suffix = next((each for each in VOLUMES if path.is_file() and path.name.lower().endswith(each)), "")
    return path.name[: len(path.name) - len(suffix)]
