"""What cannot be trained is refused before the encoder sees a single slice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from DeSAMSegmentLib.data.cases import Case
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.data.volume import Volume
from DeSAMSegmentLib.engine.options import TrainOptions
from DeSAMSegmentLib.engine.runtime.session import Session
from DeSAMSegmentLib.engine.train.train import train
from DeSAMSegmentLib.errors import BadInput, BadLabels
from standin import ball_volume, stand_in_encoder


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "cache")


def ball_cases(count: int) -> list[Case]:
    return [Case(f"ball{seed}", *ball_volume(seed)) for seed in range(count)]


def quick(**changes) -> TrainOptions:
    return TrainOptions(**({"mode": "box", "epochs": 1, "batch_size": 4, "styles": 0} | changes))


def refused_before_the_work(cases, labels, folder, cache, options, error, text) -> None:
    """Asserts that a training is refused and the encoder saw nothing."""
    encoder = stand_in_encoder()
    encoder.encode = lambda _: pytest.fail("features were computed")  # type: ignore[assignment, method-assign]
    with pytest.raises(error, match=text):
        list(train(cases, labels, folder, options, Session(cache=cache, encoder=encoder)))


def test_a_label_that_no_case_holds_is_refused_before_the_work(tmp_path, cache) -> None:
    labels = {1: "ball", 2: "cube"}
    refused_before_the_work(
        ball_cases(1), labels, tmp_path / "run", cache, quick(), BadLabels, "The label cube does not occur"
    )


def test_a_case_without_labels_is_refused_before_the_work(tmp_path, cache) -> None:
    for cases in ([*ball_cases(1), Case("bare", ball_volume(1)[0])], [Case("bare", ball_volume(1)[0])]):
        for fraction in (0, 0.3):
            options = quick(validation_fraction=fraction)
            refused_before_the_work(cases, {1: "ball"}, tmp_path / "run", cache, options, BadLabels, "no label|occur")


def test_labels_that_vanish_when_slices_shrink_are_refused_before_the_work(tmp_path, cache) -> None:
    array = np.random.default_rng(0).integers(0, 100, (2, 512, 512)).astype(np.int16)
    labels = np.zeros(array.shape, np.uint8)
    labels[0, 2, 3] = 1
    case = Case("dot", Volume(array, np.eye(4)), labels)
    options = quick(slices="labelled")
    refused_before_the_work([case], {1: "dot"}, tmp_path / "run", cache, options, BadLabels, "256 x 256.*[Dd]raw")


def test_a_base_that_does_not_exist_is_refused_before_the_work(tmp_path, cache) -> None:
    options = quick(base="nobody")
    refused_before_the_work(ball_cases(1), {1: "ball"}, tmp_path / "run", cache, options, BadInput, "nobody")


def test_a_second_training_in_the_same_folder_is_refused_while_the_first_runs(tmp_path, cache) -> None:
    folder, labels = tmp_path / "run", {1: "ball"}
    first = train(ball_cases(2), labels, folder, quick(), Session(cache=cache, encoder=stand_in_encoder()))
    next(first)
    refused_before_the_work(
        ball_cases(1), labels, folder, cache, quick(), BadInput, "Another training is running in .*run"
    )
    first.close()  # type: ignore[attr-defined]
    assert list(train(ball_cases(2), labels, folder, quick(), Session(cache=cache, encoder=stand_in_encoder())))
