"""What is missing from the labels is said before a training computes any feature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from DeSAMSegmentLib.data.cases import Case, CaseStore
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.data.labels import Matcher
from DeSAMSegmentLib.engine.events import Log
from DeSAMSegmentLib.engine.options import TrainOptions
from DeSAMSegmentLib.engine.runtime.session import Session
from DeSAMSegmentLib.engine.train.training_set import TrainingSet, common_spec
from DeSAMSegmentLib.errors import BadInput, BadLabels
from standin import ball_volume, balls, stand_in_encoder


def survey(cases: list[Case], values: list[int], folder: Path, **changes: Any) -> tuple[TrainingSet, list[str]]:
    """What was surveyed, and what was said."""
    options = TrainOptions(**({"views": 1, "styles": 0} | changes))
    session = Session(cache=FeatureCache(folder / "cache"), encoder=stand_in_encoder())
    spec = common_spec([case.image for case in cases[:3]], options)  # type: ignore[misc]
    data = TrainingSet(
        cases,
        CaseStore(Matcher([f"label {value}" for value in values], values), folder / "cases"),
        spec,
        options,
        session,
    )
    try:
        events = list(data.survey())
    finally:
        assert session.cache.size_bytes() == 0, "no feature is computed"
    return data, [event.text for event in events if isinstance(event, Log)]


def test_a_label_that_nobody_drew_is_reported_with_those_that_are_there(tmp_path) -> None:
    cases = balls("abc").cases
    survey(cases, [1], tmp_path)
    with pytest.raises(BadLabels) as error:
        survey(cases, [1, 2], tmp_path)
    assert "The label label 2 does not occur in the label map of any of the 3 training cases" in str(error.value)
    assert "Labels that do occur: label 1." in str(error.value)
    with pytest.raises(BadLabels, match=f"label map of {cases[0].name}"):
        survey(cases[:1], [7], tmp_path)


def test_a_label_that_is_drawn_in_one_case_only_is_enough(tmp_path) -> None:
    cases = balls("ab").cases
    rare = cases[1].labels * 2
    rare[:, :, ::2] //= 2
    survey([cases[0], Case("rare", cases[1].image, rare)], [1, 2], tmp_path)


@pytest.mark.parametrize("slices", ["all", "labelled"])
@pytest.mark.parametrize("parts", [1, 2])
def test_the_largest_component_is_recommended_where_the_label_is_one_part(tmp_path, parts: int, slices: str) -> None:
    """Ground truth decides, so that it is known for a single volume, too, and for one of which a few are drawn."""
    volume, labels = ball_volume(shape=(9, 48, 40))
    if slices == "labelled":
        labels[1::2] = 0
    labels[:, :6, :6] = np.where(labels.any((1, 2), keepdims=True), parts - 1, 0)
    data, _ = survey([Case("one", volume, labels, slices=slices)], [1], tmp_path)
    assert data.connected == (parts == 1)


def test_background_slices_have_their_share_of_an_epoch_where_there_are_few(tmp_path) -> None:
    volume, labels = ball_volume(shape=(5, 48, 40))
    data, _ = survey([Case("one", volume, labels)], [1], tmp_path, empty_fraction=0.5)
    empty = [data.empty[number] for batch in data.epoch(1) for number, _ in batch]
    assert 0 < sum(data.empty) < len(data.empty) / 2
    assert empty.count(True) == empty.count(False) == data.empty.count(False)


def test_volumes_that_lie_otherwise_are_trained_as_acquired_or_in_the_plane_that_was_chosen(tmp_path) -> None:
    """The second is stored as it was acquired, sagittally: "axial" of the first would cut it into strips."""
    thin = ball_volume(shape=(30, 48, 40), ijk_to_ras=np.diag([1.0, 1.0, 1.0, 1.0]))
    affine = np.zeros((4, 4))
    affine[0, 2], affine[1, 0], affine[2, 1], affine[3, 3] = 6.0, 1.0, 1.0, 1.0
    thick = ball_volume(1, (7, 48, 40), affine)
    cases = [Case(name, *pair) for name, pair in (("thin", thin), ("thick", thick))]
    data, _ = survey(cases, [1], tmp_path / "auto")
    assert data.spec.axis == "acquired"
    assert {owner: sum(number == owner for number, _ in data.slices) for owner in (0, 1)} == {0: 30, 1: 7}
    data, said = survey(cases, [1], tmp_path / "axial", slice_axis="axial")
    assert len(said) == 1
    assert "it was not acquired in that plane" in said[0]
    with pytest.raises(BadInput, match="Axial slices of ball1 have"):
        survey([cases[0], cases[0], cases[0], cases[1]], [1], tmp_path / "unseen")
