"""DICOM segmentations: every voxel where it belongs, what they say of themselves, what is refused before the work."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import dicom_files
import dicomseg
import highdicom
import numpy as np
import pydicom
import pytest
from desam_cli import main
from DeSAMSegmentLib.data.dicom_seg import Algorithm, DicomSegmentation
from DeSAMSegmentLib.data.reading import read_labels, read_volume
from DeSAMSegmentLib.data.volume import LPS_FROM_RAS
from DeSAMSegmentLib.errors import BadInput
from DeSAMSegmentLib.store.terminology import default_labels
from dicomseg import ALGORITHM, LABELS


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return dicomseg.series(tmp_path_factory.mktemp("series"))


@pytest.mark.parametrize("name", [*dicomseg.AXES, "axial, stored from the top", "axial, frames of one file"])
def test_every_voxel_is_where_its_frame_says(name: str, made: dict[str, Path], tmp_path: Path) -> None:
    volume, path = read_volume(made[name]), tmp_path / "out.dcm"
    labels = dicomseg.random_labels(volume)
    DicomSegmentation(made[name], "", LABELS, ALGORITHM).write(path, labels)
    assert np.array_equal(dicomseg.placed(path, volume), labels)

    back = highdicom.seg.segread(path).get_volume(combine_segments=True)  # highdicom's own geometry
    segment, row, column = np.nonzero(back.array)
    lps = back.map_indices_to_reference(np.column_stack((segment, row, column)))
    ijk = np.column_stack((lps @ LPS_FROM_RAS, np.ones(len(lps)))) @ np.linalg.inv(volume.ijk_to_ras).T
    i, j, k = np.rint(ijk[:, :3]).astype(int).T
    values = np.array([0, *(label.value for label in LABELS)])
    assert np.array_equal(values[back.array[segment, row, column]], labels[k, j, i])


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy is not installed (Debian: dicom3tools)")
def test_dciodvfy_has_nothing_to_say(made: dict[str, Path], tmp_path: Path) -> None:
    path, one = tmp_path / "out.dcm", dicom_files.series(tmp_path / "one", count=1, **dicomseg.MODULES)
    for folder in (made["oblique"], made["sagittal"], made["axial, frames of one file"], one):
        volume = read_volume(folder)
        segmentation = DicomSegmentation(folder, "", LABELS, ALGORITHM)
        for labels in (dicomseg.random_labels(volume), np.zeros(volume.array.shape, np.uint8)):
            segmentation.write(path, labels)
            assert dicomseg.complaints(path) == ([], [])
            assert np.array_equal(dicomseg.placed(path, volume), labels)


def test_it_says_what_was_drawn_by_what_on_which_images(made: dict[str, Path], tmp_path: Path) -> None:
    volume, path = read_volume(made["oblique"]), tmp_path / "out.dcm"
    DicomSegmentation(made["oblique"], "", LABELS, ALGORITHM).write(path, dicomseg.random_labels(volume))
    data = pydicom.dcmread(path)
    assert (data.Modality, data.SegmentationType, data.PatientName) == ("SEG", "BINARY", "Müller^A")
    assert [each.SegmentLabel for each in data.SegmentSequence] == ["prostate", "kidney_left", "Läsion / 病灶"]
    codes = [each.SegmentedPropertyTypeCodeSequence[0] for each in data.SegmentSequence]
    assert [(each.CodingSchemeDesignator, each.CodeValue) for each in codes] == [
        ("SCT", "41216001"), ("SCT", "64033007"), ("SCT", "85756007"),
    ]  # fmt: skip
    assert codes[1].SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    for each, label in zip(data.SegmentSequence, LABELS, strict=True):
        colour = highdicom.color.CIELabColor.from_dicom_value(each.RecommendedDisplayCIELabValue)
        assert np.abs(np.subtract(colour.to_rgb(), label.color)).max() <= 1
        (algorithm,) = each.SegmentationAlgorithmIdentificationSequence
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("DeSAM prostate-mr", ALGORITHM.version)
        assert f"sha256={ALGORITHM.sha256}" in algorithm.AlgorithmParameters
    images = [pydicom.dcmread(file) for file in made["oblique"].iterdir()]
    assert data.StudyInstanceUID == images[0].StudyInstanceUID
    assert data.SeriesInstanceUID != images[0].SeriesInstanceUID
    at = {image.SOPInstanceUID: image.ImagePositionPatient for image in images}
    for frame in data.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert np.allclose(frame.PlanePositionSequence[0].ImagePositionPatient, at[source])


def without_positions(folder: Path) -> None:
    dicom_files.changed(folder, ImagePositionPatient=None, SpacingBetweenSlices=3)


def with_one_uid(folder: Path) -> None:
    dicom_files.changed(folder, SOPInstanceUID="1.2.3.4")


def with_a_hole(folder: Path) -> None:
    (folder / "I2.dcm").unlink()


def without_a_study(folder: Path) -> None:
    dicom_files.changed(folder, StudyInstanceUID=None)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (without_positions, "its slices have no positions"),
        (with_one_uid, "SOPInstanceUID of their own"),
        (with_a_hole, "not evenly spaced"),
        (without_a_study, "StudyInstanceUID"),
    ],
)
def test_a_series_that_nothing_can_refer_to_is_refused(damage, why: str, tmp_path: Path) -> None:
    folder = dicom_files.series(tmp_path / "images", count=6)
    damage(folder)
    with pytest.raises(BadInput, match=rf"cannot carry a DICOM segmentation: .*{why}.* Choose seg.nrrd or nii.gz"):
        DicomSegmentation(folder, "", LABELS, ALGORITHM)


def test_slanted_slices_and_files_of_other_kinds_are_refused(made, volume_file: Path) -> None:
    with pytest.raises(BadInput, match="gantry tilt"):
        DicomSegmentation(made["axial, gantry tilt"], "", LABELS, ALGORITHM)
    with pytest.raises(BadInput, match=r"needs a DICOM series.*blob\.nii\.gz.*seg\.nrrd"):
        DicomSegmentation(volume_file, "", LABELS, ALGORITHM)


def test_a_label_with_little_to_say_is_written_with_general_codes(made: dict[str, Path], tmp_path: Path) -> None:
    (label,) = default_labels({1: "x" * 80})
    volume = read_volume(made["axial"])
    segmentation = DicomSegmentation(made["axial"], "", [label], Algorithm("m" * 80, "1", ""))
    segmentation.write(tmp_path / "out.dcm", np.ones(volume.array.shape, np.uint8))
    (segment,) = pydicom.dcmread(tmp_path / "out.dcm").SegmentSequence
    assert segment.SegmentLabel == "x" * 64


# ---- the command line ---------------------------------------------------------------------------------------------


def test_a_folder_of_dicom_becomes_a_dicom_segmentation(quick_encoder, made, untrained_model, tmp_path: Path) -> None:
    command = ["segment", str(made["coronal"]), str(tmp_path), "-m", str(untrained_model), "--slice-axis", "acquired"]
    assert main([*command, "--format", "dicomseg"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["coronal.seg.dcm"]
    data = pydicom.dcmread(tmp_path / "coronal.seg.dcm")
    assert data.SegmentSequence[0].SegmentLabel == "blob"
    assert main([*command, "--format", "seg.nrrd"]) == 0
    labels = dicomseg.placed(tmp_path / "coronal.seg.dcm", read_volume(made["coronal"]))
    assert np.array_equal(labels, read_labels(tmp_path / "coronal.seg.nrrd").array)


def test_without_highdicom_the_extra_is_named(made, untrained_model, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    command = ["segment", str(made["axial"]), str(tmp_path / "o.dcm"), "-m", str(untrained_model)]
    assert main(command) == 2
    assert 'pip install "desam-segment[dicom]"' in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_an_image_of_the_series_is_not_replaced(made: dict[str, Path], untrained_model, capsys) -> None:
    image = made["axial"] / "I0.dcm"
    before = image.read_bytes()
    assert main(["segment", str(made["axial"]), str(image), "-m", str(untrained_model)]) == 2
    assert "would be replaced" in capsys.readouterr().err
    assert image.read_bytes() == before


def test_highdicom_is_loaded_by_nobody_else() -> None:
    code = "import sys; import desam_cli.segment, DeSAMSegmentLib.data.dicom; sys.exit('highdicom' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
