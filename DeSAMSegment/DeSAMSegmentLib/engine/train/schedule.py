"""How long a training lasts, how fast it learns meanwhile, and when it is validated."""

from __future__ import annotations

from collections.abc import Sequence

from ..options import TrainOptions
from .run_folder import TrainingState
from .training_set import TrainingSet
from .validation import HeldOut


def validation_interval(held_out: Sequence[HeldOut], data: TrainingSet) -> int:
    """Epochs between two validations: never more than about half as many slices validated as trained on.

    Small training sets have short epochs, which validating whole volumes would dwarf. The last is always validated.
    """
    trained = sum(not example.empty for example in data.examples)
    return max(1, round(2 * sum(case.slices for case in held_out) / max(1, trained)))


class Schedule:
    """Plans of one run.

    Arguments:
      validate_every: epochs between two validations.
    """

    def __init__(self, options: TrainOptions, validate_every: int) -> None:
        self.options, self.validate_every = options, validate_every

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step: polynomial decay (power 0.9 as published)."""
        return self.options.learning_rate * max(0.0, 1 - step / max(1, steps)) ** self.options.schedule_power

    def exhausted(self, state: TrainingState) -> bool:
        """Whether to stop early: epochs enough, and two validations at least, have passed without a better one."""
        if self.options.patience is None or state.top_epoch == 0:
            return False
        return state.epoch - state.top_epoch >= max(self.options.patience, 2 * self.validate_every)

    def late(self, seconds: float) -> bool:
        """Whether the time limit is over."""
        return self.options.minutes is not None and seconds >= self.options.minutes * 60

    def validates(self, number: int, late: bool, state: TrainingState) -> bool:
        """Whether an epoch is validated; a run that is late is not, unless none of its epochs ever was."""
        return number % self.validate_every == 0 or number == state.epochs or (late and not state.top_values)

    def fit_into_minutes(self, state: TrainingState, late: bool) -> list[str]:
        """Keeps to the time limit, and says so: plans once, after the first validation, as many epochs as it holds, so
        that the rate still decays to zero; and stops by the clock should they last longer than planned.
        """
        minutes = self.options.minutes
        said: list[str] = []
        if minutes is None:
            return said
        if not state.planned and (late or state.epoch >= self.validate_every):
            state.planned = True
            each = max(1e-9, (state.seconds - state.prepared) / state.epoch)
            affordable = state.epoch if late else max(state.epoch, int((minutes * 60 - state.prepared) / each))
            plural = "" if affordable == 1 else "s"
            if affordable < state.epochs:
                said.append(f"{minutes:g} minutes hold {affordable} epoch{plural} of {each:.0f} s.")
                state.epochs = affordable
        if late and state.epoch < state.epochs:
            said.append(f"{minutes:g} minutes are over: stopping after epoch {state.epoch} of {state.epochs}.")
            state.epochs = state.epoch
        return said
