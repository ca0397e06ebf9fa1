"""What is missing from the labels is said before a training computes any feature."""

from __future__ import annotations

from pathlib import Path

import pytest
from DeSAMSegmentLib.data.cases import Case, CaseStore
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.data.labels import Matcher
from DeSAMSegmentLib.engine.options import TrainOptions
from DeSAMSegmentLib.engine.runtime.session import Session
from DeSAMSegmentLib.engine.train.training_set import TrainingSet, common_spec
from DeSAMSegmentLib.errors import BadLabels
from standin import balls, stand_in_encoder


def survey(cases: list[Case], values: list[int], folder: Path) -> None:
    options = TrainOptions(views=1, styles=0)
    session = Session(cache=FeatureCache(folder / "cache"), encoder=stand_in_encoder())
    spec = common_spec([case.image for case in cases], options)  # type: ignore[misc]
    data = TrainingSet(
        cases,
        CaseStore(Matcher([f"label {value}" for value in values], values), folder / "cases"),
        spec,
        options,
        session,
    )
    try:
        list(data.survey())
    finally:
        assert session.cache.size_bytes() == 0, "no feature is computed"


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
