"""Simulated sites: nothing at strength 0, more with more of it, the same for the same seed, and each what it says."""

from __future__ import annotations

import numpy as np
import pytest
from data_samples import affine
from desam_research.plan import TestCase
from desam_research.simulate import EFFECTS, simulate
from DeSAMSegmentLib.data.cases import Case
from DeSAMSegmentLib.data.volume import Volume
from DeSAMSegmentLib.errors import BadInput
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter


def phantom(seed: int = 0) -> Volume:
    """Smooth tissue of many grey levels with sharp squares in it, black outside."""
    rng = np.random.default_rng(seed)
    tissue = gaussian_filter(rng.normal(0, 1, (4, 64, 60)), (0, 5, 5))
    tissue = 200 + 700 * (tissue - tissue.min()) / np.ptp(tissue)
    tissue[:, 20:30, 20:30] += 300
    tissue[:, :8] = 0
    return Volume(tissue.astype(np.int16), affine(spacing=(1.5, 1.5, 8.0)), "phantom")


@pytest.mark.parametrize("effect", EFFECTS)
def test_strength_zero_changes_nothing(effect: str) -> None:
    volume = phantom()
    assert simulate(volume, effect, 0.0) is volume


@pytest.mark.parametrize("effect", EFFECTS)
def test_more_strength_is_farther_away_and_the_grid_stays(effect: str) -> None:
    volume = phantom()
    shifted = [simulate(volume, effect, strength, name="a") for strength in (0.25, 0.5, 1.0, 1.5)]
    distances = [float(np.abs(each.array - volume.array).mean()) for each in shifted]
    assert distances == sorted(distances)
    assert distances[0] > 1
    for each in shifted:
        assert each.array.shape == volume.array.shape
        np.testing.assert_array_equal(each.ijk_to_ras, volume.ijk_to_ras)
        assert np.isfinite(each.array).all()


@settings(max_examples=15, deadline=None)
@given(effect=st.sampled_from(EFFECTS), seed=st.integers(0, 50), name=st.text(max_size=5))
def test_the_same_arguments_give_the_same_voxels(effect: str, seed: int, name: str) -> None:
    first, again = (simulate(phantom(), effect, 0.8, seed, name).array for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("effect", [each for each in EFFECTS if each != "resolution"])
def test_another_site_looks_different(effect: str) -> None:
    one, other = (simulate(phantom(), effect, 1.0, seed, "a").array for seed in (0, 1))
    assert np.abs(one - other).mean() > 5


def test_the_noise_of_two_cases_of_a_site_is_not_the_same() -> None:
    one, other = (simulate(phantom(), "noise", 1.0, 0, name).array for name in "ab")
    assert (one != other).mean() > 0.9


def test_contrast_keeps_the_order_of_tissues_and_is_the_sites_own() -> None:
    curves = []
    for seed in (0, 1):
        volume = phantom(seed)
        changed = simulate(volume, "contrast", 1.0, 3, f"case {seed}").array
        order = np.argsort(volume.array, axis=None)
        assert (np.diff(changed.ravel()[order]) >= -1e-3).all()
        low, high = np.percentile(volume.array, (0.5, 99.5))
        curves.append(np.interp(0.5, (volume.array.ravel()[order] - low) / (high - low), changed.ravel()[order] / high))
    assert abs(curves[0] - curves[1]) < 0.03


def test_noise_is_rician_where_there_was_air() -> None:
    volume = phantom()
    air = simulate(volume, "noise", 1.0).array[:, :8]
    low, high = np.percentile(volume.array, (0.5, 99.5))
    sigma = 0.08 * (high - low)
    assert air.mean() == pytest.approx(sigma * np.sqrt(np.pi / 2), rel=0.05)


def test_all_effects_together_are_each_a_little_weaker() -> None:
    volume = phantom()
    air = simulate(volume, "mixed", 1.0).array[:, :3]
    low, high = np.percentile(volume.array, (0.5, 99.5))
    assert air.mean() == pytest.approx(0.7 * 0.08 * (high - low) * np.sqrt(np.pi / 2), rel=0.08)


def test_a_coarser_matrix_mixes_no_slices() -> None:
    volume = phantom()
    volume.array[[0, 1, 3]] = 0
    changed = simulate(volume, "resolution", 1.0).array
    np.testing.assert_allclose(changed[[0, 1, 3]], 0, atol=1e-3)
    assert changed[2].max() > 200


def test_bias_is_a_smooth_factor() -> None:
    volume = phantom()
    tissue = volume.array[:, 10:].astype(float)
    ratio = simulate(volume, "bias", 1.0).array[:, 10:] / tissue
    assert ratio.max() / ratio.min() > 1.5
    assert np.abs(np.diff(ratio, axis=2)).max() < 0.1


def test_resolution_takes_detail_and_keeps_the_mean() -> None:
    volume = phantom()
    changed = simulate(volume, "resolution", 1.0).array
    assert np.abs(np.diff(changed[:, 15:], axis=2)).max() < 0.6 * np.abs(np.diff(volume.array[:, 15:], axis=2)).max()
    assert changed.mean() == pytest.approx(volume.array.mean(), rel=0.02)


NONSENSE = [("fog", 1.0), ("bias", -0.1), ("noise", float("nan")), ("mixed", float("inf"))]


@pytest.mark.parametrize(("effect", "strength"), NONSENSE)
def test_nonsense_is_refused(effect: str, strength: float) -> None:
    with pytest.raises(BadInput, match="simulated site"):
        simulate(phantom(), effect, strength)


def test_a_simulated_case_keeps_its_labels_and_names_its_site() -> None:
    labels = (phantom().array > 500).astype(np.uint8)
    case = TestCase(Case("p1", phantom(), labels, "A", "labelled"), "mixed", 0.5).load()
    assert (case.name, case.domain, case.slices) == ("p1-mixed-0.5", "mixed 0.5", "labelled")
    np.testing.assert_array_equal(case.labels, labels)
