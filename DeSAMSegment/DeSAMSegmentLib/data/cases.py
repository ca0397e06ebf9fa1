"""Data sets: nnU-Net raw folders, what a case is, and which cases train and which validate.

FOLDER/dataset.json                 labels: name -> value
FOLDER/imagesTr/CASE_0000.nii.gz    FOLDER/labelsTr/CASE.nii.gz
FOLDER/imagesTs/, labelsTs/         optional
FOLDER/domains.csv                  optional, two columns: case,domain
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import BadDataset, BadInput, BadLabels
from .reading import as_labels, read_labels, read_volume
from .volume import Volume, resample_labels


@dataclass(frozen=True)
class Case:
    """One image and, if known, its truth.

    Attributes:
      image: a file, a DICOM folder, or a volume in memory.
      labels: a file, or an array on the image's grid; None when there is none.
      domain: site, scanner or sequence.
      slices: "all" slices carry truth, or only the "labelled" ones (a user who drew on 5 of 60).
    """

    name: str
    image: Path | Volume
    labels: Path | np.ndarray | None = None
    domain: str = ""
    slices: str = "all"


@dataclass(frozen=True)
class Dataset:
    """A data set on disk; nothing is read but names. ``labels``: value to name, without the background."""

    name: str
    cases: list[Case]
    labels: dict[int, str]
    test_cases: list[Case] = field(default_factory=list)
    folder: Path | None = None


def read_dataset(folder: str | Path) -> Dataset:
    """The cases of an nnU-Net raw folder, in the order of their names.

    Of images with several channels the first (_0000) is used.

    Raises:
      BadDataset: no such folder, no or bad dataset.json, no images, an image without its label map.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadDataset(f"There is no folder {folder}.", "Check the spelling.")
    labels, ending = _read_description(folder)
    domains = _read_domains(folder)
    cases = _find_cases(folder, "Tr", ending, domains, strict=True)
    if not cases:
        raise BadDataset(
            f"The data set {folder.name} has no images in imagesTr.",
            f"Put images named CASE_0000{ending} there and label maps named CASE{ending} into labelsTr.",
        )
    tests = _find_cases(folder, "Ts", ending, domains, strict=False)
    return Dataset(folder.name, cases, labels, tests, folder)


def _read_description(folder: Path) -> tuple[dict[int, str], str]:
    path = folder / "dataset.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8-sig"))
        raw = description["labels"]
        # Version 2 of the format maps names to values, version 1 values to names.
        pairs = [(k, v) if isinstance(v, str) else (v, k) for k, v in raw.items()]
        labels = {int(value): str(name) for value, name in pairs if int(value) != 0}
        ending = str(description.get("file_ending", ".nii.gz"))
    except FileNotFoundError:
        raise BadDataset(
            f"{folder} is not a data set: it has no dataset.json.",
            "Give an nnU-Net raw folder: dataset.json, imagesTr and labelsTr.",
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadDataset(
            f"{path} cannot be used.", 'It needs "labels": {"background": 0, "organ": 1}, one number per name.'
        ) from None
    if not labels:
        raise BadDataset(f"{path} names no label but the background.", 'Add the organ to "labels".')
    return dict(sorted(labels.items())), ending


def _read_domains(folder: Path) -> dict[str, str]:
    path = folder / "domains.csv"
    if not path.exists():
        return {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if not {"case", "domain"} <= set(reader.fieldnames or ()):
                raise BadDataset(f"{path} has no columns case and domain.", "Start it with the line: case,domain")
            return {(row["case"] or "").strip(): (row["domain"] or "").strip() for row in reader}
    except (ValueError, csv.Error) as error:
        raise BadDataset(f"{path} cannot be read ({error}).", "Save it as CSV in UTF-8.") from None


def _find_cases(folder: Path, part: str, ending: str, domains: dict[str, str], strict: bool) -> list[Case]:
    cases = []
    for image in sorted((folder / f"images{part}").glob(f"*_0000{ending}")):
        name = image.name[: -len(f"_0000{ending}")]
        labels = folder / f"labels{part}" / f"{name}{ending}"
        known = labels.exists()
        if strict and not known:
            raise BadDataset(
                f"The image {image.name} of {folder.name} has no label map {labels.name} in labels{part}.",
                "Add it, or move the image to imagesTs.",
            )
        cases.append(Case(name, image, labels if known else None, domains.get(name, "")))
    return cases


def load(case: Case) -> tuple[Volume, np.ndarray | None]:
    """The image of a case and its labels on the image's grid (uint8 or uint16), or None without labels.

    Raises:
      BadVolume, BadLabels: one line each.
    """
    volume = case.image if isinstance(case.image, Volume) else read_volume(case.image)
    if case.labels is None:
        return volume, None
    if isinstance(case.labels, np.ndarray):
        if case.labels.shape != volume.array.shape:
            raise BadLabels(
                f"The labels of {case.name} have shape {case.labels.shape}, its image {volume.array.shape}.",
                "Give labels on the image's own voxels.",
            )
        return volume, as_labels(case.labels, f"The label array of {case.name}")
    return volume, resample_labels(read_labels(case.labels), volume)


def load_labelled(case: Case) -> tuple[Volume, np.ndarray]:
    """The image of a case and its labels on the image's grid.

    Raises:
      BadVolume, BadLabels: for what cannot be read, and for a case without labels.
    """
    volume, truth = load(case)
    if truth is None:
        raise BadLabels(f"The case {case.name} has no labels.", "Add its label map, or leave the case out.")
    return volume, truth


def require_labels(cases: Iterable[Case], values: Iterable[int]) -> None:
    """Checks before a long job that every label asked for is drawn in at least one case.

    Raises:
      BadLabels: naming the absent values and those that are there.
    """
    missing, seen = set(values), set[int]()
    names = []
    for case in cases:
        if not missing:
            return
        if case.labels is None:
            continue
        array = case.labels if isinstance(case.labels, np.ndarray) else read_labels(case.labels).array
        present = {int(v) for v in np.unique(array)} - {0}
        names.append(case.name)
        seen |= present
        missing -= present
    if missing:
        where = f"the label map of {names[0]}" if len(names) == 1 else f"any of the {len(names)} label maps"
        there = ", ".join(map(str, sorted(seen))) or "none"
        raise BadLabels(
            f"Label {', '.join(map(str, sorted(missing)))} does not occur in {where}.",
            f"Labels that do occur: {there}. Choose among these, or correct the labels in dataset.json.",
        )


def labelled_slices(labels_kji: np.ndarray, axis: int) -> np.ndarray:
    """Array indices along ``axis`` of the slices with at least one labelled voxel, ascending."""
    others = tuple(a for a in range(3) if a != axis)
    return np.flatnonzero((np.asarray(labels_kji) != 0).any(axis=others))


def split(
    cases: Sequence[Case], fraction: float, seed: int, patient_pattern: str = ""
) -> tuple[list[Case], list[Case]]:
    """Training and validation cases; those of one patient stay together.

    At least one patient trains, and with two patients or more at least one validates, unless ``fraction`` is 0.

    Arguments:
      fraction: share of patients that validate. seed: the same seed gives the same split, in any order of cases.
      patient_pattern: see ``patient_finder``.

    Raises:
      BadInput: when the pattern is no regular expression.
    """
    find = patient_finder(patient_pattern)
    patient = {case.name: find(case.name) for case in cases}
    patients = sorted(set(patient.values()))
    np.random.default_rng(seed).shuffle(patients)
    count = 0
    if fraction > 0 and len(patients) > 1:
        count = min(max(1, round(fraction * len(patients))), len(patients) - 1)
    held_out = set(patients[:count])
    training = [case for case in cases if patient[case.name] not in held_out]
    return training, [case for case in cases if patient[case.name] in held_out]


def patient_finder(pattern: str) -> Callable[[str], str]:
    """What tells the patient from a case's name: the pattern's first group, or all that it matches.

    A case that the pattern does not match is a patient of its own, as is every case without a pattern.

    Arguments:
      pattern: regular expression, as in "(patient\\d+)_frame"; empty for none.

    Raises:
      BadInput: when the pattern is no regular expression.
    """
    try:
        search = re.compile(pattern).search if pattern else None
    except re.error as problem:
        raise BadInput(
            f"The patient pattern {pattern!r} is no regular expression ({problem}).",
            "Try one like (patient[0-9]+)_frame.",
        ) from None

    def patient(name: str) -> str:
        match = search(name) if search else None
        return name if match is None else match.group(1 if match.re.groups else 0) or name

    return patient
