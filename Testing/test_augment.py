"""Geometric augmentations of a training slice are reproducible, move image and target together, and never share
features."""

from __future__ import annotations

import numpy as np
import pytest
from DeSAMSegmentLib.data.cases import Case, CaseStore
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.data.labels import Matcher
from DeSAMSegmentLib.engine.options import TrainOptions
from DeSAMSegmentLib.engine.runtime.session import Session
from DeSAMSegmentLib.engine.train import augmentation
from DeSAMSegmentLib.engine.train.training_set import TrainingSet, common_spec
from hypothesis import given, settings
from hypothesis import strategies as st
from standin import ball_volume, stand_in_encoder


def organ() -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[:128, :128]
    target = (((rows - 60) / 20) ** 2 + ((columns - 70) / 26) ** 2 < 1).astype(np.uint8) * 3
    return np.where(target, 180, 40).astype(np.uint8), target


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_target_moves_with_the_image_and_holds_no_new_value(seed: int) -> None:
    image, target = organ()
    moved, labels = augmentation.transform(image, target, (seed,))
    assert set(np.unique(labels)) <= {0, 3}
    assert (labels == 3).sum() > 300
    inside, outside = moved[labels == 3].mean(), moved[labels == 0].mean()
    assert inside > outside + 30, "the bright organ is where its label is"


def test_the_target_is_moved_by_the_very_same_pose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "_expose", lambda image, rng: image)
    _, target = organ()
    for seed in range(30):
        moved, labels = augmentation.transform(target * 50, target, (seed,))
        assert ((moved > 75) != (labels == 3)).mean() < 0.005, "but for roundings along the edge"


def test_the_same_seed_gives_the_same_augmentation_and_another_does_not() -> None:
    image, target = organ()
    first, again, other = (augmentation.transform(image, target, seed)[0] for seed in ((1, 2), (1, 2), (1, 3)))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_each_geometric_augmentation_of_a_slice_has_features_and_a_target_of_its_own(tmp_path) -> None:
    volume, labels = ball_volume()
    options = TrainOptions(views=3, styles=0)
    cache = FeatureCache(tmp_path)
    session = Session(cache=cache, encoder=stand_in_encoder())
    cases, store = [Case("ball", volume, labels)], CaseStore(Matcher(["organ"], [1]), tmp_path / "cases")
    data = TrainingSet(cases, store, common_spec([volume], options), options, session)
    list(data.prepare())
    keys = [key for example in data.examples for key in example.keys]
    assert len(keys) == len(set(keys)) == 3 * len(labels)
    assert all(cache.get(key) is not None for key in keys)
    drawn = {number for epoch in range(1, 5) for batch in data.epoch(epoch) for _, number in batch}
    assert drawn == {0, 1, 2}
    example = next(example for example in data.examples if not example.empty)
    assert (example.targets[0] != example.targets[1]).any()
