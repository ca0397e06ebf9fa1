"""What ``desam segment`` reads and writes: every volume of the input with the file it becomes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import BadInput

VOLUMES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
OTHER_TYPES = (".dcm", ".png", ".jpg", ".tif", ".tiff", ".stl", ".gz", ".mhd", ".nhdr", ".hdr", ".img", ".vtk", ".h5")
WRITTEN = (".seg.nrrd", ".nii.gz", ".nii", ".nrrd", ".mha")


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
    suffix = "." + format.lstrip(".")
    if suffix not in WRITTEN:
        raise BadInput(f"Cannot write files of type {format}.", f"Choose one of {', '.join(WRITTEN)}.")
    if not source.exists():
        raise BadInput(f"There is no file or folder {source}.", "Check the path of the volume.")
    volumes = _volumes(source)
    named = next((each for each in WRITTEN if output.name.lower().endswith(each)), None)
    if named and not output.is_dir():
        if len(volumes) > 1:
            raise BadInput(f"{source} holds {len(volumes)} volumes, {output.name} is one file.", "Name a folder.")
        targets = [Target(name_of(volumes[0]), volumes[0], output)]
    else:
        _check_folder(output)
        targets = [Target(name_of(each), each, output / f"{name_of(each)}{suffix}") for each in volumes]
    _check_distinct(targets)
    for target in targets:
        if target.path.resolve() == target.source.resolve():
            raise BadInput(f"{target.path} is the volume itself.", "Choose another output, it would be replaced.")
    return targets


def _check_distinct(targets: list[Target]) -> None:
    """Two volumes must not become one file, nor two that only some file systems tell apart."""
    taken: dict[str, Target] = {}
    for target in targets:
        other = taken.setdefault(str(target.path).casefold(), target)
        if other is not target:
            raise BadInput(
                f"{other.source.name} and {target.source.name} would both become {target.path.name}.",
                "Rename one of them, or segment them one at a time.",
            )


def _check_folder(output: Path) -> None:
    if output.is_file():
        raise BadInput(
            f"{output} is a file of a type that cannot be written.",
            f"Choose one of {', '.join(WRITTEN)}, or a folder.",
        )
    if output.suffix.lower() in OTHER_TYPES:
        raise BadInput(
            f"{output.name} is not a type of file that can be written.", f"Choose one of {', '.join(WRITTEN)}."
        )


def _volumes(source: Path) -> list[Path]:
    """The file itself; the volumes of a folder; the folder itself when it is a DICOM series; its series
    otherwise.
    """
    if source.is_file():
        return [source]
    entries = sorted(entry for entry in source.iterdir() if not entry.name.startswith("."))
    files = [entry for entry in entries if entry.is_file() and entry.name.lower().endswith(VOLUMES)]
    files = [entry for entry in files if not entry.name.lower().endswith(".seg.nrrd")]  # results of an earlier call
    if files:
        # nnU-Net: the first channel of each case, as the data sets are read
        return [entry for entry in files if name_of(entry) != _stem(entry)] or files
    if any(entry.is_file() for entry in entries):
        return [source]
    folders = [entry for entry in entries if entry.is_dir() and any(entry.iterdir())]
    if not folders:
        raise BadInput(
            f"The folder {source} holds no volume.", f"Give a folder of {', '.join(VOLUMES)} or DICOM files."
        )
    return folders


def name_of(path: Path) -> str:
    """The case name: without the suffix, and without nnU-Net's channel number."""
    return _stem(path).removesuffix("_0000")


def _stem(path: Path) -> str:
    suffix = next((each for each in VOLUMES if path.is_file() and path.name.lower().endswith(each)), "")
    return path.name[: len(path.name) - len(suffix)]
