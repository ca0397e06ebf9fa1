"""Images: the grey values a network sees, and how a volume's axis and intensity are chosen."""

from __future__ import annotations

import json

import numpy as np
import pytest
from data_samples import affine, noise, rotation, stored_as
from DeSAMSegmentLib.data import slices as slicing
from DeSAMSegmentLib.data.orientation import layout
from DeSAMSegmentLib.data.slices import Slices, SliceSpec, quantiles
from DeSAMSegmentLib.data.volume import Volume
from DeSAMSegmentLib.errors import BadInput


@pytest.mark.parametrize("shape", [(384, 384), (512, 512), (200, 180), (256, 256)])
def test_the_image_is_the_published_one(shape):
    """Reference: skimage, as precompute_embeddings.py calls it, on a volume stored in canonical orientation."""
    transform = pytest.importorskip("skimage.transform")
    rng = np.random.default_rng(0)
    smooth = transform.resize(rng.random((3, 20, 20)), (3, *shape), order=3) * 1500
    array = np.maximum(smooth, 0).astype(np.int16)
    low, high = np.percentile(array, (0.5, 99.5))
    grey = (np.clip(array, low, high) - low) / (high - low) * 255
    grey[array == 0] = 0
    grey = np.uint8(grey)
    expected = np.uint8(
        transform.resize(grey[1], (256, 256), order=3, preserve_range=True, mode="constant", anti_aliasing=True)
        if shape == (256, 256)
        else transform.resize(grey[1], (256, 256), order=3, preserve_range=True, anti_aliasing=True)
    )
    lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    image = Slices(Volume(array, lps), SliceSpec(zero_black=True)).image(1)
    difference = np.abs(image.astype(int) - expected)
    assert difference.max() <= 1  # truncation of 254.99999
    assert (difference > 0).mean() < 0.01


def test_every_labelled_slice_is_seen_the_last_one_too():
    """Published: range(first, last) drops the last slice; a one-slice organ yields nothing."""
    labels = np.zeros((9, 40, 40), np.uint8)
    labels[3:7, 10:20, 10:20] = 1
    slices = Slices(noise((9, 40, 40)), SliceSpec())
    assert [i for i in range(len(slices)) if slices.label_map(labels, i).any()] == [3, 4, 5, 6]
    labels[:] = 0
    labels[8, 10:20, 10:20] = 1
    assert [i for i in range(len(slices)) if slices.label_map(labels, i).any()] == [8]


def test_percentiles_are_over_all_voxels_and_equal_to_numpy():
    rng = np.random.default_rng(0)
    for dtype in (np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64):
        array = np.maximum(rng.normal(300 if dtype != np.uint8 else 90, 30, (7, 11, 13)), 0).astype(dtype)
        assert np.allclose(quantiles(array, (0.5, 30.0, 99.5)), np.percentile(array, (0.5, 30.0, 99.5)), rtol=1e-6)
    assert quantiles(np.array([[[5]]], np.int16), (0.5, 99.5)) == [5, 5]


def test_half_a_percent_of_the_voxels_at_either_end_is_black_or_white():
    array = np.arange(10_000, dtype=np.int16).reshape(1, 100, 100)
    slices = Slices(Volume(array, np.eye(4)), SliceSpec())
    assert slices.limits == pytest.approx((49.995, 9949.005))
    grey = slices.native_image(0)
    assert [int((grey == end).sum()) for end in (0, 255)] == pytest.approx([50, 50], abs=40)  # and whole grey levels


def test_a_volume_that_is_almost_all_background_still_has_contrast():
    array = np.zeros((10, 50, 50), np.float32)
    array[5, 25, 20:30] = np.arange(1, 11)
    image = Slices(Volume(array, np.eye(4)), SliceSpec()).image(5)
    assert image.max() > 50
    assert Slices(Volume(array, np.eye(4)), SliceSpec()).image(0).max() == 0


def test_a_window_maps_its_ends_to_black_and_white():
    array = np.linspace(-1000, 1000, 4 * 64 * 64).reshape(4, 64, 64).astype(np.int16)
    slices = Slices(Volume(array, np.diag([-1.0, -1.0, 1.0, 1.0])), SliceSpec(intensity="window", window=(-160, 240)))
    grey = np.stack([slices.native_image(i) for i in range(4)])
    assert (grey[array <= -160] == 0).all()
    assert (grey[array >= 240] == 255).all()
    assert (
        np.abs(grey[(array > -160) & (array < 240)] - (array[(array > -160) & (array < 240)] + 160) / 400 * 255).max()
        <= 1
    )


def test_exact_zeros_stay_grey_in_signed_data():
    """Published: raw zeros are painted black, which speckles soft tissue in CT."""
    array = np.random.default_rng(0).integers(-1000, 1000, (3, 256, 256)).astype(np.int16)
    array[1, 100, 100] = 0
    volume = Volume(array, np.diag([-1.0, -1.0, 1.0, 1.0]))
    ct = SliceSpec.for_volume(volume)
    assert not ct.zero_black
    assert Slices(volume, ct).image(1)[100, 100] > 80
    assert Slices(volume, SliceSpec(zero_black=True)).image(1)[100, 100] == 0
    assert SliceSpec.for_volume(noise()).zero_black


def test_a_volume_chooses_axis_and_intensity_when_the_user_does_not():
    mr, ct = noise(), noise()
    ct.array[:, :, :3] = -1000
    assert SliceSpec.for_volume(mr) == SliceSpec("axial", "percentile", zero_black=True)
    assert SliceSpec.for_volume(ct) == SliceSpec("axial", "window", (-160, 240))
    assert SliceSpec.for_volume(ct, intensity="percentile") == SliceSpec("axial", "percentile")
    assert SliceSpec.for_volume(mr, window=(10, 20)).window == (10, 20)
    assert SliceSpec.for_volume(mr, axis="acquired").axis == "acquired"
    assert SliceSpec.for_volume(mr, axis="lowest").axis == "acquired", "as cards of earlier versions have it"
    sagittal_scan = stored_as(noise(spacing=(0.5, 0.5, 4.0)), (0, 1, 2), (False,) * 3)
    turned = Volume(sagittal_scan.array, affine((0.5, 0.5, 4.0), turn=np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]])))
    assert SliceSpec.for_volume(turned).axis == "acquired"
    assert Slices(turned, SliceSpec(axis="acquired")).layout == layout(turned.ijk_to_ras, "sagittal")


def test_of_two_axes_alike_the_anatomy_decides_and_not_the_storage():
    volume = noise((3, 4, 5), spacing=(1.0, 1.0, 0.5))
    for order in ((0, 1, 2), (0, 2, 1), (1, 2, 0), (2, 1, 0)):
        slices = Slices(stored_as(volume, order, (False, True, False)), SliceSpec(axis="acquired"))
        assert len(slices) == 4, "the coronal ones: across the axial ones they are half as thick"
    thin = noise((3, 4, 5), spacing=(1.0, 1.0, 0.5), turn=rotation(90, 0, 0) @ rotation(0, 90, 0))
    counts = set()
    for order in ((0, 1, 2), (0, 2, 1), (2, 0, 1)):
        counts.add(len(Slices(stored_as(thin, order, (True, False, False)), SliceSpec(axis="acquired"))))
    assert len(counts) == 1


def test_thick_slices_are_cut_as_acquired_only_when_clearly_thicker():
    for spacing, axis in (((1.9, 1.0, 1.0), "axial"), ((2.1, 1.0, 1.0), "acquired"), ((3.0, 3.0, 3.0), "axial")):
        assert SliceSpec.for_volume(noise(spacing=spacing)).axis == axis


@pytest.mark.parametrize(
    ("spacing", "plane"),
    [
        ((2.0, 3.0, 1.0), "coronal"),
        ((3.0, 2.0, 1.0), "sagittal"),
        ((2.0, 3.0, 4.0), "axial"),
        ((3.02, 1.0, 3.0), "axial"),  # equal, as far as a header that rounds can tell
        ((3.10, 1.0, 3.0), "sagittal"),
    ],
)
def test_the_acquired_plane_is_across_the_thickest_slices_and_axial_in_doubt(spacing, plane):
    volume = noise(spacing=spacing)
    assert Slices(volume, SliceSpec(axis="acquired")).layout == layout(volume.ijk_to_ras, plane)


def test_a_spec_survives_json_and_refuses_nonsense():
    spec = SliceSpec("coronal", "window", (-100, 300.5), False, "pad")
    assert SliceSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert SliceSpec.from_dict({"axis": "sagittal", "from_the_future": 1}).axis == "sagittal"
    for nonsense in ({"axis": "up"}, {"intensity": "loud"}, {"intensity": "window"}, {"fit": "well"}, {"size": 0},
                     {"size": 512}, {"intensity": "window", "window": [3, 3]}):  # fmt: skip
        with pytest.raises(BadInput):
            SliceSpec.from_dict(nonsense)


def test_the_content_key_knows_all_that_an_image_depends_on():
    volume = noise()
    key = Slices(volume, SliceSpec()).content_key
    assert key == Slices(Volume(volume.array.copy(), volume.ijk_to_ras.copy(), "renamed"), SliceSpec()).content_key
    changed = volume.array.copy()
    changed[-1, -1, -1] += 1
    moved = volume.ijk_to_ras.copy()
    moved[0, 3] += 1
    others = [
        Slices(Volume(changed, volume.ijk_to_ras), SliceSpec()),
        Slices(Volume(volume.array, moved), SliceSpec()),
        Slices(Volume(volume.array.astype(np.int32), volume.ijk_to_ras), SliceSpec()),
        Slices(volume, SliceSpec(axis="coronal")),
        Slices(volume, SliceSpec(intensity="window", window=(0, 500))),
    ]
    assert len({key, *(slices.content_key for slices in others)}) == 6


def test_another_version_of_the_preprocessing_has_other_keys(monkeypatch):
    before = Slices(noise(), SliceSpec()).content_key
    monkeypatch.setattr(slicing, "VERSION", slicing.VERSION + 1)
    assert Slices(noise(), SliceSpec()).content_key != before


def test_a_slice_2048_pixels_wide_and_a_volume_of_one_voxel_work():
    wide = Slices(noise((2, 2048, 2048)), SliceSpec())
    assert wide.image(1).shape == (256, 256)
    assert wide.to_native(np.zeros((256, 256))).shape == (2048, 2048)
    tiny = Slices(noise((1, 1, 1)), SliceSpec(intensity="window", window=(0, 1)))
    assert tiny.image(0).shape == (256, 256)
    assert tiny.to_native(np.ones((256, 256))).tolist() == [[1.0]]


def test_labels_of_another_grid_are_a_defect_of_the_caller():
    with pytest.raises(ValueError, match="grid"):
        Slices(noise(), SliceSpec()).label_map(np.zeros((5, 7, 8), np.uint8), 0)
