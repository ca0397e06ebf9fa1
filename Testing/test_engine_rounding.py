"""Features quantised on their own device are what plain numpy makes of them (``quantised.py``), value by value."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from DeSAMSegmentLib.data.feature_cache import CODECS, FeatureCache
from DeSAMSegmentLib.engine.runtime.features import LEVELS, quantise, to_features, to_stored, widened
from DeSAMSegmentLib.model.types import Features
from hypothesis import given, settings
from hypothesis import strategies as st
from quantised import as_stored, dense

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def features(seed: int, size: float = 1.0, channels: int = 5) -> Features:
    rng = torch.Generator().manual_seed(seed)
    levels = [torch.randn(1, channels, 64, 64, generator=rng) * size for _ in LEVELS]
    levels[0][0, 0] = 0  # a dead channel
    return Features(levels, torch.randn(1, 256, 64, 64, generator=rng) * size)


def arrays(given: Features) -> dict[str, np.ndarray]:
    tensors = dict(zip(LEVELS, given.levels, strict=True)) | {"neck": given.neck}
    return {name: tensor[0].float().cpu().numpy() for name, tensor in tensors.items()}


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 99),
    codec=st.sampled_from(CODECS),
    size=st.sampled_from([1e-30, 0.01, 1.0, 300.0, 1e5, float("inf"), float("nan")]),
    channels=st.sampled_from([1, 5]),
    device=st.sampled_from(DEVICES),
)
def test_every_value_is_what_the_cache_would_keep(
    seed: int, codec: str, size: float, channels: int, device: str
) -> None:
    made = features(seed, size, channels)
    ours, theirs = to_stored(quantise(made.to(device), codec)), as_stored(arrays(made), codec)
    for name in (*LEVELS, "neck"):
        assert ours.arrays[name].dtype == theirs.arrays[name].dtype
        np.testing.assert_array_equal(ours.arrays[name], theirs.arrays[name])
        if theirs.scales[name] is None:
            assert ours.scales[name] is None
        else:
            np.testing.assert_array_equal(ours.scales[name], theirs.scales[name])
    back, expected = widened(quantise(made.to(device), codec)), dense(theirs)
    for name, tensor in zip((*LEVELS, "neck"), (*back.levels, back.neck), strict=True):
        np.testing.assert_array_equal(tensor[0].cpu().numpy(), expected[name])


@pytest.mark.parametrize("codec", CODECS)
def test_through_a_file_nothing_more_is_lost(codec: str, tmp_path) -> None:
    made, cache = features(1), FeatureCache(tmp_path, codec=codec)
    cache.put("a", to_stored(quantise(made, codec)))
    stored = cache.get("a")
    assert stored is not None
    read, direct = to_features(stored, torch.device("cpu")), widened(quantise(made, codec))
    assert torch.equal(read.neck, direct.neck)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(read.levels, direct.levels, strict=True))
    assert not torch.equal(direct.neck, made.neck), "quantising is not nothing"
