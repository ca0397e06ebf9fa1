"""Slices: what the network sees, and that every result lands on the voxels it came from."""

from __future__ import annotations

import json
from itertools import permutations, product

import numpy as np
import pytest
from data_samples import SHARED, affine, back, needs_shared_data, noise, rotation, stored_as
from DeSAMSegmentLib.data.cases import load, read_dataset
from DeSAMSegmentLib.data.slices import PERCENTILES, Slices, SliceSpec, quantiles
from DeSAMSegmentLib.data.volume import Volume
from DeSAMSegmentLib.errors import BadInput
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

AXES = ("axial", "coronal", "sagittal", "lowest")
ORDERS = list(permutations(range(3)))
FLIPS = list(product((False, True), repeat=3))
few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

sizes = st.tuples(*[st.integers(1, 40)] * 3)
spacings = st.tuples(*[st.floats(0.3, 8.0)] * 3)
angles = st.tuples(*[st.floats(-180, 180)] * 3)
orders, flips = st.sampled_from(ORDERS), st.sampled_from(FLIPS)
specs = st.builds(SliceSpec, axis=st.sampled_from(AXES), fit=st.sampled_from(("squash", "pad")))


def disc(shape, centre, radius) -> np.ndarray:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def centroid(mask) -> np.ndarray:
    return np.array(np.nonzero(mask)).mean(axis=1)


# Round trips


@few
@given(sizes, spacings, angles, orders, flips, specs)
def test_a_slice_returns_to_exactly_the_voxels_it_came_from(shape, spacing, turn, order, flip, spec):
    volume = stored_as(noise(shape, spacing=spacing, turn=rotation(*turn)), order, flip)
    labels = np.random.default_rng(1).integers(0, 4, volume.array.shape).astype(np.uint8)
    slices = Slices(volume, spec)
    rebuilt = np.zeros_like(labels)
    for i in range(len(slices)):
        native = slices.native_truth(labels, i)
        assert native.shape == slices.native_shape
        index, plane = slices.place(i, native)
        assert np.array_equal(plane, labels.take(index, slices.axis))
        assert slices.index(index) == i
        rebuilt[(slice(None),) * slices.axis + (index,)] = plane
    assert np.array_equal(rebuilt, labels)


@few
@given(sizes, spacings, angles, orders, flips, specs)
def test_one_scan_stored_in_two_ways_gives_the_same_pictures_and_the_same_result(
    shape, spacing, turn, order, flip, spec
):
    """A DICOM series and its NIfTI export differ in flips and order of axes; a model must not notice (E-14)."""
    volume = noise(shape, spacing=spacing, turn=rotation(*turn))
    other = stored_as(volume, order, flip)
    here, there = Slices(volume, spec), Slices(other, spec)
    assert len(here) == len(there)
    assert np.allclose(here.pixel_spacing, there.pixel_spacing)
    results = [np.zeros(volume.array.shape, np.float32), np.zeros(other.array.shape, np.float32)]
    for i in {0, len(here) // 2, len(here) - 1}:
        pictures = [slices.image(i) for slices in (here, there)]
        assert np.array_equal(*pictures)
        for slices, result in zip((here, there), results, strict=True):
            index, plane = slices.place(i, slices.to_native(pictures[0]))
            result[(slice(None),) * slices.axis + (index,)] = plane
    assert np.array_equal(back(results[1], order, flip), results[0])


@pytest.mark.parametrize("turn", [(45, 0, 0), (0, 45, 0), (0, 0, 45), (35.2643897, 0, 45)])
def test_exactly_oblique_axes_do_not_depend_on_storage(turn):
    volume = noise((6, 7, 8), turn=rotation(*turn))
    pictures = {}
    for order, flip in product(ORDERS, FLIPS):
        slices = Slices(stored_as(volume, order, flip), SliceSpec())
        pictures[slices.image(2).tobytes()] = (order, flip)
    assert len(pictures) == 1, pictures


def test_an_axial_slice_shows_the_patient_as_a_radiologist_expects():
    """Right of the patient at the picture's left, front at its top, slices from the feet to the head."""
    array = np.zeros((4, 20, 30), np.int16)  # RAS: i to the right... of the patient means lower x in LPS
    array[3, 19, 29] = 100  # the most superior, anterior, right corner of an RAS array whose axes run to R, A, S
    volume = Volume(array, affine())
    slices = Slices(volume, SliceSpec())
    last = slices.native_image(3)
    assert np.unravel_index(last.argmax(), last.shape) == (0, 0)
    assert slices.native_image(0).max() == 0
    coronal = Slices(volume, SliceSpec(axis="coronal"))
    assert coronal.native_image(0)[0, 0] == 255  # the front slice comes first; head up, right at the left
    sagittal = Slices(volume, SliceSpec(axis="sagittal"))
    assert sagittal.native_image(0)[0, 0] == 255  # the right side comes first; head up, front at the left


@few
@given(sizes, spacings, orders, flips, specs, st.integers(0, 10_000))
def test_a_point_in_the_picture_is_found_on_the_voxels(shape, spacing, order, flip, spec, seed):
    volume = stored_as(noise(shape, spacing=spacing), order, flip)
    slices = Slices(volume, spec)
    rng = np.random.default_rng(seed)
    i = int(rng.integers(len(slices)))
    row, column = (int(rng.integers(n)) for n in slices.native_shape)
    native = np.zeros(slices.native_shape, np.uint8)
    native[row, column] = 1
    first_row, rows, first_column, columns = slices.content
    x = first_column + (column + 0.5) * columns / native.shape[1] - 0.5
    y = first_row + (row + 0.5) * rows / native.shape[0] - 0.5
    _, plane = slices.place(i, native)
    assert np.allclose(slices.point_to_native(np.array([x, y])), np.argwhere(plane)[0], atol=1e-6)


# Resampling without bias


@pytest.mark.parametrize(
    "shape", [(512, 512), (384, 384), (256, 216), (320, 320), (180, 250), (101, 122), (2048, 2048)]
)
@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_a_label_keeps_its_area_and_its_place(shape, fit):
    """Published: resized with anti-aliasing on integers, which erodes by 6 to 10 % (E-13)."""
    radius = min(shape) / 5
    centre = (shape[0] * 0.45, shape[1] * 0.57)
    truth = disc(shape, centre, radius)[None].astype(np.uint8) * 3
    slices = Slices(noise((1, *shape)), SliceSpec(fit=fit))
    small = slices.truth(truth, 0)
    assert set(np.unique(small)) == {0, 3}
    _, rows, _, columns = slices.content
    area = np.count_nonzero(small) * shape[0] / rows * shape[1] / columns
    assert area == pytest.approx(np.pi * radius**2, rel=0.01)
    # And back: the network's ideal answer is the organ, in its place on the scanner's pixels.
    returned = slices.to_native(np.where(small > 0, 4.0, -4.0)) > 0
    canonical = slices.native_truth(truth, 0) > 0
    assert returned.sum() == pytest.approx(canonical.sum(), rel=0.01)
    pixel = max(1.0, shape[0] / rows, shape[1] / columns)  # one pixel of the coarser grid
    assert np.abs(centroid(returned) - centroid(canonical)).max() < 0.1 * pixel


def test_labels_above_255_are_not_wrapped():
    labels = np.full((1, 40, 40), 300, np.uint16)
    assert (Slices(noise((1, 40, 40)), SliceSpec()).truth(labels, 0) == 300).all()


def test_the_published_label_resize_erodes_which_is_why_ours_differs():
    transform = pytest.importorskip("skimage.transform")
    truth = disc((384, 384), (190, 200), 60).astype(np.uint8)
    eroded = transform.resize(truth, (256, 256), order=0, preserve_range=True, anti_aliasing=True).astype(np.uint8)
    ours = Slices(noise((1, 384, 384)), SliceSpec()).truth(truth[None, ::-1, ::-1], 0)
    expected = np.pi * 40**2
    assert (eroded > 0).sum() < 0.97 * expected
    assert (ours > 0).sum() == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("shape", [(512, 384), (200, 256), (256, 256), (37, 513)])
def test_maps_return_as_torch_would_interpolate_them(shape):
    torch = pytest.importorskip("torch")
    maps = np.random.default_rng(0).standard_normal((2, 3, 256, 256)).astype(np.float32)
    ours = Slices(noise((1, *shape)), SliceSpec()).to_native(maps)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(maps).double(), shape, mode="bilinear", align_corners=False
    )
    assert ours.dtype == np.float32
    assert ours.shape == (2, 3, *shape)
    assert np.abs(ours - theirs.numpy()).max() < 1e-5


def test_flipped_maps_return_flipped():
    maps = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
    slices = Slices(noise((1, 391, 512)), SliceSpec())
    whole = slices.to_native(maps)
    assert np.allclose(slices.to_native(maps[::-1]), whole[::-1], atol=1e-6)
    assert np.allclose(slices.to_native(maps[:, ::-1]), whole[:, ::-1], atol=1e-6)


def test_padding_keeps_the_aspect_in_millimetres_and_stays_black():
    volume = Volume(np.full((3, 100, 100), 500, np.int16), affine((1.0, 0.5, 3.0)))  # 100 mm wide, 50 mm high
    volume.array[0, 0, 0] = 0
    slices = Slices(volume, SliceSpec(fit="pad"))
    assert slices.content == (64, 128, 0, 256)
    picture = slices.image(1)
    assert picture[64:192].min() == 255
    assert picture[:64].max() == 0
    assert picture[192:].max() == 0
    # A map's padding does not leak into the slice.
    maps = np.where(np.arange(256)[:, None] // 64 % 3 == 0, -100.0, 1.0) * np.ones((256, 256))
    assert np.allclose(slices.to_native(maps), 1.0)


# What the network sees


@pytest.mark.parametrize("shape", [(384, 384), (512, 512), (200, 180), (256, 256)])
def test_the_picture_is_the_published_one(shape):
    """Reference: skimage, as precompute_embeddings.py calls it (E2), on a volume stored in canonical orientation."""
    transform = pytest.importorskip("skimage.transform")
    rng = np.random.default_rng(0)
    smooth = transform.resize(rng.random((3, 20, 20)), (3, *shape), order=3) * 1500
    array = np.maximum(smooth, 0).astype(np.int16)
    low, high = np.percentile(array, PERCENTILES)
    grey = (np.clip(array, low, high) - low) / (high - low) * 255
    grey[array == 0] = 0
    grey = np.uint8(grey)
    expected = np.uint8(
        transform.resize(grey[1], (256, 256), order=3, preserve_range=True, mode="constant", anti_aliasing=True)
        if shape == (256, 256)
        else transform.resize(grey[1], (256, 256), order=3, preserve_range=True, anti_aliasing=True)
    )
    lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    picture = Slices(Volume(array, lps), SliceSpec(zero_black=True)).image(1)
    difference = np.abs(picture.astype(int) - expected)
    assert difference.max() <= 1  # truncation of 254.99999
    assert (difference > 0).mean() < 0.01


def test_every_labelled_slice_is_seen_the_last_one_too():
    """Published: range(first, last) drops the last slice; a one-slice organ yields nothing (E-11)."""
    labels = np.zeros((9, 40, 40), np.uint8)
    labels[3:7, 10:20, 10:20] = 1
    slices = Slices(noise((9, 40, 40)), SliceSpec())
    assert [i for i in range(len(slices)) if slices.truth(labels, i).any()] == [3, 4, 5, 6]
    labels[:] = 0
    labels[8, 10:20, 10:20] = 1
    assert [i for i in range(len(slices)) if slices.truth(labels, i).any()] == [8]


def test_percentiles_are_over_all_voxels_and_equal_to_numpy():
    rng = np.random.default_rng(0)
    for dtype in (np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64):
        array = np.maximum(rng.normal(300 if dtype != np.uint8 else 90, 30, (7, 11, 13)), 0).astype(dtype)
        assert np.allclose(quantiles(array, (0.5, 30.0, 99.5)), np.percentile(array, (0.5, 30.0, 99.5)), rtol=1e-6)
    assert quantiles(np.array([[[5]]], np.int16), (0.5, 99.5)) == [5, 5]


def test_a_volume_that_is_almost_all_background_still_has_contrast():
    array = np.zeros((10, 50, 50), np.float32)
    array[5, 25, 20:30] = np.arange(1, 11)
    picture = Slices(Volume(array, np.eye(4)), SliceSpec()).image(5)
    assert picture.max() > 50
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
    """Published: raw zeros are painted black, which speckles soft tissue in CT (E-12)."""
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
    assert SliceSpec.for_volume(mr, axis="lowest").axis == "lowest"
    sagittal_scan = stored_as(noise(spacing=(0.5, 0.5, 4.0)), (0, 1, 2), (False,) * 3)
    turned = Volume(sagittal_scan.array, affine((0.5, 0.5, 4.0), turn=np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]])))
    assert SliceSpec.for_volume(turned).axis == "sagittal"
    assert Slices(turned, SliceSpec(axis="lowest")).axis == 0


def test_thick_slices_choose_their_own_plane_only_when_clearly_thicker():
    assert SliceSpec.for_volume(noise(spacing=(1.9, 1.0, 1.0))).axis == "axial"
    assert SliceSpec.for_volume(noise(spacing=(2.1, 1.0, 1.0))).axis == "sagittal"
    assert SliceSpec.for_volume(noise(spacing=(1.0, 2.1, 1.0))).axis == "coronal"
    assert SliceSpec.for_volume(noise(spacing=(3.0, 3.0, 3.0))).axis == "axial"


def test_a_spec_survives_json_and_refuses_nonsense():
    spec = SliceSpec("coronal", "window", (-100, 300.5), False, "pad")
    assert SliceSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert SliceSpec.from_dict({"axis": "sagittal", "from_the_future": 1}).axis == "sagittal"
    for nonsense in ({"axis": "up"}, {"intensity": "loud"}, {"intensity": "window"}, {"fit": "well"}, {"size": 0},
                     {"intensity": "window", "window": [3, 3]}):  # fmt: skip
        with pytest.raises(BadInput):
            SliceSpec.from_dict(nonsense)


def test_the_content_key_knows_all_that_a_picture_depends_on():
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


def test_a_slice_2048_pixels_wide_and_a_volume_of_one_voxel_work():
    wide = Slices(noise((2, 2048, 2048)), SliceSpec())
    assert wide.image(1).shape == (256, 256)
    assert wide.to_native(np.zeros((256, 256))).shape == (2048, 2048)
    tiny = Slices(noise((1, 1, 1)), SliceSpec(intensity="window", window=(0, 1)))
    assert tiny.image(0).shape == (256, 256)
    assert tiny.to_native(np.ones((256, 256))).tolist() == [[1.0]]


def test_labels_of_another_grid_are_a_defect_of_the_caller():
    with pytest.raises(ValueError, match="grid"):
        Slices(noise(), SliceSpec()).truth(np.zeros((5, 7, 8), np.uint8), 0)


@needs_shared_data
@pytest.mark.parametrize("name", ["Dataset101_Prostate", "Dataset102_Spleen", "Dataset103_AbdomenCTMR"])
def test_real_scans_flipped_by_hand_give_the_same_pictures(name):
    case = read_dataset(SHARED / name).cases[-1]
    volume, labels = load(case)
    order, flip = (2, 0, 1), (True, False, True)
    other = stored_as(volume, order, flip)
    other_labels = stored_as(Volume(labels, volume.ijk_to_ras), order, flip).array
    spec = SliceSpec.for_volume(volume)
    assert spec == SliceSpec.for_volume(other)
    here, there = Slices(volume, spec), Slices(other, spec)
    for i in range(0, len(here), 5):
        assert np.array_equal(here.image(i), there.image(i))
        assert np.array_equal(here.truth(labels, i), there.truth(other_labels, i))
