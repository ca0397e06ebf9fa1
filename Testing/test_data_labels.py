"""Label maps from files: small integers on the image's own voxels, or a line that says why not."""

from __future__ import annotations

import numpy as np
import pytest
from data_samples import TURNED, affine, message, noise, saved
from DeSAMSegmentLib.data.grid import resample_labels
from DeSAMSegmentLib.data.reading import read_labels
from DeSAMSegmentLib.data.volume import Volume
from DeSAMSegmentLib.errors import BadLabels


def test_labels_are_small_unsigned_integers_however_they_were_saved(tmp_path):
    values = noise(seed=3).array % 4
    for dtype in (np.uint8, np.int16, np.int64, np.float32, np.float64):
        path = saved(tmp_path / "l.nrrd", Volume(values.astype(dtype), np.eye(4)))
        labels = read_labels(path)
        assert labels.array.dtype == np.uint8
        assert np.array_equal(labels.array, values)
    assert read_labels(saved(tmp_path / "l.nrrd", Volume(values * 100, np.eye(4)))).array.dtype == np.uint16


def test_an_empty_label_map_is_allowed(tmp_path):
    assert not read_labels(saved(tmp_path / "l.nrrd", Volume(np.zeros((2, 3, 4), np.uint8), np.eye(4)))).array.any()


@pytest.mark.parametrize("value", [0.5, -1.0, 70000.0, np.nan])
def test_values_that_are_no_labels_are_refused(tmp_path, value):
    array = np.zeros((3, 4, 5), np.float32)
    array[1, 1, 1] = value
    with pytest.raises(BadLabels) as error:
        read_labels(saved(tmp_path / "l.nrrd", Volume(array, np.eye(4))))
    assert "not a label map" in message(error)


def test_a_missing_label_map_is_a_label_error(tmp_path):
    with pytest.raises(BadLabels):
        read_labels(tmp_path / "none.nii.gz")


def test_labels_on_the_same_grid_pass_untouched():
    volume = noise(**TURNED)
    nearly = volume.ijk_to_ras + np.random.default_rng(0).uniform(-1e-5, 1e-5, (4, 4))  # as a NIfTI header rounds
    labels = Volume(volume.array % 3, nearly)
    assert resample_labels(labels, volume) is labels


def test_labels_a_little_more_than_half_a_voxel_off_are_on_another_grid():
    labels = np.zeros((4, 6, 9), np.uint8)
    labels[1, 2, 3] = 1
    moved = resample_labels(Volume(labels, affine(origin=(0.55, 0.0, 0.0))), noise((4, 6, 8)))
    assert np.argwhere(moved.array).tolist() == [[1, 2, 4]]


def test_labels_of_a_cropped_and_flipped_grid_land_on_their_voxels():
    volume = noise((6, 20, 30), **TURNED)
    expected = np.zeros(volume.array.shape, np.uint8)
    expected[2:4, 5:12, 8:20] = 2
    part = expected[1:5, 3:15, 5:25][:, ::-1, :]  # a crop, its rows reversed
    matrix = volume.ijk_to_ras.copy()
    matrix[:3, 3] = (volume.ijk_to_ras @ [5, 14, 1, 1])[:3]
    matrix[:3, 1] *= -1
    assert np.array_equal(resample_labels(Volume(part, matrix), volume).array, expected)


def test_labels_at_half_resolution_cover_the_same_place():
    volume = noise((4, 40, 40))
    coarse = np.zeros((4, 20, 20), np.uint8)
    coarse[1:3, 5:10, 6:12] = 1
    matrix = affine((2.0, 2.0, 1.0), origin=(0.5, 0.5, 0.0))
    fine = resample_labels(Volume(coarse, matrix), volume)
    expected = coarse.repeat(2, axis=1).repeat(2, axis=2)
    assert np.array_equal(fine.array, expected)


@pytest.mark.parametrize("filled", [True, False])
def test_labels_of_another_place_are_refused(filled):
    volume = noise()
    labels = np.full((5, 7, 10), filled, np.uint8)
    with pytest.raises(BadLabels) as error:
        resample_labels(Volume(labels, affine(origin=(500.0, 0.0, 0.0)), "ground truth"), volume)
    assert "ground truth" in message(error)
    assert "noise" in message(error)


def test_labels_all_of_which_miss_the_image_are_refused_though_the_grids_touch():
    labels = np.zeros((5, 7, 10), np.uint8)
    labels[:, :, :2] = 1
    with pytest.raises(BadLabels, match="does not overlap"):
        resample_labels(Volume(labels, affine(origin=(-5.0, 0.0, 0.0))), noise())


def test_an_empty_label_map_that_overlaps_gives_an_empty_one():
    moved = resample_labels(Volume(np.zeros((5, 7, 10), np.uint8), affine(origin=(2.0, 0.0, 0.0))), noise())
    assert moved.array.shape == (5, 7, 9)
    assert not moved.array.any()
