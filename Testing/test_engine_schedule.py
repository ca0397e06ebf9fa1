"""How long a training lasts: patience, minutes, validations."""

from __future__ import annotations

import pytest
from DeSAMSegmentLib.engine.options import TrainOptions
from DeSAMSegmentLib.engine.train.run_folder import TrainingState
from DeSAMSegmentLib.engine.train.schedule import Schedule


@pytest.mark.parametrize(
    ("patience", "interval", "stops"),
    [(10, 1, 10), (10, 4, 10), (10, 5, 10), (10, 13, 26), (3, 2, 4)],
)
def test_an_early_stop_waits_for_two_more_validations(patience: int, interval: int, stops: int) -> None:
    schedule = Schedule(TrainOptions(patience=patience), interval)
    best = 3 * interval
    assert not schedule.exhausted(TrainingState(epoch=best + stops - 1, top_epoch=best))
    assert schedule.exhausted(TrainingState(epoch=best + stops, top_epoch=best))


def test_nothing_stops_early_without_patience_or_before_a_validation() -> None:
    assert not Schedule(TrainOptions(patience=None), 1).exhausted(TrainingState(epoch=500, top_epoch=1))
    assert not Schedule(TrainOptions(patience=2), 1).exhausted(TrainingState(epoch=500, top_epoch=0))


def state_at(epoch: int, seconds: float, **more) -> TrainingState:
    return TrainingState(epoch=epoch, epochs=50, seconds=seconds, prepared=100.0, **more)


def test_the_plan_is_made_at_the_first_validation_and_only_once() -> None:
    schedule, state = Schedule(TrainOptions(minutes=10), 2), state_at(1, 120)
    assert schedule.fit_into_minutes(state, late=False) == []
    assert not state.planned
    state.epoch, state.seconds = 2, 140
    (said,) = schedule.fit_into_minutes(state, late=False)
    assert said == "10 minutes hold 25 epochs of 20 s."
    assert (state.epochs, state.planned) == (25, True)
    state.epoch, state.seconds = 4, 300
    assert schedule.fit_into_minutes(state, late=False) == []
    assert state.epochs == 25


def test_a_run_without_a_plan_is_planned_whenever_it_is_resumed() -> None:
    """An older state.pt knows no plan, and its first validation is long over."""
    state = state_at(7, 240)
    Schedule(TrainOptions(minutes=10), 2).fit_into_minutes(state, late=False)
    assert state.epochs == 25


def test_the_clock_ends_what_lasts_longer_than_planned() -> None:
    schedule, state = Schedule(TrainOptions(minutes=10), 2), state_at(9, 620, planned=True)
    assert schedule.late(620)
    (said,) = schedule.fit_into_minutes(state, late=True)
    assert said == "10 minutes are over: stopping after epoch 9 of 50."
    assert state.epochs == 9


def test_a_late_run_is_validated_only_if_it_never_was() -> None:
    schedule = Schedule(TrainOptions(minutes=10), 13)
    assert schedule.validates(3, True, state_at(2, 590))
    assert not schedule.validates(15, True, state_at(14, 590, top_values=[0.5]))
    assert schedule.validates(13, False, state_at(12, 500))
    assert schedule.validates(50, False, state_at(49, 500, top_values=[0.5]))


def test_the_rate_falls_as_published_and_ends_near_zero() -> None:
    schedule = Schedule(TrainOptions(learning_rate=1e-3), 1)
    assert [schedule.rate(step, 100) for step in (0, 50, 99)] == pytest.approx([1e-3, 5.359e-4, 1.585e-5], rel=1e-3)
