"""A model learns from a few corrected slices: also that nothing is there, and without forgetting what it knew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from DeSAMSegmentLib.data.cases import Case, CaseStore
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.data.labels import IGNORE, Matcher
from DeSAMSegmentLib.data.slices import SliceSpec
from DeSAMSegmentLib.data.volume import Volume
from DeSAMSegmentLib.engine.events import EpochDone, Finished
from DeSAMSegmentLib.engine.options import TrainOptions
from DeSAMSegmentLib.engine.runtime.loading import DeSAM
from DeSAMSegmentLib.engine.runtime.session import Session, sam_tensors
from DeSAMSegmentLib.engine.segment.segment import segment
from DeSAMSegmentLib.engine.train import training_set
from DeSAMSegmentLib.engine.train.initial_model import architecture_of
from DeSAMSegmentLib.engine.train.run_folder import RunFolder
from DeSAMSegmentLib.engine.train.step import Learner
from DeSAMSegmentLib.engine.train.train import train
from DeSAMSegmentLib.engine.train.training_set import VISITS, TrainingSet
from DeSAMSegmentLib.errors import BadInput
from DeSAMSegmentLib.store.card import ModelCard
from DeSAMSegmentLib.store.terminology import default_label
from standin import ball_volume, stand_in_encoder

CUT = SliceSpec("acquired", "window", (50, 250))
NAMES = {"ball": (1,), IGNORE: (2,)}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short epochs: each slice costs half a second."""
    monkeypatch.setattr(training_set, "VISITS", 1)


def ball(seed: int, known: list[int] | None = None) -> Case:
    """A ball of which the slices ``known`` are labelled and the others ignored; None = a case fully labelled."""
    volume, labels = ball_volume(seed)
    if known is not None:
        labels = np.where(np.isin(np.arange(len(labels)), known)[:, None, None], labels, 2).astype(np.uint8)
    return Case(f"ball{seed}", volume, labels, names=NAMES)


def session(folder: Path) -> Session:
    return Session(cache=FeatureCache(folder / "cache"), encoder=stand_in_encoder())


def run(cases: list[Case], folder: Path, options: TrainOptions, stop_after: int = 0, **how: Any) -> Path:
    events: Any = train(cases, {1: "ball"}, folder, options, session(folder.parent), **how)
    for event in events:
        if isinstance(event, EpochDone) and event.epoch == stop_after:
            events.close()
    return folder / "best.desam"


def corrections(base: Path, **changes: Any) -> TrainOptions:
    return TrainOptions.corrections(**({"mode": "box", "epochs": 2, "base": str(base), "name": "ball (v2)"} | changes))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained: it finds blobs where nothing is."""
    torch.manual_seed(1)
    config = architecture_of(TrainOptions(), 1)
    model = DeSAM.from_sam(config, sam_tensors(config.backbone))
    card = ModelCard(
        "ball", (default_label(1, "ball"),), config.backbone, architecture=config.to_dict(),
        slices=CUT.to_dict(), inference={"mode": "box", "points": 5, "largest_component": False},
    )  # fmt: skip
    path = tmp_path_factory.mktemp("base") / "ball.desam"
    model.save(path, card)
    return path


def found(model: Path, case: Case) -> np.ndarray:
    assert isinstance(case.image, Volume)
    *_, finished = segment(case.image, DeSAM.load(model), session=Session(encoder=stand_in_encoder()))
    assert isinstance(finished, Finished)
    return np.asarray(finished.result.labels) == 1


def same(model: Path, other: Path) -> bool:
    one, two = DeSAM.load(model).tensors(), DeSAM.load(other).tensors()
    return all(bool((one[name] == two[name]).all()) for name in one)


def surveyed(cases: list[Case], options: TrainOptions, folder: Path, replayed: list[Case]) -> TrainingSet:
    store = CaseStore(Matcher(["ball"], [1]), folder / "cases")
    data = TrainingSet(cases, store, SliceSpec(), options, session(folder), replayed=replayed)
    assert list(data.survey())
    return data


def test_a_slice_that_nobody_labelled_is_not_learnt_as_background(tmp_path: Path) -> None:
    data = surveyed([ball(1, [0, 2])], TrainOptions(), tmp_path, [])
    assert data.slices == [(0, 0), (0, 2)]
    assert data.empty == [True, False]


def test_every_correction_is_visited_alike_and_replay_has_its_share(tmp_path: Path) -> None:
    options = corrections(tmp_path / "base", replay_share=0.25)
    data = surveyed([ball(1, [0, 2, 3])], options, tmp_path, [ball(2)])
    visits = [number for batch in data.epoch(1) for number, _ in batch]
    own = [visits.count(number) for number in range(3)]
    assert sum(own) == VISITS
    assert max(own) - min(own) <= 1
    assert len(visits) - VISITS == round(VISITS / 3)


def test_nothing_here_teaches_that_nothing_is_there(tmp_path: Path, base: Path, few: None) -> None:
    case = ball(3)
    before = found(base, case)[1:4]
    assert before.any()
    labels = np.where(np.arange(5)[:, None, None] % 2, 0, np.full_like(case.labels, 2))
    options = corrections(base, learning_rate=5e-3)
    best = run([replace(case, labels=labels)], tmp_path / "run", options)
    assert found(best, case)[1:4].sum() < 0.2 * before.sum()


def test_the_penalty_pulls_what_is_trained_back_to_the_base_unless_data_are_replayed(base: Path) -> None:
    options = corrections(base, near_base=0.25)
    learner = Learner(DeSAM.load(base), options, Session(encoder=stand_in_encoder()), stay=True)
    for parameter in learner.parameters:
        parameter.grad = torch.ones_like(parameter)
        parameter.data += 2
    learner._pull_back()
    for parameter in learner.parameters:
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, torch.full_like(parameter, 1 + 0.25 * 2))
    assert not Learner(DeSAM.load(base), options, Session(encoder=stand_in_encoder())).start


def test_a_resumed_run_is_held_near_the_base_and_not_near_its_own_last_epoch(
    tmp_path: Path, base: Path, few: None
) -> None:
    options = corrections(base, near_base=5.0)
    whole = run([ball(3, [1])], tmp_path / "whole", options)
    run([ball(3, [1])], tmp_path / "broken", options, stop_after=1)
    assert same(whole, run([ball(3, [1])], tmp_path / "broken", options, resume=True))


def test_the_new_version_names_its_base_and_is_used_as_its_base_was(tmp_path: Path, base: Path, few: None) -> None:
    made = DeSAM.load(run([ball(3, [1])], tmp_path / "run", corrections(base, epochs=1))).card
    assert made.training["base"] == "ball"
    assert made.training["options"]["base"] == "ball"  # the maker's folders are nobody's business
    assert (made.inference["points"], made.inference["largest_component"]) == (5, False)
    assert SliceSpec.from_dict(made.slices) == CUT


def test_a_run_with_replay_is_not_resumed_without_it(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin({"options": {}, "replay": ["ball4"]}, resume=False)
    folder.state.touch()
    folder.begin({"options": {}, "replay": ["ball4"]}, resume=True)
    with pytest.raises(BadInput, match="other replay"):
        folder.begin({"options": {}, "replay": []}, resume=True)


def test_corrections_without_a_base_are_refused() -> None:
    assert "base model" in TrainOptions.corrections().is_valid()[1]


# A new site without labels


def adapted(folder: Path, base: Path, monkeypatch: pytest.MonkeyPatch, said: float, **changes: Any) -> list[Any]:
    """The events of an adaptation to two unlabelled balls, on whose masks the model is as sure as ``said``."""
    monkeypatch.setattr("DeSAMSegmentLib.model.prediction.mean_probability", lambda logits: said)
    monkeypatch.setattr("DeSAMSegmentLib.engine.train.pseudo_labels.FEWEST", 3)
    cases = [replace(ball(seed), labels=None, names={}) for seed in (3, 4)]
    options = TrainOptions.adaptation(DeSAM.load(base).card, base=str(base), **({"epochs": 1} | changes))
    events = train(cases, {1: "ball"}, folder, options, session(folder.parent))
    return list(events)


def test_confident_slices_of_unlabelled_volumes_teach_a_new_version(
    tmp_path: Path, base: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = base.read_bytes()
    events = adapted(tmp_path / "run", base, monkeypatch, said=0.99)
    assert isinstance(events[-1], Finished)
    told = events[-1].summary
    assert told["slices"] == 10
    assert 3 <= told["confident_slices"] <= 10
    assert told["confidence"] == pytest.approx(told["confidence_after"]), "the same certainty before and after"
    assert any("not calibrated" in getattr(event, "text", "") for event in events)
    assert base.read_bytes() == before, "the model itself stays as it is"
    assert not same(base, tmp_path / "run" / "best.desam")
    assert DeSAM.load(tmp_path / "run" / "best.desam").card.name == "ball adapted"


def test_a_model_that_is_sure_of_nothing_is_not_taught_its_own_mistakes(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInput, match="sure of 0 of 10 slices"):
        adapted(tmp_path / "run", base, monkeypatch, said=0.7)
    assert not list(tmp_path.rglob("*.desam"))


def test_only_confident_slices_are_ground_truth_and_the_others_are_ignored() -> None:
    from DeSAMSegmentLib.engine.segment.segment import SegmentResult
    from DeSAMSegmentLib.engine.train.pseudo_labels import pseudo_labelled

    labels = np.zeros((9, 4, 4), np.uint8)
    labels[:8, 1:3, 1:3] = 1
    confidence = dict.fromkeys(range(9), 0.9) | {7: 0.5}
    card = ModelCard("ball", (default_label(1, "ball"),), "lite_medsam")
    result = SegmentResult(labels, 0, confidence, {}, {}, card)
    with pytest.raises(BadInput, match="7 of 9"):
        pseudo_labelled([(ball(1), result)])
    labels[8, 1, 1] = 1
    ((case,), taught) = pseudo_labelled([(ball(1), result)])
    assert taught == 8
    assert case.names == {"ball": (1,), IGNORE: (2,)}
    assert isinstance(case.labels, np.ndarray)
    assert (case.labels[7] == 2).all()
    assert (case.labels[:7] == labels[:7]).all()


def test_a_volume_that_cannot_be_read_is_left_out_of_an_adaptation(tmp_path: Path, base: Path) -> None:
    from DeSAMSegmentLib.engine.train.pseudo_labels import segmented

    (tmp_path / "broken.nii.gz").write_text("no image")
    broken, own = Case("broken", tmp_path / "broken.nii.gz"), session(tmp_path)
    own.begin("lite_medsam")
    told = []

    def run_all() -> Any:
        told.extend((yield from segmented([broken, ball(1)], DeSAM.load(base), own)))

    said = [getattr(event, "text", "") for event in run_all()]
    assert [case.name for case, _ in told] == ["ball1"]
    assert any("broken is left out: broken.nii.gz is not a gzip file" in text for text in said)
    with pytest.raises(BadInput, match="not a gzip file"):
        list(segmented([broken], DeSAM.load(base), own))
