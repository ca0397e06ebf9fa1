"""Data sets: found, checked, split by patient."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from data_samples import SHARED, affine, needs_shared_data, noise
from DeSAMSegmentLib.data.cases import Case, labelled_slices, load_case, read_dataset, split
from DeSAMSegmentLib.data.itk import to_image
from DeSAMSegmentLib.data.volume import Volume
from DeSAMSegmentLib.errors import BadDataset, BadInput, BadLabels, BadVolume


def save(path: Path, array: np.ndarray, matrix=None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(to_image(array, affine() if matrix is None else matrix), str(path))


def make_dataset(folder: Path, names=("a1", "a2", "b1"), **description) -> Path:
    """A small nnU-Net raw folder; organ 1 in every case, 2 in none."""
    description = {"labels": {"background": 0, "organ": 1, "rare": 2}, "file_ending": ".nii.gz"} | description
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(description))
    for number, name in enumerate(names):
        save(folder / f"imagesTr/{name}_0000.nii.gz", noise(seed=number).array)
        labels = np.zeros((5, 7, 9), np.uint8)
        labels[2:4, 2:5, 3:6] = 1
        save(folder / f"labelsTr/{name}.nii.gz", labels)
    return folder


def refused(folder: Path, words: str) -> None:
    with pytest.raises(BadDataset) as error:
        read_dataset(folder)
    assert words in str(error.value)
    assert error.value.do
    assert "\n" not in str(error.value)


def test_a_folder_is_read_with_labels_domains_and_test_cases(tmp_path):
    folder = make_dataset(tmp_path / "Dataset001_Organ")
    (folder / "domains.csv").write_text("\ufeffcase,domain\na1, Site A \nb1,Site B\n", encoding="utf-8")
    save(folder / "imagesTs/c1_0000.nii.gz", noise().array)
    dataset = read_dataset(folder)
    assert dataset.name == "Dataset001_Organ"
    assert dataset.labels == {1: "organ", 2: "rare"}
    assert [(c.name, c.domain) for c in dataset.cases] == [("a1", "Site A"), ("a2", ""), ("b1", "Site B")]
    assert [(c.name, c.labels) for c in dataset.test_cases] == [("c1", None)]
    volume, labels = load_case(dataset.cases[0])
    assert volume.array.shape == labels.array.shape == (5, 7, 9)
    assert load_case(dataset.test_cases[0])[1] is None


def test_labels_written_the_old_way_and_other_endings_are_understood(tmp_path):
    folder = make_dataset(tmp_path, names=())
    (folder / "dataset.json").write_text(json.dumps({"labels": {"0": "bg", "3": "organ"}, "file_ending": ".nrrd"}))
    save(folder / "imagesTr/x_0000.nrrd", noise().array)
    save(folder / "imagesTr/x_0001.nrrd", noise().array)  # a second channel is left aside
    save(folder / "labelsTr/x.nrrd", np.ones((5, 7, 9), np.uint8))
    dataset = read_dataset(folder)
    assert dataset.labels == {3: "organ"}
    assert [c.name for c in dataset.cases] == ["x"]


def test_a_data_set_that_is_none_says_what_is_missing(tmp_path):
    refused(tmp_path / "nowhere", "no folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "dataset.json")
    refused(make_dataset(tmp_path / "noimages", names=()), "no images")
    folder = make_dataset(tmp_path / "nolabel")
    (folder / "labelsTr/a2.nii.gz").unlink()
    refused(folder, "a2_0000.nii.gz")
    for number, text in enumerate(("{", "[]", "{}", '{"labels": 3}', "[" * 100_000)):
        folder = make_dataset(tmp_path / f"bad{number}")
        (folder / "dataset.json").write_text(text)
        refused(folder, "dataset.json")
    refused(make_dataset(tmp_path / "nothing", labels={"background": 0}), "no label")
    folder = make_dataset(tmp_path / "domains")
    (folder / "domains.csv").write_text("name;site\na1;A\n")
    refused(folder, "domains.csv")
    (folder / "domains.csv").write_bytes("case,domain\na1,Zürich\n".encode("cp1252"))  # as Excel saves it
    refused(folder, "Save it as CSV in UTF-8")


LABELS_REFUSED = {
    '{"organ": 1.5}': "the label organ the value 1.5",
    '{"organ": -1}': "the value -1",
    '{"organ": true}': "the value True",
    '{"organ": "one"}': "the label organ the value one",
    '{"organ": []}': "the label organ the value []",
    '{"organ": [0, 1]}': "0 is the background",
    '{"background": 3, "organ": 1}': "the label background the value 3",
    '{"a b": 1, "A_B": 2}': "two labels A_B",
    '{"M\u00fcsk": 1, "Mu\u0308sk": 2}': "two labels",
    '{"a": 1, "b": 1}': "a and b the same value 1",
    '{"a": 1, "b": 2, "a": 2}': "it says 'a' twice",
    '{" ": 1}': "without a name",
    '{"IGNORE": 1}': "no label but the background",
    '{"whole": [1, 2], "b": 2}, "regions_class_order": [1, 1]': "2 different values",
    '{"whole": [1, 2], "b": 2}, "regions_class_order": [1]': "2 different values",
}


@pytest.mark.parametrize("text", LABELS_REFUSED)
def test_labels_that_contradict_themselves_are_refused_with_the_cause(text: str, tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(f'{{"labels": {text}}}')
    refused(tmp_path, LABELS_REFUSED[text])


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ('{"background": "0", "a": "1", "b": 2.0}', {1: "a", 2: "b"}),
        ('{"0": "background", "1": "a", "2": "2"}', {1: "a", 2: "2"}),
        ('{"whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]', {1: "whole", 2: "core"}),
        ('{"a": 1, "b": 2}, "regions_class_order": [2, 1]', {1: "a", 2: "b"}),  # as nnU-Net: it is for regions
    ],
)
def test_every_way_to_write_labels_is_understood(text: str, labels: dict[int, str], tmp_path: Path) -> None:
    folder = make_dataset(tmp_path, ("x",))
    (folder / "dataset.json").write_text(f'{{"labels": {text}}}')
    assert read_dataset(folder).labels == labels


def test_labels_of_another_grid_are_resampled_or_refused_by_name(tmp_path):
    folder = make_dataset(tmp_path)
    cropped = np.ones((5, 7, 3), np.uint8)
    save(folder / "labelsTr/a1.nii.gz", cropped, affine(origin=(3.0, 0.0, 0.0)))
    cases = read_dataset(folder).cases
    _, labels = load_case(cases[0])
    assert labels.array[:, :, 3:6].all()
    assert labels.array.sum() == cropped.sum()
    save(folder / "labelsTr/a1.nii.gz", cropped, affine(origin=(300.0, 0.0, 0.0)))
    with pytest.raises(BadLabels, match="overlap"):
        load_case(cases[0])


def test_arrays_in_memory_are_cases_too():
    volume = noise()
    drawn = np.zeros(volume.array.shape)
    drawn[2] = 1
    _, labels = load_case(Case("drawn", volume, drawn))
    assert labels.array.dtype == np.uint8
    with pytest.raises(BadLabels, match="shape"):
        load_case(Case("drawn", volume, drawn[1:]))
    with pytest.raises(BadLabels, match="drawn"):
        load_case(Case("drawn", volume, drawn * 0.5))
    with pytest.raises(BadVolume):
        load_case(Case("gone", Path("gone.nii.gz"), drawn))


def test_labelled_slices_are_found_along_every_axis():
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[1, 2, 3:5] = 2
    labels[3, 2, 4] = 1
    assert labelled_slices(labels, 0).tolist() == [1, 3]
    assert labelled_slices(labels, 1).tolist() == [2]
    assert labelled_slices(labels, 2).tolist() == [3, 4]


# Splitting


def cases_named(*names: str) -> list[Case]:
    return [Case(name, Path(name)) for name in names]


HEART = cases_named(*(f"patient{p:03d}_frame{f:02d}" for p in range(10) for f in (1, 12)))


def test_frames_of_a_patient_stay_together():
    training, validation = split(HEART, 0.3, seed=0, patient_pattern=r"(patient\d+)_")
    here, there = ({c.name[:10] for c in part} for part in (training, validation))
    assert not here & there
    assert len(there) == 3
    assert len(training) + len(validation) == 20


def test_a_split_depends_on_the_seed_and_on_nothing_else():
    splits = [tuple(c.name for c in split(HEART, 0.3, seed)[1]) for seed in range(5)]
    assert len(set(splits)) > 1
    mixed = [HEART[i] for i in np.random.default_rng(0).permutation(len(HEART))]
    assert sorted(c.name for c in split(mixed, 0.3, 1)[1]) == sorted(splits[1])


@pytest.mark.parametrize(("count", "fraction", "expected"), [
    (1, 0.1, 0), (1, 0.9, 0), (2, 0.01, 1), (2, 0.99, 1), (3, 0.9, 2), (20, 0.1, 2), (20, 0.0, 0),
])  # fmt: skip
def test_somebody_always_trains_and_of_two_somebody_validates(count, fraction, expected):
    """Published: int(0.9 * n) leaves no training patient of one."""
    training, validation = split(cases_named(*map(str, range(count))), fraction, seed=3)
    assert len(validation) == expected
    assert len(training) == count - expected


def test_a_pattern_without_a_group_uses_the_match_and_a_broken_one_is_refused():
    training, validation = split(HEART, 0.5, 0, r"patient\d+")
    assert {c.name[:10] for c in training}.isdisjoint({c.name[:10] for c in validation})
    with pytest.raises(BadInput, match="regular expression"):
        split(HEART, 0.5, 0, "(patient")


@needs_shared_data
def test_every_shared_data_set_is_read_and_its_labels_are_there():
    folders = sorted(SHARED.glob("Dataset*"))
    assert len(folders) >= 9
    for folder in folders:
        dataset = read_dataset(folder)
        assert all(case.domain for case in dataset.cases)
        missing = set(dataset.labels)
        for case in dataset.cases:
            if missing:
                missing -= set(np.unique(load_case(case)[1].array).tolist())
        assert not missing
        volume, labels = load_case(dataset.cases[0])
        assert isinstance(volume, Volume)
        assert labels.array.shape == volume.array.shape
