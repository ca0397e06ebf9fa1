"""Data sets: nnU-Net raw folders, what a case is, and which cases train and which validate.

FOLDER/dataset.json                 labels: name -> value, or values of a region
FOLDER/imagesTr/CASE_0000.nii.gz    FOLDER/labelsTr/CASE.nii.gz, or CASE.seg.nrrd with names of its own
FOLDER/imagesTs/, labelsTs/         optional
FOLDER/domains.csv                  optional, two columns: case,domain
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..errors import BadDataset, BadInput, BadLabels
from .dataset_json import declared, read_description, region_order
from .grid import resample_labels
from .labels import LabelMap, Matcher, Names, drawn, ignored, label_values
from .volume import Volume


@dataclass(frozen=True)
class Case:
    """One image and, where it is known, its ground truth.

    Attributes:
      image: a file, a DICOM folder, or a volume in memory.
      labels: a file, or an array on the image's grid; None when there is none.
      domain: site, scanner or sequence.
      slices: "all" slices carry ground truth, or only the "labelled" ones (a user who drew on 5 of 60).
      names: label to its values in the label map, without the background; empty when nobody says. Names in the label
        file itself count more.
      series: which one of a DICOM folder, see ``read_volume``.
    """

    name: str
    image: Path | Volume
    labels: Path | np.ndarray | None = None
    domain: str = ""
    slices: str = "all"
    names: Names = field(default_factory=dict)
    series: str = ""


@dataclass(frozen=True)
class Dataset:
    """A data set on disk; nothing is read but names.

    Attributes:
      labels: value to name as a model would have them, without the background; the value of a region is its place in
        ``regions_class_order``, or a free one.
    """

    name: str
    cases: list[Case]
    labels: dict[int, str]
    test_cases: list[Case] = field(default_factory=list)
    folder: Path | None = None


def read_dataset(folder: str | Path, images: bool = True) -> Dataset:
    """The cases of an nnU-Net raw folder, in the order of their names.

    Of images with several channels the first (_0000) is used.

    Arguments:
      images: whether the cases need images; without, each label map of labelsTr stands for its image too.

    Raises:
      BadDataset: no such folder, no or bad dataset.json, no images, an image without its label map.
    """
    folder = Path(folder) if Path(folder).name else Path(folder).absolute()  # "." has no name
    if not folder.is_dir():
        raise BadDataset(f"There is no folder {folder}.", "Check the spelling.")
    description = read_description(folder)
    names = declared(description, folder / "dataset.json")
    labels = label_values(names, region_order(description, names, folder / "dataset.json"))
    ending = str(description.get("file_ending", ".nii.gz"))
    if not re.fullmatch(r"(\.\w+)+", ending):
        raise BadDataset(f"{folder / 'dataset.json'} has the file ending {ending!r}.", 'Give one like ".nii.gz".')
    domains = _read_domains(folder)
    if images:
        cases = _find_cases(folder, "Tr", ending, domains, names, strict=True)
    else:
        cases = _find_label_maps(folder, ending, domains, names)
    if not cases:
        raise BadDataset(
            f"The data set {folder.name} has no images in imagesTr.",
            f"Put images named CASE_0000{ending} there and label maps named CASE{ending} into labelsTr.",
        )
    tests = _find_cases(folder, "Ts", ending, domains, names, strict=False)
    return Dataset(folder.name, cases, labels, tests, folder)


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


def _find_cases(
    folder: Path, part: str, ending: str, domains: dict[str, str], names: Names, strict: bool
) -> list[Case]:
    cases = []
    for image in sorted((folder / f"images{part}").glob(f"[!.]*_0000{ending}")):  # "._" files are a Mac's
        name = image.name[: -len(f"_0000{ending}")]
        wanted = [folder / f"labels{part}" / f"{name}{suffix}" for suffix in (ending, ".seg.nrrd")]
        labels = next((path for path in wanted if path.exists()), None)
        if strict and labels is None:
            raise BadDataset(
                f"The image {image.name} of {folder.name} has no label map {wanted[0].name} in labels{part}.",
                "Add it, or move the image to imagesTs.",
            )
        cases.append(Case(name, image, labels, domains.get(name, ""), names=names))
    return cases


def _find_label_maps(folder: Path, ending: str, domains: dict[str, str], names: Names) -> list[Case]:
    found = {}
    for suffix in (".seg.nrrd", ending):
        for path in sorted((folder / "labelsTr").glob(f"[!.]*{suffix}")):
            name = path.name[: -len(suffix)]
            found[name] = Case(name, path, path, domains.get(name, ""), names=names)
    if not found:
        raise BadDataset(f"The data set {folder.name} has no label maps in labelsTr.", f"Put CASE{ending} there.")
    return [found[name] for name in sorted(found)]


def load_case(case: Case) -> tuple[Volume, LabelMap | None]:
    """The image of a case and its label map on the image's grid, or None without one.

    Raises:
      BadVolume, BadLabels: one line each.
    """
    from .reading import as_labels, read_labels, read_volume  # SimpleITK, which a list of cases does not need

    volume = case.image if isinstance(case.image, Volume) else read_volume(case.image, case.series)
    if case.labels is None:
        return volume, None
    if isinstance(case.labels, np.ndarray):
        if case.labels.shape != volume.array.shape:
            raise BadLabels(
                f"The labels of {case.name} have shape {case.labels.shape}, its image {volume.array.shape}.",
                "Give labels on the image's own voxels.",
            )
        title = f"The label array of {case.name}"
        return volume, LabelMap(as_labels(case.labels, title), volume.ijk_to_ras, title, names=case.names)
    labels = resample_labels(read_labels(case.labels), volume)
    return volume, labels if labels.names else replace(labels, names=case.names)


def load_labelled(case: Case) -> tuple[Volume, LabelMap]:
    """The image of a case and its label map on the image's grid.

    Raises:
      BadVolume, BadLabels: for what cannot be read, and for a case without labels.
    """
    volume, labels = load_case(case)
    if labels is None:
        raise BadLabels(f"The case {case.name} has no labels.", "Add its label map, or leave the case out.")
    return volume, labels


class CaseStore:
    """Labelled cases, each read once however often it is asked for.

    What does not fit into ``memory_bytes`` is kept uncompressed in ``folder`` and mapped from there.

    Arguments:
      matcher: finds the labels that matter in each case's label map.
      folder: for this purpose only; the caller removes it.
    """

    def __init__(self, matcher: Matcher, folder: Path, memory_bytes: float = 1e9) -> None:
        self.matcher, self.folder, self._left = matcher, folder, memory_bytes
        self.notes: list[str] = []  # about how cases were read
        self._kept: dict[int, tuple[Case, Volume, np.ndarray]] = {}  # by the case's identity: names may repeat

    def load(self, case: Case) -> tuple[Volume, np.ndarray]:
        """The image and memberships (K, J, I) on its grid. Raises BadVolume, BadLabels."""
        if id(case) not in self._kept:
            volume, labels = load_labelled(case)
            self.notes += [f"{case.name}: {each.note}" for each in (volume, labels) if each.note]
            members = self.matcher.members(case.name, labels)
            # an image that the caller holds is in memory anyway
            size = members.nbytes + (0 if isinstance(case.image, Volume) else volume.array.nbytes)
            if size > self._left:
                volume = replace(volume, array=self._mapped(volume.array, "image"))
                members = self._mapped(members, "labels")
            else:
                self._left -= size
            self._kept[id(case)] = case, volume, members
        return self._kept[id(case)][1:]

    def remarks(self) -> list[str]:
        """What should be said about the cases read so far; each is said once."""
        notes, self.notes = self.notes, []
        return notes + self.matcher.remarks()

    def _mapped(self, array: np.ndarray, what: str) -> np.ndarray:
        path = self.folder / f"{len(self._kept)}-{what}.npy"
        self.folder.mkdir(parents=True, exist_ok=True)
        np.save(path, array)  # written, not mapped: a full disk is an error here and not the end of the process
        return np.load(path, mmap_mode="r")


def labelled_slices(members: np.ndarray, axis: int) -> np.ndarray:
    """Array indices along ``axis`` of the slices with at least one labelled voxel, ascending."""
    others = tuple(a for a in range(3) if a != axis)
    return np.flatnonzero(drawn(members).any(axis=others))


def known_slices(members: np.ndarray, axis: int) -> np.ndarray:
    """Array indices along ``axis`` of the slices where somebody labelled something, be it background; ascending."""
    others = tuple(a for a in range(3) if a != axis)
    return np.flatnonzero(~ignored(members).all(axis=others))


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
