"""The parity fixtures in the repository: a sample of the published code's figures, small, and true to the full ones."""

from __future__ import annotations

import formula
import numpy as np
import pytest

FILES = sorted(path.name for path in formula.SAMPLED.iterdir() if path.suffix in (".npz", ".json"))


def test_a_clone_of_the_repository_has_every_fixture() -> None:
    decoders = [f"decoder_dim{width}_salt0.npz" for width in (768, 1280)]
    shapes = [f"state_dict_{of}.json" for of in ("dim768", "dim1280", "vit_b_encoder")]
    assert set(FILES) == {*decoders, *shapes, "encoder_vit_b_salt0.npz", "lite_medsam_features.npz"}


def test_the_fixtures_are_small() -> None:
    assert sum((formula.SAMPLED / name).stat().st_size for name in FILES) < 400_000


def test_thousands_of_logits_of_every_phase_of_the_upsampling_are_kept() -> None:
    for width in (768, 1280):
        with np.load(formula.SAMPLED / f"decoder_dim{width}_salt0.npz") as arrays:
            assert arrays["points_logits"].size > 5000
            *_, rows, columns = arrays["points_logits.steps"]
            assert {rows % 2, columns % 2} == {1}


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".npz")])
def test_the_sample_is_of_the_full_fixture(name: str) -> None:
    if not (formula.FULL / name).exists():
        pytest.skip("only the sample is at hand")
    with np.load(formula.SAMPLED / name) as sample, np.load(formula.FULL / name) as full:
        assert {key for key in sample if "." not in key} == set(full)
        for key in full:
            picked = full[key][tuple(slice(None, None, step) for step in sample[f"{key}.steps"])]
            np.testing.assert_array_equal(sample[key], picked)
            assert tuple(sample[f"{key}.shape"] if f"{key}.shape" in sample else sample[key].shape) == full[key].shape


def test_the_published_names_and_shapes_are_whole() -> None:
    for name in (name for name in FILES if name.endswith(".json")):
        if (formula.FULL / name).exists():
            assert (formula.SAMPLED / name).read_bytes() == (formula.FULL / name).read_bytes()


def test_a_figure_that_is_off_anywhere_in_the_sample_is_noticed() -> None:
    import torch

    published = formula.Published(formula.SAMPLED / "encoder_vit_b_salt0.npz")
    with np.load(formula.SAMPLED / "encoder_vit_b_salt0.npz") as arrays:
        ours = torch.zeros(tuple(arrays["neck.shape"]))
        steps = tuple(slice(None, None, step) for step in arrays["neck.steps"])
        ours[steps] = torch.from_numpy(arrays["neck"])
    assert published.difference("neck", ours) == 0
    ours[0, -1, 0, 15] += 1
    assert published.difference("neck", ours) == pytest.approx(1)
    with pytest.raises(AssertionError):
        published.difference("neck", ours[:, :, :15])
    with pytest.raises(AssertionError, match="sample"):
        published["neck"]
