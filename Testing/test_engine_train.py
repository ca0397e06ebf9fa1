"""Training learns, is reproducible, resumes exactly and survives small and awkward data."""

from __future__ import annotations

import csv
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from desam_cli.remedies import REMEDIES
from DeSAMSegmentLib.data.cases import Case, CaseStore
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.data.labels import Matcher
from DeSAMSegmentLib.engine.events import EpochDone, Finished, Log, Progress
from DeSAMSegmentLib.engine.options import SegmentOptions, TrainOptions
from DeSAMSegmentLib.engine.runtime.loading import DeSAM
from DeSAMSegmentLib.engine.runtime.session import Session
from DeSAMSegmentLib.engine.segment.segment import segment
from DeSAMSegmentLib.engine.train.run_folder import TrainResult
from DeSAMSegmentLib.engine.train.step import Learner
from DeSAMSegmentLib.engine.train.train import train
from DeSAMSegmentLib.engine.train.training_set import TrainingSet, common_spec
from DeSAMSegmentLib.engine.train.validation import ValidationScore
from DeSAMSegmentLib.errors import BadInput
from DeSAMSegmentLib.model.types import Features
from standin import ball_volume, stand_in_encoder


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "cache")


def ball_cases(count: int, **changes) -> list[Case]:
    cases = []
    for seed in range(count):
        volume, labels = ball_volume(seed)
        cases.append(Case(f"ball{seed}", volume, labels, **changes))
    return cases


def session_with(cache: FeatureCache | None = None) -> Session:
    """A session with the stand-in encoder."""
    return Session(cache=cache, encoder=stand_in_encoder())


def run(cases, folder, cache, options, resume=False, stop_after=None) -> tuple[list[EpochDone], TrainResult | None]:
    """Trains with the stand-in encoder; closes the generator after ``stop_after`` epochs."""
    epochs, result = [], None
    events: Any = train(cases, {1: "ball"}, folder, options, session_with(cache), resume=resume)
    for event in events:
        if isinstance(event, EpochDone):
            epochs.append(event)
            if len(epochs) == stop_after:
                events.close()
                break
        if isinstance(event, Finished):
            result = event.result
    return epochs, result


def quick(**changes) -> TrainOptions:
    return TrainOptions(**({"mode": "box", "epochs": 2, "batch_size": 4, "learning_rate": 2e-3, "styles": 0} | changes))


def losses(folder: Path) -> list[tuple[str, ...]]:
    """metrics.csv without the column of seconds, digits as written."""
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        return [tuple(value for key, value in row.items() if key != "seconds") for row in csv.DictReader(file)]


def test_a_ball_is_learnt_and_found_in_a_volume_never_seen(tmp_path, cache) -> None:
    options = quick(epochs=8, learning_rate=5e-3)
    epochs, result = run(ball_cases(3), tmp_path / "run", cache, options)
    assert result is not None
    assert epochs[-1].loss < 0.5 * epochs[0].loss
    volume, ground_truth = ball_volume(99)
    *_, finished = segment(volume, DeSAM.load(result.best), session=session_with())
    found = finished.result.labels == 1
    assert 2 * (found & (ground_truth == 1)).sum() / (found.sum() + ground_truth.sum()) > 0.75


def test_the_same_seed_gives_the_same_losses_and_another_seed_does_not(tmp_path, cache) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run(ball_cases(1), tmp_path / name, cache, quick(mode="grid", seed=seed, epochs=1, validation_fraction=0))
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert losses(tmp_path / "a") != losses(tmp_path / "c")


@pytest.mark.parametrize("mode", ["grid", "box"])
def test_a_resumed_run_continues_bit_for_bit(tmp_path, cache, mode) -> None:
    options = quick(mode=mode, epochs=2, validation_fraction=0.5 if mode == "box" else 0)
    run(ball_cases(2), tmp_path / "whole", cache, options)
    run(ball_cases(2), tmp_path / "broken", cache, options, stop_after=1)
    assert len(losses(tmp_path / "broken")) == 1
    run(ball_cases(2), tmp_path / "broken", cache, options, resume=True)
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    whole, broken = (DeSAM.load(tmp_path / name / "last.desam").tensors() for name in ("whole", "broken"))
    assert all((whole[name] == broken[name]).all() for name in whole)


@pytest.mark.parametrize(("minutes", "epochs"), [(5, 1), (14, 2), (16, 3), (None, 6)])
def test_a_time_limit_counts_the_features_and_holds_whole_epochs(tmp_path, cache, monkeypatch, minutes, epochs) -> None:
    slow_clock(monkeypatch)
    options = quick(minutes=minutes, epochs=6, batch_size=3, validation_fraction=0)
    done, _ = run(ball_cases(1), tmp_path / "run", cache, options)  # 5 slices, two steps to an epoch
    assert len(done) == epochs


def slow_clock(monkeypatch, step: float = 60) -> None:
    """Time passes only while features are computed (ten minutes) and steps are made."""
    clock = [0.0]

    def lasting(seconds, work):
        def slow(*args, **options):
            clock[0] += seconds
            return work(*args, **options)

        return slow

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(TrainingSet, "prepare", lasting(600, TrainingSet.prepare))
    monkeypatch.setattr(Learner, "step", lasting(step, Learner.step))


def test_a_resumed_run_keeps_the_plan_that_fits_the_time_limit(tmp_path, cache, monkeypatch) -> None:
    slow_clock(monkeypatch)
    options = quick(minutes=16, epochs=6, batch_size=3, validation_fraction=0)
    first, _ = run(ball_cases(1), tmp_path / "run", cache, options, stop_after=1)
    assert first[0].epochs == 3
    rest, _ = run(ball_cases(1), tmp_path / "run", cache, options, resume=True)
    assert [epoch.epoch for epoch in rest] == [2, 3]


@pytest.mark.parametrize(("minutes", "epochs"), [(5, 1), (13, 2)])
def test_the_clock_stops_a_run_before_its_first_planned_validation_and_validates_it(
    tmp_path, cache, monkeypatch, minutes, epochs
) -> None:
    slow_clock(monkeypatch)
    monkeypatch.setattr("DeSAMSegmentLib.engine.train.train.validation_interval", lambda *_: 5)
    said = []
    options = quick(minutes=minutes, epochs=20, batch_size=3, validation_fraction=0.5)
    done = []
    for event in train(ball_cases(1), {1: "ball"}, tmp_path / "run", options, session_with(cache)):
        if isinstance(event, EpochDone):
            done.append(event)
        if isinstance(event, Log):
            said.append(event.text)
    assert len(done) == epochs
    assert done[-1].validation_dice is not None
    assert (tmp_path / "run" / "best.desam").is_file()
    assert any(f"minutes hold {epochs} epoch" in text for text in said)


def test_a_record_that_a_kill_left_short_is_whole_after_the_run_is_resumed(tmp_path, cache) -> None:
    options = quick(epochs=2, validation_fraction=0)
    run(ball_cases(1), tmp_path / "run", cache, options)
    table = tmp_path / "run" / "metrics.csv"
    whole = table.read_text()
    table.write_text("\n".join(whole.splitlines()[:-1]) + "\n")
    run(ball_cases(1), tmp_path / "run", cache, options, resume=True)
    assert table.read_text() == whole


def test_an_early_stop_is_explained(tmp_path, cache, monkeypatch) -> None:
    scores = iter([0.9, 0.5, 0.4, 0.3, 0.2])

    def falling(*_):
        yield ValidationScore(next(scores), {"ball0": {1: 0.9}})

    monkeypatch.setattr("DeSAMSegmentLib.engine.train.train.validate", falling)
    monkeypatch.setattr("DeSAMSegmentLib.engine.train.train.validation_interval", lambda *_: 2)
    options = quick(epochs=20, patience=2, validation_fraction=0.5)
    events = list(train(ball_cases(1), {1: "ball"}, tmp_path / "run", options, session_with(cache)))
    done = [event.epoch for event in events if isinstance(event, EpochDone)]
    assert done[-1] == 6, "the best validation, of epoch 2, is followed by two more"
    (said,) = [event.text for event in events if isinstance(event, Log)]
    assert said.startswith("Stopped after epoch 6 of 20: no validation was better than that of epoch 2.")


def test_what_is_logged_during_and_after_validation_is_handed_out(tmp_path, cache, monkeypatch) -> None:
    original = Session.predict
    refused: list[Any] = []

    def moved(self, *arguments):
        if not refused:
            refused.append(True)
            self.log("Out of memory (test).")
        return original(self, *arguments)

    monkeypatch.setattr(Session, "predict", moved)
    session, said = session_with(cache), []
    for event in train(ball_cases(2), {1: "ball"}, tmp_path / "run", quick(), session):
        if isinstance(event, EpochDone) and event.epoch == 1:
            session.log("Later.")
        if isinstance(event, Log):
            said.append(event.text)
    assert said == ["Out of memory (test).", "Later."]


def test_a_model_that_validation_took_to_the_cpu_comes_back(tmp_path, cache, monkeypatch) -> None:
    """On a GPU the optimizer's state stays there; here every move is only written down."""
    moves, original = [], DeSAM.to

    def noted(self, device):
        moves.append(str(device))
        return original(self, device)

    monkeypatch.setattr(DeSAM, "to", noted)
    monkeypatch.setattr("DeSAMSegmentLib.engine.train.train.validate", lambda held_out, model, *_: away(model))

    def away(model):
        model.to("cpu")
        moves.append("validated")
        yield ValidationScore(0.5, {"ball0": {1: 0.5}})

    run(ball_cases(1), tmp_path / "run", cache, quick(epochs=1))
    assert moves[moves.index("validated") + 1] == "cpu"


def test_a_stopped_run_keeps_the_best_model_so_far(tmp_path, cache) -> None:
    events: Any = train(ball_cases(2), {1: "ball"}, tmp_path / "run", quick(epochs=5), session_with(cache))
    for event in events:
        if isinstance(event, Progress) and event.text.startswith("Epoch 2"):
            events.close()
            break
    assert DeSAM.load(tmp_path / "run" / "best.desam").card.training["epochs"] == 1


def test_a_single_batch_a_single_slice_and_a_background_batch_are_trained(tmp_path, cache) -> None:
    volume, labels = ball_volume(0)
    only_one = np.zeros_like(labels)
    only_one[2] = labels[2]
    case = Case("one", volume, only_one, slices="labelled")
    epochs, _ = run([case], tmp_path / "one", cache, quick(mode="grid", slices="labelled"))
    assert all(np.isfinite(epoch.loss) for epoch in epochs)
    options = quick(mode="grid", empty_fraction=0.7, batch_size=1, epochs=1)
    epochs, _ = run([Case("most empty", volume, only_one)], tmp_path / "two", cache, options)
    assert np.isfinite(epochs[0].loss)


def slices_read(case: Case, folder: Path, cache: FeatureCache) -> int:
    """How many slices of a case a training on labelled slices computes features of."""
    options = quick(epochs=1, slices="labelled", validation_fraction=0)
    events = train([case], {1: "ball"}, folder, options, session_with(cache))
    features = [event for event in events if isinstance(event, Progress) and event.text.startswith("Features")]
    return features[-1].total


def test_labelled_slices_only_means_no_other_slice_is_read(tmp_path, cache) -> None:
    volume, labels = ball_volume(0)
    drawn = np.zeros_like(labels)
    drawn[[1, 3]] = labels[[1, 3]]
    assert slices_read(Case("partial", volume, drawn), tmp_path / "run", cache) == 2


def test_the_last_labelled_slice_is_trained_on(tmp_path, cache) -> None:
    """The published preparation drops it (docs/how-it-differs.md)."""
    volume, labels = ball_volume(0)
    drawn = np.zeros_like(labels)
    drawn[2:] = labels[2][None]
    assert slices_read(Case("to the end", volume, drawn), tmp_path / "run", cache) == len(labels) - 2


def test_an_epoch_visits_every_labelled_slice_and_its_share_of_background_slices(tmp_path, cache) -> None:
    cases = ball_cases(2)
    options = quick(empty_fraction=0.25)
    spec = common_spec([case.image for case in cases], options)  # type: ignore[misc]
    data = TrainingSet(
        cases, CaseStore(Matcher(["organ"], [1]), tmp_path / "cases"), spec, options, session_with(cache)
    )
    list(data.prepare())
    order = [number for batch in data.epoch(1) for number, _ in batch]
    full = [number for number in order if not data.examples[number].empty]
    assert sorted(full) == [i for i, example in enumerate(data.examples) if not example.empty]
    assert len(order) - len(full) == round(len(full) / 3)
    assert data.epoch(1) == data.epoch(1) != data.epoch(2)


def test_running_out_of_memory_halves_the_batch_and_learns_the_same(tmp_path, cache, monkeypatch) -> None:
    original = DeSAM.train_decode
    refused = []

    def short_of_memory(self, features: Features, *arguments):
        if features.batch > 2:
            refused.append(features.batch)
            raise RuntimeError("CUDA out of memory (test)")
        return original(self, features, *arguments)

    options = quick(epochs=1, validation_fraction=0, profile="paper", empty_fraction=0.0)
    run(ball_cases(2), tmp_path / "plenty", cache, options)
    monkeypatch.setattr(DeSAM, "train_decode", short_of_memory)
    run(ball_cases(2), tmp_path / "short", cache, options)
    assert refused == [4], "once refused, the smaller batch is kept"
    plenty, short = (float(losses(tmp_path / name)[0][1]) for name in ("plenty", "short"))
    assert short == pytest.approx(plenty, rel=1e-3)


def test_a_resumed_run_does_not_need_its_base(tmp_path, cache) -> None:
    _, first = run(ball_cases(1), tmp_path / "first", cache, quick(epochs=1, validation_fraction=0))
    assert first is not None
    base = Path(shutil.copy(first.best, tmp_path / "base.desam"))
    options = quick(epochs=2, base=str(base), validation_fraction=0)
    run(ball_cases(1), tmp_path / "whole", cache, options)
    run(ball_cases(1), tmp_path / "broken", cache, options, stop_after=1)
    base.unlink()
    run(ball_cases(1), tmp_path / "broken", cache, options, resume=True)
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")


def test_the_numbers_are_written_with_one_line_end_on_every_system(tmp_path, cache) -> None:
    run(ball_cases(1), tmp_path / "run", cache, quick(epochs=1, validation_fraction=0))
    assert b"\r" not in (tmp_path / "run" / "metrics.csv").read_bytes()


def test_a_run_is_never_overwritten_and_never_resumed_with_other_options(tmp_path, cache) -> None:
    run(ball_cases(2), tmp_path / "run", cache, quick(epochs=1))
    with pytest.raises(BadInput, match="already holds a training run") as refused:
        run(ball_cases(2), tmp_path / "run", cache, quick(epochs=1))
    assert "--resume" in refused.value.in_words(REMEDIES)
    with pytest.raises(BadInput, match="options"):
        run(ball_cases(2), tmp_path / "run", cache, quick(epochs=2, seed=5), resume=True)


def test_two_labels_are_trained_and_segmented_in_one_run(tmp_path, cache) -> None:
    cases = []
    for seed in range(2):
        volume, labels = ball_volume(seed)
        labels = labels.copy()
        labels[(labels == 1) & (np.arange(labels.shape[2]) > 20)] = 2
        cases.append(Case(f"half{seed}", volume, labels))
    options = quick(epochs=8, learning_rate=5e-3, validation_fraction=0)
    *_, finished = train(cases, {1: "left", 2: "right"}, tmp_path / "run", options, session_with(cache))
    model = DeSAM.load(finished.result.best)
    *_, finished = segment(cases[0].image, model, SegmentOptions(), session_with())
    for value in (1, 2):
        found, target = finished.result.labels == value, cases[0].labels == value
        assert 2 * (found & target).sum() / (found.sum() + target.sum()) > 0.5


def test_label_values_above_255_are_learnt_and_found(tmp_path, cache) -> None:
    volume, labels = ball_volume(0)
    case = Case("a", volume, labels.astype(np.uint16) * 1001)
    *_, trained = train([case], {1001: "ball"}, tmp_path / "run", quick(epochs=12), session_with(cache))
    *_, segmented = segment(volume, trained.result.best, SegmentOptions(), session_with(cache))
    assert segmented.result.labels.dtype == np.uint16
    assert set(np.unique(segmented.result.labels)) == {0, 1001}
