"""DICOM folders: one right volume, or a refusal that names the cause."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from data_samples import SHARED, message, needs_shared_data
from DeSAMSegmentLib.data.cases import Case, load_case
from DeSAMSegmentLib.data.reading import read_labels, read_volume
from DeSAMSegmentLib.data.volume import Volume
from DeSAMSegmentLib.errors import BadLabels, BadVolume
from dicom_files import (
    AXIAL,
    COLUMNS,
    CORONAL,
    NUCLEAR,
    OBLIQUE,
    ROWS,
    SAGITTAL,
    changed,
    header,
    multi_frame,
    pixels,
    series,
    written,
)
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless


def values(volume: Volume) -> list[int]:
    """The brightest value of each slice."""
    return [int(plane.max()) for plane in volume.array]


def refusal(folder: Path, wanted: str = "") -> str:
    with pytest.raises(BadVolume) as error:
        read_volume(folder, wanted)
    return message(error)


TEN_BY_K = np.array([[-0.9, 0, 0, 0], [0, -0.8, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]])  # IJK to RAS of ``series``


# ---- geometry
# ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [AXIAL, CORONAL, SAGITTAL, OBLIQUE, (-1, 0, 0, 0, 1, 0)])
def test_a_plain_stack_lies_where_simpleitk_puts_it(tmp_path, axes):
    normal = np.cross(axes[:3], axes[3:])
    places = [np.array([5, 6, 7]) + 3 * k * normal for k in range(4)]
    series(tmp_path, places=places, ImageOrientationPatient=list(axes))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    volume = read_volume(tmp_path)
    lps = np.diag([-1, -1, 1]) @ volume.ijk_to_ras[:3]
    for i, j, k in ((0, 0, 0), (5, 0, 0), (0, 7, 0), (5, 7, 3)):
        assert np.allclose(lps @ (i, j, k, 1), image.TransformIndexToPhysicalPoint((i, j, k)), atol=1e-4)
    assert np.array_equal(volume.array, sitk.GetArrayFromImage(image))
    assert volume.note == ""


@needs_shared_data
def test_a_real_dicom_folder_is_read():
    volume = read_volume(next((SHARED / "dicom").glob("ProstateX*")))
    assert volume.array.shape == (19, 384, 384)
    assert np.allclose(volume.spacing, (3.0, 0.5, 0.5), atol=1e-5)


def test_slices_are_ordered_by_position_not_by_name_or_number(tmp_path):
    for name, k in zip("abcd", (2, 0, 3, 1), strict=True):
        written(tmp_path / name, header(1000 + 10 * k, ImagePositionPatient=[0, 0, 3 * k], InstanceNumber=9 - k % 3))
    volume = read_volume(tmp_path)
    assert values(volume) == [1000, 1010, 1020, 1030]
    assert np.allclose(volume.ijk_to_ras, TEN_BY_K)


@pytest.mark.parametrize("degrees", [20, -20, 1.5])
def test_gantry_tilt_is_kept_as_a_sheared_grid(tmp_path, degrees):
    tilt = np.radians(degrees)
    axes = [1, 0, 0, 0, float(f"{np.cos(tilt):.8g}"), float(f"{np.sin(tilt):.8g}")]
    volume = read_volume(series(tmp_path, 8, Modality="CT", ImageOrientationPatient=axes))
    assert np.allclose(volume.ijk_to_ras[:3, 2], (0, 0, 3))
    assert np.allclose(volume.ijk_to_ras[:3, 1], (0, -0.8 * np.cos(tilt), 0.8 * np.sin(tilt)), atol=1e-6)
    assert f"{abs(degrees):.1f} degrees" in volume.note


def test_rounding_of_positions_and_directions_does_not_bend_a_stack(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(8):
        place = np.round(np.array([5, 6, 7 + 3 * k]) + rng.normal(0, 0.004, 3), 2).tolist()
        axes = np.round(AXIAL + rng.normal(0, 2e-4, 6), 4).tolist()
        written(tmp_path / f"{k}", header(1000 + k, ImagePositionPatient=place, ImageOrientationPatient=axes))
    volume = read_volume(tmp_path)
    axes = volume.ijk_to_ras[:3, :3] / np.linalg.norm(volume.ijk_to_ras[:3, :3], axis=0)
    assert volume.note == ""
    assert np.allclose(volume.spacing, (3, 0.8, 0.9), atol=0.01)
    assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-3)


def test_missing_slices_leave_the_others_in_their_places(tmp_path):
    volume = read_volume(series(tmp_path, places=[0, 3, 6, 15, 18]))
    assert np.allclose(volume.ijk_to_ras, TEN_BY_K)
    assert values(volume) == [1000, 1010, 1020, 1023, 1027, 1030, 1040]
    assert volume.array.dtype == np.int16
    assert "9.0 mm instead of 3.0 mm after slice 3" in volume.note


@pytest.mark.parametrize(
    ("places", "step"),
    [
        ([0, 1, 2, 3, 8, 13, 18], 1.0),
        ([0, 2, 5, 7, 10, 12], 1.0),
        ([0, 2.3, 5, 7.1, 10, 12.9], 2.15),
        ([0, 3, 6.2, 9, 12.1, 15], 3.0),
    ],
)
def test_unevenly_spaced_slices_are_resampled_to_their_places(tmp_path, places, step):
    volume = read_volume(series(tmp_path, places=places))
    assert np.isclose(volume.spacing[0], step)
    assert np.isclose(step * (len(volume.array) - 1), places[-1])
    along = step * np.arange(len(volume.array))
    expected = np.interp(along, places, 1000 + 10 * np.arange(len(places)))
    assert np.allclose(values(volume), expected, atol=0.6)
    assert "not evenly spaced" in volume.note


def test_a_gap_of_many_slices_is_refused(tmp_path):
    assert "gap: 31.0 mm instead of 3.0 mm after slice 4" in refusal(series(tmp_path, places=[0, 3, 6, 9, 40, 43, 46]))


def test_a_slice_that_is_shifted_sideways_is_refused(tmp_path):
    assert "sideways" in refusal(series(tmp_path, places=[(0, 0, 0), (0, 0, 3), (0, 2, 6), (0, 0, 9)]))


def test_a_label_map_is_not_interpolated(tmp_path):
    with pytest.raises(BadLabels) as error:
        read_labels(series(tmp_path, places=[0, 3, 9]))
    assert "not evenly spaced" in message(error)


@pytest.mark.parametrize("numbers", ["one after the other", "in turns"])
def test_several_images_of_one_position_are_refused_with_their_counts(tmp_path, numbers):
    places = [0, 3, 6, 9] * 3 if numbers == "one after the other" else [0, 0, 0, 3, 3, 3, 6, 6, 6, 9, 9, 9]
    assert "12 images, 4 positions" in refusal(series(tmp_path, places=places))


def test_one_doubled_slice_is_refused(tmp_path):
    assert "5 images, 4 positions" in refusal(series(tmp_path, places=[0, 3, 6, 9, 6]))


def test_a_copied_file_counts_once(tmp_path):
    series(tmp_path)
    for path in sorted(tmp_path.iterdir()):
        (tmp_path / "copy").mkdir(exist_ok=True)
        (tmp_path / "copy" / path.name).write_bytes(path.read_bytes())
    assert values(read_volume(tmp_path)) == [1000, 1010, 1020, 1030]


def test_slices_that_share_a_sop_instance_uid_by_mistake_are_no_copies(tmp_path):
    assert values(read_volume(series(tmp_path, SOPInstanceUID="1.2.3.4"))) == [1000, 1010, 1020, 1030]


def test_without_positions_the_thickness_is_used_and_said(tmp_path):
    changed(series(tmp_path), ImagePositionPatient=None)
    volume = read_volume(tmp_path)
    assert np.allclose(volume.ijk_to_ras, TEN_BY_K)
    assert values(volume) == [1000, 1010, 1020, 1030]
    assert "no positions" in volume.note
    assert "3.0 mm apart (SliceThickness)" in volume.note
    changed(tmp_path, SpacingBetweenSlices=-4)
    assert np.isclose(read_volume(tmp_path).spacing[0], 4)
    changed(tmp_path, InstanceNumber=None)
    assert "neither where its slices lie" in refusal(tmp_path)


def test_of_a_single_slice_the_thickness_is_used_and_said(tmp_path):
    folder = series(tmp_path / "one", 1)
    assert np.allclose(read_volume(folder).ijk_to_ras, TEN_BY_K)
    assert "thickness, 3.0 mm, is used" in read_volume(folder).note
    assert "1 mm is assumed" in read_volume(changed(folder, SliceThickness=None)).note


def test_missing_or_impossible_geometry_is_said_or_refused(tmp_path):
    assert "pixel spacing is not given" in read_volume(series(tmp_path / "spacing", PixelSpacing=None)).note
    assert "right angles" in refusal(series(tmp_path / "zero", ImageOrientationPatient=[0] * 6))
    folder = series(tmp_path / "nan")
    path = written(folder / "I1.dcm", header(ImagePositionPatient=[0, 0, 333]))
    path.write_bytes(path.read_bytes().replace(b"\\333 ", b"\\nan ").replace(b"\\333", b"\\nan"))
    assert "I1.dcm" in read_volume(folder).note


# ---- which images belong together
# ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "what"),
    [
        ({"ImageOrientationPatient": list(CORONAL), "ImagePositionPatient": [0, -9, 30]}, "orientation"),
        ({"Rows": 2 * ROWS, "PixelData": bytes(4 * ROWS * COLUMNS)}, "size"),
        ({"PixelSpacing": [0.8, 0.91]}, "pixel spacing"),
        ({"FrameOfReferenceUID": "1.2.10"}, "frame of reference"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "kind"),
    ],
)
def test_what_does_not_belong_to_a_series_is_left_out_and_named(tmp_path, tags, what):
    written(series(tmp_path) / "other.dcm", header(**{"ImagePositionPatient": [0, 0, 60]} | tags))
    volume = read_volume(tmp_path)
    assert np.allclose(volume.ijk_to_ras, TEN_BY_K)
    assert values(volume) == [1000, 1010, 1020, 1030]
    assert f"1 image (other.dcm), different in {what}" in volume.note


def test_two_blocks_at_different_angles_are_never_one_volume(tmp_path):
    turned = [1, 0, 0, 0, 0.96592583, 0.25881905]
    series(tmp_path, 4)
    series(tmp_path, prefix="B", places=[(0, 5 - 0.776 * k, 20 + 2.898 * k) for k in range(4)],
           ImageOrientationPatient=turned)  # fmt: skip
    assert "2 stacks of 4 slices that differ in orientation" in refusal(tmp_path)
    written(tmp_path / "more.dcm", header(1040, ImagePositionPatient=[0, 0, 12]))
    assert values(read_volume(tmp_path)) == [1000, 1010, 1020, 1030, 1040]
    assert "4 images (B0.dcm, B1.dcm, B2.dcm, B3.dcm), different in orientation" in read_volume(tmp_path).note


def test_patients_with_the_same_series_uid_are_not_mixed(tmp_path):
    series(tmp_path, places=[0, 6, 12])
    series(tmp_path, prefix="Q", places=[3, 9], PatientID="Q")
    assert values(read_volume(tmp_path)) == [1000, 1010, 1020]


@pytest.mark.parametrize("order", [[0, 3, 6, 9], [9, 6, 3, 0], [3, 9, 0, 6]])
def test_frames_of_an_enhanced_file_go_to_their_own_positions(tmp_path, order):
    multi_frame(tmp_path / "a.dcm", order)
    for path in (tmp_path, tmp_path / "a.dcm"):
        volume = read_volume(path)
        assert np.allclose(volume.ijk_to_ras, TEN_BY_K)
        assert values(volume) == [1000, 1010, 1020, 1030]


def test_frames_at_the_same_position_are_refused(tmp_path):
    multi_frame(tmp_path / "a.dcm", [0, 3, 6, 0, 3, 6])
    assert "6 images, 3 positions" in refusal(tmp_path)


@pytest.mark.parametrize("change", [{"NumberOfFrames": 3}, {"NumberOfFrames": 6}])
def test_frames_that_are_not_described_make_a_damaged_file(tmp_path, change):
    path = multi_frame(tmp_path / "a.dcm", [0, 3, 6, 9])
    assert "No DICOM file" in refusal(changed(path.parent, **change))


def test_frames_with_rescale_slopes_of_their_own_are_refused(tmp_path):
    assert values(read_volume(multi_frame(tmp_path / "a.dcm", [0, 3], slopes=(2, 2)))) == [2000, 2020]
    assert "rescale slopes" in refusal(multi_frame(tmp_path / "b.dcm", [0, 3], slopes=(2, 3)))


def test_frames_of_nuclear_medicine_follow_the_signed_distance(tmp_path):
    place = Dataset()
    place.ImagePositionPatient, place.ImageOrientationPatient = [0, 0, 9], list(AXIAL)
    data = header(SOPClassUID=NUCLEAR, Modality="NM", ImageOrientationPatient=None, NumberOfFrames=4)
    data.DetectorInformationSequence, data.SpacingBetweenSlices = [place], -3
    data.FrameIncrementPointer = 0x00540080
    data.PixelData = b"".join(pixels(1030 - 10 * k).tobytes() for k in range(4))
    volume = read_volume(written(tmp_path / "a.dcm", data))
    assert np.allclose(volume.ijk_to_ras, TEN_BY_K)
    assert values(volume) == [1000, 1010, 1020, 1030]
    data.FrameIncrementPointer = 0x00181063  # FrameTime
    assert "moments or views" in refusal(written(tmp_path / "a.dcm", data))


# ---- which series
# ------------------------------------------------------------------------------------------------------


def test_the_series_with_the_most_slices_is_read_and_the_others_are_named(tmp_path):
    multi_frame(tmp_path / "real.dcm", [0, 3, 6, 9, 12])
    places = [(0, 5 * k, 0) for k in range(3)]
    series(tmp_path, places=places, ImageOrientationPatient=list(CORONAL), SeriesInstanceUID="1.2.3.2", SeriesNumber=7,
           SeriesDescription="survey")  # fmt: skip
    volume = read_volume(tmp_path)
    assert len(volume.array) == 5
    assert "2 DICOM series: series 1 (MR, 5 slices) is read; left out: series 7 (survey, MR, 3 slices)" in volume.note


def test_a_scout_with_more_slices_does_not_win(tmp_path):
    series(tmp_path, 5)
    places = [(0, 5 * k, 0) for k in range(8)]  # 3 mm thick and 5 mm apart
    series(tmp_path, places=places, ImageOrientationPatient=list(CORONAL), SeriesInstanceUID="1.2.3.2", prefix="S")
    assert len(read_volume(tmp_path).array) == 5
    assert "left out: series 1 (MR, 8 slices)" in read_volume(tmp_path).note
    assert len(read_volume(tmp_path, "1.2.3.2").array) == 8


def test_neither_localizers_nor_screenshots_nor_unreadable_series_win(tmp_path):
    series(tmp_path, 3)
    series(tmp_path, 6, prefix="L", SeriesInstanceUID="1.2.3.2", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    series(tmp_path, 6, prefix="S", SeriesInstanceUID="1.2.3.3", ImageOrientationPatient=None)
    series(tmp_path, places=[0, 3, 6] * 3, prefix="T", SeriesInstanceUID="1.2.3.4")
    volume = read_volume(tmp_path)
    assert len(volume.array) == 3
    assert "(MR, 9 slices) has more than one image at a position" in volume.note


def test_two_series_of_equal_size_are_refused_and_one_can_be_chosen(tmp_path):
    series(tmp_path, SeriesDescription="t2_tse_tra", SeriesNumber=4)
    series(tmp_path, prefix="A", places=[1, 5, 9, 13], SeriesDescription="ADC", SeriesNumber=5,
           SeriesInstanceUID="1.2.3.22")  # fmt: skip
    said = refusal(tmp_path)
    assert "series 4 (t2_tse_tra, MR, 4 slices), series 5 (ADC, MR, 4 slices)" in said
    assert "Choose one by its description" in said
    for wanted in ("ADC", "adc", "5", "1.2.3.22", "1.2.3.2"):
        assert np.isclose(read_volume(tmp_path, wanted).spacing[0], 4), wanted
    assert read_volume(tmp_path, "1.2.3.1").note == ""
    assert "2 DICOM series" in refusal(tmp_path, "1.2.3")
    assert "No DICOM series" in refusal(tmp_path, "T1")
    volume, _ = load_case(Case("a", tmp_path, series="ADC"))
    assert np.isclose(volume.spacing[0], 4)


def test_series_that_nothing_but_the_uid_tells_apart_are_named_by_it(tmp_path):
    series(tmp_path / "s1")
    series(tmp_path / "s2", SeriesInstanceUID="1.2.3.2")
    assert "with the UID 1.2.3.1 in s1, series 1 (MR, 4 slices) with the UID 1.2.3.2 in s2" in refusal(tmp_path)


def test_a_listing_tells_what_is_there_and_what_is_wrong_with_it(tmp_path):
    from DeSAMSegmentLib.data.dicom import find_series

    series(tmp_path / "a", SeriesDescription="b\\c \x1b[31m", SeriesNumber=12)
    series(tmp_path / "b", places=[0, 0, 3], SeriesInstanceUID="1.2.3.2", SeriesNumber=2)
    first, second = find_series(tmp_path)
    assert (second.uid, second.number, second.description) == ("1.2.3.1", "12", "b\\c [31m")
    assert (second.modality, second.slices, second.rows, second.columns) == ("MR", 4, ROWS, COLUMNS)
    assert (second.spacing, second.problem) == ("0.9 x 0.8 x 3", "")
    assert [path.name for path in second.files] == ["I0.dcm", "I1.dcm", "I2.dcm", "I3.dcm"]
    assert (first.number, first.slices, first.spacing) == ("2", 3, "")
    assert "3 images, 2 positions" in first.problem


# ---- voxels
# ------------------------------------------------------------------------------------------------------


def test_every_slice_is_rescaled_by_its_own_slope(tmp_path):
    for k in range(3):
        place = {"ImagePositionPatient": [0, 0, 3 * k], "RescaleSlope": [1, 0.5, 2][k], "RescaleIntercept": 10 * k}
        written(tmp_path / f"{k}", header(1000, Modality="PT", **place))
    assert [float(plane.max()) for plane in read_volume(tmp_path).array] == [1000.0, 510.0, 2020.0]


def test_compressed_and_unsigned_slices_are_read(tmp_path):
    for path in sorted(series(tmp_path, PixelRepresentation=0).iterdir()):
        data = pydicom.dcmread(path)
        data.compress(RLELossless)
        data.save_as(path)
    volume = read_volume(tmp_path)
    assert volume.array.dtype == np.uint16
    assert values(volume) == [1000, 1010, 1020, 1030]


def test_a_negative_is_inverted_and_said_so(tmp_path):
    volume = read_volume(series(tmp_path, PhotometricInterpretation="MONOCHROME1", PixelRepresentation=0))
    assert volume.array.min() == 65535 - 1030
    assert "MONOCHROME1" in volume.note


@pytest.mark.parametrize(
    ("tags", "what"),
    [
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "in colour"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "in colour"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "mosaic"),
        ({"00651051": []}, "mosaic"),
        ({"Modality": "XA", "ImagePositionPatient": None}, "moments or views"),
        ({"Modality": "SEG"}, "segmentation"),
        ({"Modality": "RTDOSE"}, "dose"),
    ],
)
def test_what_is_no_grey_image_is_refused_by_its_name(tmp_path, tags, what):
    assert what in refusal(series(tmp_path, **tags))
