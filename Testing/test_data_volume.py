"""Volumes from files: what comes in is right, and what is wrong with a file is said in one line."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from data_samples import TURNED, affine, message, noise, saved
from DeSAMSegmentLib.data.itk import to_image
from DeSAMSegmentLib.data.reading import read_volume
from DeSAMSegmentLib.data.volume import Volume
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
    path = saved(tmp_path / "a.nii.gz", noise(**TURNED))
    assert np.allclose(read_volume(path).ijk_to_ras, nibabel.Nifti1Image.from_filename(path).affine, atol=1e-4)


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
    matrix = affine((1.0, 1.0, 2.0))
    matrix[0, 1] = shear
    image = nibabel.Nifti1Image(noise((8, 9, 10)).array.transpose(2, 1, 0), matrix)
    image.set_sform(matrix, 1)
    image.set_qform(None, 0)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("shear", [0.002, 0.3])
def test_sheared_axes_are_kept_as_the_file_declares_them(tmp_path, shear, capfd):
    path = sheared_nifti(tmp_path / "a.nii.gz", shear)
    volume = read_volume(path)
    assert np.array_equal(volume.array, noise((8, 9, 10)).array)
    assert np.allclose(volume.ijk_to_ras, nibabel.Nifti1Image.from_filename(path).affine, atol=1e-6)
    assert volume.ijk_to_ras[0, 1] != 0
    assert capfd.readouterr().err == ""


def test_foreign_byte_order_is_read_and_checked(tmp_path):
    array, path = noise((8, 9, 10)).array, tmp_path / "a.nii"
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), affine((1, 1, 2)), header), path)
    assert np.array_equal(read_volume(path).array, array)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(BadVolume, match="cut short"):
        read_volume(path)


def test_nifti_2_is_read_as_nifti_1_is(tmp_path):
    nibabel.save(nibabel.Nifti2Image(noise().array.T, affine()), tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    assert np.array_equal(volume.array, noise().array)
    assert np.allclose(volume.ijk_to_ras, affine())


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
    frames = [to_image(noise(seed=s).array, np.eye(4)) for s in range(3)]
    recipes = {}
    for name, image in (("a.nii.gz", sitk.JoinSeries(frames)), ("a.mha", sitk.JoinSeries(frames)),
                        ("a.nrrd", sitk.JoinSeries(frames)), ("list.nrrd", sitk.Compose(frames))):  # fmt: skip
        path = tmp_path / name
        sitk.WriteImage(image, str(path))
        if name == "list.nrrd":  # as Slicer writes time series
            path.write_bytes(path.read_bytes().replace(b"kinds: vector", b"kinds: list"))
        with pytest.raises(BadVolume) as error:
            read_volume(path)
        assert "3 frames" in message(error), name
        recipes[path] = message(error).partition("SimpleITK: ")[2].rstrip(".")
    for path, recipe in recipes.items():  # the recipe in the message works
        made = tmp_path / "one.nii.gz"
        code = recipe.replace("file", f"{str(path)!r}").replace("'one.nii.gz'", f"{str(made)!r}")
        exec(f"from SimpleITK import *\n{code}", {})
        assert np.array_equal(read_volume(made).array, noise(seed=0).array), path.name


def test_a_series_of_a_single_frame_is_a_volume(tmp_path):
    sitk.WriteImage(sitk.JoinSeries([to_image(noise().array, np.eye(4))]), str(tmp_path / "a.nii.gz"))
    assert read_volume(tmp_path / "a.nii.gz").array.shape == (5, 7, 9)


def test_a_flat_image_is_a_volume_of_one_slice(tmp_path):
    image = noise((1, 7, 9)).array[0]
    sitk.WriteImage(sitk.GetImageFromArray(image), str(tmp_path / "a.nrrd"))
    assert np.array_equal(read_volume(tmp_path / "a.nrrd").array, image[None])
    assert Volume.checked(image, np.eye(4)).array.shape == (1, 7, 9)


def test_an_array_from_memory_is_checked_as_a_file_is():
    for array in (np.zeros((3, 4, 5)), np.zeros((2, 3, 4, 5)), np.zeros((3, 4, 5, 3)), np.zeros((0, 4, 5))):
        with pytest.raises(BadVolume) as error:
            Volume.checked(array, np.eye(4), "scan")
        assert "scan" in message(error)
    flat = np.diag([1.0, 1.0, 0.0, 1.0])
    with pytest.raises(BadVolume, match="geometry"):
        Volume.checked(noise().array, flat)


def test_reading_needs_no_torch_and_no_slicer(tmp_path):
    code = (
        "import sys; import DeSAMSegmentLib.data.cases, DeSAMSegmentLib.data.slices;"
        "import DeSAMSegmentLib.data.feature_cache, DeSAMSegmentLib.data.reading;"
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
