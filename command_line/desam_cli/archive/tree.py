"""Every volume in and below a folder, DICOM series included, and where its segmentation goes in another folder."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from DeSAMSegmentLib.engine.segment.targets import VOLUMES, Target, named, suffix_of, volume_files
from DeSAMSegmentLib.errors import BadInput
from DeSAMSegmentLib.files import check_name

from ..selection import parts, pattern

NO_IMAGES = ("SEG", "RTDOSE")  # modalities that have voxels and are results themselves


@dataclass(frozen=True)
class TreeTarget(Target):
    """One volume of a tree.

    Attributes:
      input: its file or folder below the root; output: its segmentation below the output folder, which no other case
        has. Both with slashes on every system.
      series: UID of a DICOM series; files: its files, with those of its folders that cannot be read.
    """

    input: str
    output: str
    series: str = ""
    files: tuple[Path, ...] = ()


def plan_tree(
    root: Path, output: Path, format: str, modality: str = "", description: str = ""
) -> tuple[list[TreeTarget], list[str]]:
    """Every volume in and below ``root``, and what should be said about those that are left out.

    The output mirrors the tree: ``a/b.nii.gz`` becomes ``a/b.seg.nrrd``; a DICOM series its number and description, in
    the folder that holds all of its files.

    Arguments:
      modality: of DICOM series, only those of these (``CT,MR``). description: only those it is found in (regular
      expression, whatever the case). Files of other kinds do not say what they are, and are not asked.

    Raises:
      BadInput: no folder, no volume in it, a type of file that cannot be written.
    """
    from DeSAMSegmentLib.data.dicom_headers import walk

    suffix = suffix_of(format)
    if not root.is_dir() or output.is_file():
        raise BadInput(f"{output if root.is_dir() else root} is not a folder.", "--recursive takes two folders.")
    check_name(output)
    whole, results = (Path(os.path.realpath(each)) for each in (root, output))  # no error over links in a circle
    if results == whole:
        raise BadInput(f"{output} is the folder of the volumes itself.", "Choose another, results are no volumes.")
    files = [path for path in walk(root) if whole not in results.parents or not _is_below(path.parent, results)]
    found = [*_volumes(root, files)]
    wanted = pattern("--description", description, re.IGNORECASE)
    series, left_out = _series(root, files, parts(modality.upper()), wanted)
    found += series
    if not found:
        raise BadInput(f"There is no volume in and below {root}. {left_out}".strip(), "Check the folder.")
    times = Counter(f"{folder}/{name}".casefold() for folder, name, *_ in found)
    cases = []
    for folder, name, source, uid, own in found:
        input = source.relative_to(root).as_posix()
        if times[f"{folder}/{name}".casefold()] > 1:
            name += "_" + hashlib.sha256(f"{input} {uid}".encode()).hexdigest()[:8]
        place = (folder / f"{name}{suffix}").relative_to(root)
        cases.append(TreeTarget(name, source, output / place, input, place.as_posix(), uid, own))
    return cases, [left_out] if left_out else []


@cache
def _is_below(folder: Path, other: Path) -> bool:
    resolved = Path(os.path.realpath(folder))
    return other == resolved or other in resolved.parents


Found = tuple[Path, str, Path, str, tuple[Path, ...]]  # folder, name, source, UID, files


def _volumes(root: Path, files: list[Path]) -> Iterator[Found]:
    folders: dict[Path, list[Path]] = defaultdict(list)
    for path in files:
        folders[path.parent].append(path)
    for folder, entries in folders.items():
        yield from ((folder, name, path, "", ()) for name, path in named(volume_files(entries)))


def _series(
    root: Path, files: list[Path], modalities: list[str], description: re.Pattern[str]
) -> tuple[list[Found], str]:
    """The DICOM series asked for; a folder of which no file can be read counts as one, for it may have been."""
    from DeSAMSegmentLib.data.dicom import survey

    series, broken = survey(path for path in files if not path.name.lower().endswith(VOLUMES))
    found: list[Found] = []
    left_out: Counter[str] = Counter()
    at_home: set[Path] = set()
    for each in series:
        folders = {path.parent for path in each.files}
        at_home |= folders
        if not (
            each.modality in modalities if modalities else each.modality not in NO_IMAGES
        ) or not description.search(each.description):
            left_out[each.modality or "unknown"] += 1
            continue
        folder = Path(os.path.commonpath(folders))
        name = re.sub(r"[^\w.-]+", "_", f"{each.number or 'series'} {each.description}").strip("_.")
        own = (*each.files, *(path for path in broken if path.parent in folders))
        found.append((folder, name, folder, each.uid, own))
    for folder in sorted({path.parent for path in broken} - at_home):
        own = tuple(path for path in broken if path.parent == folder)
        found.append((folder, "unreadable", folder, "", own))
    words = ", ".join(f"{count} of modality {modality}" for modality, count in sorted(left_out.items()))
    return found, f"DICOM series left out: {words}." if words else ""


def in_part(cases: list[TreeTarget], part: str) -> tuple[list[TreeTarget], tuple[int, int]]:
    """The cases of part ``i/n``, and i and n. Which part a case is in depends on its output and n alone.

    Raises:
      BadInput: when it is no such part.
    """
    given = re.fullmatch(r"(\d{1,6})/(\d{1,6})", part or "1/1")
    number, of = (int(given[1]), int(given[2])) if given else (0, 0)
    if not 1 <= number <= of:
        raise BadInput(f"--part {part} is no part of a whole.", "Give 1/4, 2/4, 3/4 and 4/4 to four processes.")
    return [each for each in cases if _hash(each.output) % of == number - 1], (number, of)


def _hash(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)
