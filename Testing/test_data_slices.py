"""Slices: what the network sees, and that every result lands on the voxels it came from."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from data_samples import SHARED, affine, back, needs_shared_data, noise, rotation, stored_as
from DeSAMSegmentLib.data.cases import load_case, read_dataset
from DeSAMSegmentLib.data.slices import Slices, SliceSpec
from DeSAMSegmentLib.data.volume import Volume
from DeSAMSegmentLib.errors import BadInput
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

AXES = ("axial", "coronal", "sagittal", "acquired")
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
        native = slices.native_labels(labels, i)
        assert native.shape == slices.native_shape
        index, plane = slices.place(i, native)
        assert np.array_equal(plane, labels.take(index, slices.axis))
        assert slices.index(index) == i
        rebuilt[(slice(None),) * slices.axis + (index,)] = plane
    assert np.array_equal(rebuilt, labels)


@few
@given(sizes, spacings, angles, orders, flips, specs)
def test_one_scan_stored_in_two_ways_gives_the_same_images_and_the_same_result(shape, spacing, turn, order, flip, spec):
    """A DICOM series and its NIfTI export differ in flips and order of axes; a model must not notice."""
    volume = noise(shape, spacing=spacing, turn=rotation(*turn))
    other = stored_as(volume, order, flip)
    here, there = Slices(volume, spec), Slices(other, spec)
    assert len(here) == len(there)
    assert np.allclose(here.pixel_spacing, there.pixel_spacing)
    results = [np.zeros(volume.array.shape, np.float32), np.zeros(other.array.shape, np.float32)]
    for i in {0, len(here) // 2, len(here) - 1}:
        images = [slices.image(i) for slices in (here, there)]
        assert np.array_equal(*images)
        for slices, result in zip((here, there), results, strict=True):
            index, plane = slices.place(i, slices.to_native(images[0]))
            result[(slice(None),) * slices.axis + (index,)] = plane
    assert np.array_equal(back(results[1], order, flip), results[0])


@pytest.mark.parametrize("turn", [(45, 0, 0), (0, 45, 0), (0, 0, 45), (35.2643897, 0, 45)])
def test_exactly_oblique_axes_do_not_depend_on_storage(turn):
    volume = noise((6, 7, 8), turn=rotation(*turn))
    images = {}
    for order, flip in product(ORDERS, FLIPS):
        slices = Slices(stored_as(volume, order, flip), SliceSpec())
        images[slices.image(2).tobytes()] = (order, flip)
    assert len(images) == 1, images


def test_an_axial_slice_shows_the_patient_as_a_radiologist_expects():
    """Right of the patient at the image's left, front at its top, slices from the feet to the head."""
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
def test_a_point_in_the_image_is_found_on_the_voxels(shape, spacing, order, flip, spec, seed):
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
    """Published: resized with anti-aliasing on integers, which erodes by 6 to 10 %."""
    radius = min(shape) / 5
    centre = (shape[0] * 0.45, shape[1] * 0.57)
    labels = disc(shape, centre, radius)[None].astype(np.uint8) * 3
    slices = Slices(noise((1, *shape)), SliceSpec(fit=fit))
    small = slices.label_map(labels, 0)
    assert set(np.unique(small)) == {0, 3}
    _, rows, _, columns = slices.content
    area = np.count_nonzero(small) * shape[0] / rows * shape[1] / columns
    assert area == pytest.approx(np.pi * radius**2, rel=0.01)
    # And back: the network's ideal answer is the organ, in its place on the scanner's pixels.
    returned = slices.to_native(np.where(small > 0, 4.0, -4.0)) > 0
    canonical = slices.native_labels(labels, 0) > 0
    assert returned.sum() == pytest.approx(canonical.sum(), rel=0.01)
    pixel = max(1.0, shape[0] / rows, shape[1] / columns)  # one pixel of the coarser grid
    assert np.abs(centroid(returned) - centroid(canonical)).max() < 0.1 * pixel


def test_labels_above_255_are_not_wrapped():
    labels = np.full((1, 40, 40), 300, np.uint16)
    assert (Slices(noise((1, 40, 40)), SliceSpec()).label_map(labels, 0) == 300).all()


def test_the_published_label_resize_erodes_which_is_why_ours_differs():
    transform = pytest.importorskip("skimage.transform")
    labels = disc((384, 384), (190, 200), 60).astype(np.uint8)
    eroded = transform.resize(labels, (256, 256), order=0, preserve_range=True, anti_aliasing=True).astype(np.uint8)
    ours = Slices(noise((1, 384, 384)), SliceSpec()).label_map(labels[None, ::-1, ::-1], 0)
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
    image = slices.image(1)
    assert image[64:192].min() == 255
    assert image[:64].max() == 0
    assert image[192:].max() == 0
    # A map's padding does not leak into the slice.
    maps = np.where(np.arange(256)[:, None] // 64 % 3 == 0, -100.0, 1.0) * np.ones((256, 256))
    assert np.allclose(slices.to_native(maps), 1.0)


@needs_shared_data
@pytest.mark.parametrize("name", ["Dataset101_Prostate", "Dataset102_Spleen", "Dataset103_AbdomenCTMR"])
def test_real_scans_flipped_by_hand_give_the_same_images(name):
    case = read_dataset(SHARED / name).cases[-1]
    volume, label_map = load_case(case)
    labels = label_map.array
    order, flip = (2, 0, 1), (True, False, True)
    other = stored_as(volume, order, flip)
    other_labels = stored_as(Volume(labels, volume.ijk_to_ras), order, flip).array
    spec = SliceSpec.for_volume(volume)
    assert spec == SliceSpec.for_volume(other)
    here, there = Slices(volume, spec), Slices(other, spec)
    for i in range(0, len(here), 5):
        assert np.array_equal(here.image(i), there.image(i))
        assert np.array_equal(here.label_map(labels, i), there.label_map(other_labels, i))


@pytest.mark.parametrize(
    ("low", "high", "blank"),
    [
        (-1000, -300, True),
        (500, 3000, True),
        (40, 40, True),
        (-1000, -100, False),
        (100, 3000, False),
        (-1000, -160, True),
        (240, 3000, True),
    ],
)
def test_a_slice_outside_the_window_is_blank(low, high, blank):
    array = np.linspace(-1000, 3000, 4 * 20 * 20).reshape(4, 20, 20).astype(np.int16)
    array[2] = np.linspace(low, high, 400).reshape(20, 20)
    slices = Slices(Volume(array, np.eye(4), "ct"), SliceSpec("axial", "window", (-160, 240)))
    assert slices.is_blank(2) is blank
    assert bool(np.ptp(slices.image(2)) == 0) is blank


@pytest.mark.parametrize(
    ("ijk_to_ras", "axis", "turned"),
    [
        (np.diag([-1.5, -1.5, 10, 1]), "acquired", True),  # ITK's defaults: Dataset109
        (np.diag([1.5, 1.5, 10, 1]), "acquired", True),  # nibabel's
        (np.diag([-1.5, -1.5, 10, 1]), "axial", False),  # somebody said so
        (np.array([[-0.5, 0, 0, 80], [0, -0.5, 0, 90], [0, 0, 3, -20], [0, 0, 0, 1.0]]), "acquired", False),
        (np.array([[-1.0, -0.3, 3.3, 9], [0, -0.9, -6.1, 9], [0.5, -0.7, 6.6, 9], [0, 0, 0, 1]]), "acquired", True),
    ],
    ids=["without geometry", "without geometry in RAS", "axial", "placed", "oblique heart"],
)
def test_whether_anything_fixes_how_slices_lie_turned_in_their_plane(ijk_to_ras, axis, turned):
    volume = Volume(np.zeros((6, 40, 40), np.int16), ijk_to_ras)
    assert Slices(volume, SliceSpec(axis)).is_turned_anyhow is turned


# Greys of another scanner


def matched(volume: Volume, to: Volume) -> Slices:
    histogram = Slices(to, SliceSpec(axis="acquired")).histogram()
    return Slices(volume, SliceSpec(axis="acquired", intensity="matched", histogram=tuple(histogram)))


def test_greys_are_matched_to_those_of_the_training_images() -> None:
    """The same slices under a bent contrast curve come out as they were, to a few greys, and black stays black."""
    home = noise((40, 30, 5), spacing=(1, 1, 5))
    home.array[:, :10] = 0
    bent = Volume((np.clip(home.array.astype(np.float64), 0, None) ** 1.7).astype(np.float64), home.ijk_to_ras)
    plain, mapped = Slices(home, SliceSpec(axis="acquired")), matched(bent, home)
    unmatched = Slices(bent, SliceSpec(axis="acquired"))
    error = [np.abs(plain.native_image(2) - each.native_image(2)).mean() for each in (mapped, unmatched)]
    assert 5 * error[0] < error[1], error
    black = plain.native_image(2) == 0
    assert black.sum() > 40
    assert not mapped.native_image(2)[black].any()
    assert matched(home, home).native_image(2) == pytest.approx(plain.native_image(2), abs=8)


def test_matching_names_features_anew_and_a_known_histogram_alone_does_not() -> None:
    volume = noise((20, 20, 4), spacing=(1, 1, 5))
    greys = tuple(Slices(volume, SliceSpec()).histogram())
    plain, known, used = (
        Slices(volume, SliceSpec(**changes)).content_key
        for changes in ({}, {"histogram": greys}, {"histogram": greys, "intensity": "matched"})
    )
    assert plain == known != used


@pytest.mark.parametrize("histogram", [None, (1.0, 2.0), tuple(range(33, 0, -1)), (float("nan"),) * 33])
def test_greys_that_are_no_histogram_are_refused(histogram) -> None:
    with pytest.raises(BadInput, match="grey"):
        SliceSpec(intensity="matched", histogram=histogram)
