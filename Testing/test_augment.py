"""Views of a training slice are reproducible, keep image and truth together, and never share features."""

from __future__ import annotations

import numpy as np
import pytest
from DeSAMSegmentLib.data import augment
from DeSAMSegmentLib.data.cases import Case
from DeSAMSegmentLib.data.features import FeatureCache
from DeSAMSegmentLib.engine.options import TrainOptions
from DeSAMSegmentLib.engine.training_set import TrainingSet, common_spec
from hypothesis import given, settings
from hypothesis import strategies as st
from standin import ball_volume, stand_in_encoder


def organ() -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[:128, :128]
    truth = (((rows - 60) / 20) ** 2 + ((columns - 70) / 26) ** 2 < 1).astype(np.uint8) * 3
    return np.where(truth, 180, 40).astype(np.uint8), truth


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_truth_moves_with_the_image_and_holds_no_new_value(seed: int) -> None:
    image, truth = organ()
    moved, labels = augment.view(image, truth, (seed,))
    assert set(np.unique(labels)) <= {0, 3}
    assert (labels == 3).sum() > 300
    inside, outside = moved[labels == 3].mean(), moved[labels == 0].mean()
    assert inside > outside + 30, "the bright organ is where its label is"


def test_the_truth_is_moved_by_the_very_same_pose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "_expose", lambda image, rng: image)
    _, truth = organ()
    for seed in range(30):
        moved, labels = augment.view(truth * 50, truth, (seed,))
        assert ((moved > 75) != (labels == 3)).mean() < 0.005, "but for roundings along the edge"


def test_the_same_seed_gives_the_same_view_and_another_does_not() -> None:
    image, truth = organ()
    first, again, other = (augment.view(image, truth, seed)[0] for seed in ((1, 2), (1, 2), (1, 3)))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_each_view_of_a_slice_has_features_and_truth_of_its_own(tmp_path) -> None:
    volume, labels = ball_volume()
    options = TrainOptions(views=3, styles=0)
    cache = FeatureCache(tmp_path)
    data = TrainingSet([Case("ball", volume, labels)], [1], common_spec([volume], options), options,
                       stand_in_encoder(), cache)  # fmt: skip
    list(data.prepare())
    keys = [key for example in data.examples for key in example.keys]
    assert len(keys) == len(set(keys)) == 3 * len(labels)
    assert all(cache.get(key) is not None for key in keys)
    drawn = {view for epoch in range(1, 5) for batch in data.epoch(epoch) for _, view in batch}
    assert drawn == {0, 1, 2}
    example = next(example for example in data.examples if not example.empty)
    assert (example.truths[0] != example.truths[1]).any()
