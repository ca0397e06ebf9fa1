"""Volumes from files: what comes in is right, and what is wrong with a file is said in one line."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from data_samples import SHARED, TURNED, affine, message, needs_shared_data, noise, saved
from DeSAMSegmentLib.data.grid import to_image
from DeSAMSegmentLib.data.volume import Volume, read_volume
from DeSAMSegmentLib.errors import BadVolume


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_every_format_gives_the_same_voxels_in_the_same_places(tmp_path, suffix):
    volume = noise(**TURNED)
    read = read_volume(saved(tmp_path / f"a{suffix}", volume))
    assert np.array_equal(read.array, volume.array)
    assert np.allclose(read.ijk_to_ras, volume.ijk_to_ras, atol=1e-4)
    assert np.allclose(read.spacing, (2.5, 0.8, 0.7), atol=1e-5)
    assert read.name == "a"


def test_coordinates_are_those_nibabel_finds(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    path = saved(tmp_path / "a.nii.gz", noise(**TURNED))
    assert np.allclose(read_volume(path).ijk_to_ras, nibabel.load(path).affine, atol=1e-4)


def test_a_missing_file_is_named():
    with pytest.raises(BadVolume) as error:
        read_volume("nowhere.nii.gz")
    assert "nowhere.nii.gz" in message(error)


def test_text_named_as_an_image_is_refused(tmp_path):
    for name in ("a.nii.gz", "a.nii", "a.nrrd", "a.mha", "a.txt"):
        (tmp_path / name).write_text("these are no voxels\n" * 50)
        with pytest.raises(BadVolume) as error:
            read_volume(tmp_path / name)
        assert name in message(error)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha", "plain.mha"])
@pytest.mark.parametrize("share", [0.002, 0.2, 0.6, 0.995])
def test_a_cut_file_is_refused_and_not_filled_with_zeros(tmp_path, suffix, share, capfd):
    path = saved(tmp_path / f"a{suffix}", noise((20, 30, 40)), compress=not suffix.startswith("plain"))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(BadVolume) as error:
        read_volume(path)
    message(error)
    assert capfd.readouterr() == ("", "")  # the libraries below keep quiet


def test_a_damaged_byte_inside_a_gzip_is_found(tmp_path):
    path = saved(tmp_path / "a.nii.gz", noise((20, 30, 40)))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(BadVolume, match="damaged"):
        read_volume(path)


def sheared_nifti(path: Path, shear: float) -> Path:
    """A NIfTI whose second axis leans towards the first, as registration tools write them."""
    nibabel = pytest.importorskip("nibabel")
    matrix = affine((1.0, 1.0, 2.0))
    matrix[0, 1] = shear
    image = nibabel.Nifti1Image(noise((8, 9, 10)).array.transpose(2, 1, 0), matrix)
    image.set_sform(matrix, 1)
    image.set_qform(None, 0)
    nibabel.save(image, path)
    return path


def test_axes_a_hair_off_the_right_angle_are_straightened_and_said_so(tmp_path, capfd):
    volume = read_volume(sheared_nifti(tmp_path / "a.nii.gz", 0.002))
    assert np.array_equal(volume.array, noise((8, 9, 10)).array)
    assert "straightened" in volume.note
    assert np.allclose(volume.ijk_to_ras, affine((1.0, 1.0, 2.0)), atol=0.01)
    with pytest.raises(BadVolume, match="right angles") as error:
        read_volume(sheared_nifti(tmp_path / "b.nii.gz", 0.3))
    message(error)
    assert capfd.readouterr().err == ""


def test_foreign_byte_order_is_read_and_checked(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    array, path = noise((8, 9, 10)).array, tmp_path / "a.nii"
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), affine((1, 1, 2)), header), path)
    assert np.array_equal(read_volume(path).array, array)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(BadVolume, match="cut short"):
        read_volume(path)


def test_nifti_2_is_named_as_what_cannot_be_read(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti2Image(noise().array, affine()), tmp_path / "a.nii.gz")
    with pytest.raises(BadVolume, match="NIfTI-2"):
        read_volume(tmp_path / "a.nii.gz")


def test_an_uncompressed_nifti_named_gz_says_what_to_do(tmp_path):
    path = saved(tmp_path / "a.nii", noise())
    with pytest.raises(BadVolume) as error:
        read_volume(path.rename(tmp_path / "a.nii.gz"))
    assert "gzip" in message(error)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite_are_counted(tmp_path, value):
    volume = noise(dtype=np.float32)
    volume.array[1, 2, 3] = volume.array[4, 0, 0] = value
    with pytest.raises(BadVolume) as error:
        read_volume(saved(tmp_path / "a.nrrd", volume))
    assert "2 voxels" in message(error)


def test_a_constant_volume_is_refused(tmp_path):
    with pytest.raises(BadVolume) as error:
        read_volume(saved(tmp_path / "a.nrrd", Volume(np.full((4, 5, 6), 7, np.int16), np.eye(4))))
    assert "constant" in message(error)


def test_a_colour_image_is_refused(tmp_path):
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 255, (4, 5, 6, 3)).astype(np.uint8), True)
    for name in ("a.nrrd", "a.nii.gz", "a.mha"):
        sitk.WriteImage(image, str(tmp_path / name))
        with pytest.raises(BadVolume) as error:
            read_volume(tmp_path / name)
        assert "colour" in message(error)


def test_a_series_of_frames_says_how_to_get_one_frame(tmp_path):
    frames = sitk.JoinSeries([to_image(noise(seed=s).array, np.eye(4)) for s in range(3)])
    for name in ("a.nii.gz", "a.nrrd"):
        sitk.WriteImage(frames, str(tmp_path / name))
        with pytest.raises(BadVolume) as error:
            read_volume(tmp_path / name)
        assert "3 frames" in message(error)
        assert "[..., 0]" in message(error)
    # The recipe in the message works.
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "a.nii.gz"))[..., 0], str(tmp_path / "one.nii.gz"))
    assert np.array_equal(read_volume(tmp_path / "one.nii.gz").array, noise(seed=0).array)


def test_a_series_of_a_single_frame_is_a_volume(tmp_path):
    sitk.WriteImage(sitk.JoinSeries([to_image(noise().array, np.eye(4))]), str(tmp_path / "a.nii.gz"))
    assert read_volume(tmp_path / "a.nii.gz").array.shape == (5, 7, 9)


def test_a_flat_image_is_a_volume_of_one_slice(tmp_path):
    picture = noise((1, 7, 9)).array[0]
    sitk.WriteImage(sitk.GetImageFromArray(picture), str(tmp_path / "a.nrrd"))
    assert np.array_equal(read_volume(tmp_path / "a.nrrd").array, picture[None])
    assert Volume.checked(picture, np.eye(4)).array.shape == (1, 7, 9)


def test_an_array_from_memory_is_checked_as_a_file_is():
    for array in (np.zeros((3, 4, 5)), np.zeros((2, 3, 4, 5)), np.zeros((3, 4, 5, 3)), np.zeros((0, 4, 5))):
        with pytest.raises(BadVolume) as error:
            Volume.checked(array, np.eye(4), "scan")
        assert "scan" in message(error)
    flat = np.diag([1.0, 1.0, 0.0, 1.0])
    with pytest.raises(BadVolume, match="geometry"):
        Volume.checked(noise().array, flat)


def dicom_series(folder: Path, count: int, uid: str, first: int = 0, places=None) -> None:
    """Minimal DICOM slices of one series, 3 mm apart or at ``places``."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(count):
        image = sitk.GetImageFromArray(noise((1, 8, 10), seed=first + k).array)
        image.SetSpacing((0.5, 0.6, 3.0))
        place = places[k] if places else 3 * k
        keys = {
            "0008|0060": "MR",
            "0008|0018": f"{uid}.{k}",
            "0020|000d": "1.2.3",
            "0020|000e": uid,
            "0020|0013": str(k),
            "0020|0032": f"0\\0\\{place}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }
        for key, value in keys.items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{uid}-{count - k}.dcm"))  # names against the order in space
        writer.Execute(image)


def test_dicom_slices_are_sorted_by_position(tmp_path):
    dicom_series(tmp_path, 6, "1.2.3.4")
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.array, np.concatenate([noise((1, 8, 10), seed=k).array for k in range(6)]))
    assert np.allclose(volume.spacing, (3.0, 0.6, 0.5))
    assert volume.note == ""


def test_of_several_dicom_series_the_largest_is_read_and_said_so(tmp_path):
    dicom_series(tmp_path, 3, "1.2.3.4")
    dicom_series(tmp_path, 5, "1.2.3.5", first=10)
    volume = read_volume(tmp_path)
    assert len(volume.array) == 5
    assert "2 DICOM series" in volume.note


def test_a_missing_dicom_slice_is_said_and_doubled_ones_are_refused(tmp_path):
    dicom_series(tmp_path / "gap", 5, "1.2.3.4", places=[0, 3, 6, 12, 15])
    assert "6.0 mm instead of 3.0 mm after slice 3" in read_volume(tmp_path / "gap").note
    dicom_series(tmp_path / "echoes", 4, "1.2.3.5", places=[0, 0, 3, 3])
    with pytest.raises(BadVolume) as error:
        read_volume(tmp_path / "echoes")
    assert "same place" in message(error)


def test_a_folder_without_dicom_is_refused_quietly(tmp_path, capfd):
    (tmp_path / "readme.txt").write_text("nothing here")
    with pytest.raises(BadVolume) as error:
        read_volume(tmp_path)
    assert "DICOM" in message(error)
    assert capfd.readouterr().err == ""


@needs_shared_data
def test_a_real_dicom_folder_is_read():
    volume = read_volume(next((SHARED / "dicom").glob("ProstateX*")))
    assert volume.array.shape == (19, 384, 384)
    assert np.allclose(volume.spacing, (3.0, 0.5, 0.5), atol=1e-5)


def test_reading_needs_no_torch_and_no_slicer(tmp_path):
    code = (
        "import sys; import DeSAMSegmentLib.data.cases, DeSAMSegmentLib.data.slices, DeSAMSegmentLib.data.features;"
        "import DeSAMSegmentLib.store.card, DeSAMSegmentLib.store.library, DeSAMSegmentLib.store.weights;"
        "bad = {'torch', 'skimage', 'slicer', 'vtk', 'monai'} & set(sys.modules); assert not bad, bad"
    )
    root = Path(__file__).resolve().parents[1] / "DeSAMSegment"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(root)})


def test_a_gzip_in_several_members_is_complete(tmp_path):
    plain = saved(tmp_path / "a.nii", noise()).read_bytes()
    half = len(plain) // 2
    path = tmp_path / "b.nii.gz"
    path.write_bytes(gzip.compress(plain[:half]) + gzip.compress(plain[half:]))
    assert np.array_equal(read_volume(path).array, noise().array)
