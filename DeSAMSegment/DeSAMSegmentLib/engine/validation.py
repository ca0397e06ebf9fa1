"""How good an epoch is: 3-D Dice of the chosen inference mode on cases (or slices) held out from training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..data.cases import Case, labelled_slices, load_labelled, split
from ..data.features import FeatureCache
from ..data.slices import Slices, SliceSpec
from ..data.volume import Volume
from .events import Event, Finished, Log, Progress
from .loading import DeSAM, Encoder
from .options import SegmentOptions, TrainOptions
from .postprocess import largest_component
from .segment import Segmentation, SegmentResult
from .training_set import restricted

FEWEST_CASES = 4  # with fewer, slices are held out instead of patients


@dataclass(frozen=True)
class HeldOut:
    """A volume to validate on; ``positions`` restricts it to some slices (None = the whole volume)."""

    name: str
    volume: Volume
    labels: np.ndarray
    positions: frozenset[int] | None
    slices: int  # how many are segmented


@dataclass(frozen=True)
class Score:
    """Mean Dice over cases and labels, and whether keeping only the largest 3-D component made it better."""

    dice: float
    largest_component: bool
    per_case: dict[str, dict[int, float]]

    @property
    def values(self) -> list[float]:
        """Dice of every case and label, in a fixed order; a label that is rightly absent counts as found."""
        return [1.0 if np.isnan(dice) else dice for case in self.per_case.values() for dice in case.values()]


def not_worse(values: Sequence[float], top: Sequence[float]) -> bool:
    """Whether an epoch can replace the one with the highest mean Dice so far.

    Two or three validation cases cannot tell a Dice of 0.88 from one of 0.87, and an early epoch that was lucky on
    them would be kept over a better trained one. So a later epoch is taken unless it is worse by more than the
    standard error of its difference to the top (Breiman's one-standard-error rule, here over epochs).

    Arguments:
      values, top: Dice of the same cases and labels, this epoch's and the top's.
    """
    difference = np.asarray(values, float) - np.asarray(top, float)
    error = difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else 0.0
    return bool(difference.mean() >= -error)


def hold_out(
    cases: Sequence[Case], values: Sequence[int], spec: SliceSpec, options: TrainOptions
) -> tuple[list[Case], list[HeldOut], dict[str, set[int]]]:
    """Training cases, what to validate on, and the slices of training cases that are held out.

    With enough cases whole patients are held out (9:1, paper section 4.1). Of one, two or three cases none can be
    spared: each gives every fifth labelled slice, and none if it has fewer than three. Such a score is optimistic,
    and only used to choose the epoch.
    """
    if options.validation_fraction == 0:
        return list(cases), [], {}
    training, validation = split(cases, options.validation_fraction, options.seed, options.patient_pattern)
    if validation and len(cases) >= FEWEST_CASES:
        return training, [_whole(case, values, spec, options) for case in validation], {}
    held_out, excluded = [], {}
    for case in cases:
        volume, labels = _read(case, values)
        drawn = labelled_slices(labels, Slices(volume, spec).axis)
        positions = frozenset(drawn[2::5].tolist())
        if positions:
            held_out.append(HeldOut(case.name, volume, labels, positions, len(positions)))
            excluded[case.name] = set(positions)
    return list(cases), held_out, excluded


def _read(case: Case, values: Sequence[int]) -> tuple[Volume, np.ndarray]:
    volume, labels = load_labelled(case)
    return volume, restricted(labels, values)


def _whole(case: Case, values: Sequence[int], spec: SliceSpec, options: TrainOptions) -> HeldOut:
    volume, labels = _read(case, values)
    slices = Slices(volume, spec)
    if case.slices == "labelled" or options.slices == "labelled":
        drawn = frozenset(labelled_slices(labels, slices.axis).tolist())
        return HeldOut(case.name, volume, labels, drawn, len(drawn))
    return HeldOut(case.name, volume, labels, None, len(slices))


def validate(
    held_out: Sequence[HeldOut],
    model: DeSAM,
    options: SegmentOptions,
    encoder: Encoder,
    cache: FeatureCache,
    text: str = "Validating",
) -> Iterator[Event | Score]:
    """Segments what is held out exactly as a user would; yields Progress and what was worth a Log, then the Score."""
    plain: dict[str, dict[int, float]] = {}
    cleaned: dict[str, dict[int, float]] = {}
    values = [label.value for label in model.card.labels]
    for done, case in enumerate(held_out, 1):
        result = None
        run = Segmentation(case.volume, model, options, encoder, only=case.positions)
        for event in run.events(cache):
            if isinstance(event, Finished):
                result = event.result
            elif isinstance(event, Log):
                yield event
        assert isinstance(result, SegmentResult)
        truth = _at(case.labels, result.axis, case.positions)
        labels = _at(result.labels, result.axis, case.positions)
        plain[case.name] = {value: dice(labels == value, truth == value) for value in values}
        largest = largest_component(labels, tuple(values)) if case.positions is None else labels
        cleaned[case.name] = {value: dice(largest == value, truth == value) for value in values}
        yield Progress(text, done, len(held_out))
    better = _mean(cleaned) > _mean(plain)
    yield Score(max(_mean(cleaned), _mean(plain)), better, cleaned if better else plain)


def _at(labels: np.ndarray, axis: int, positions: frozenset[int] | None) -> np.ndarray:
    return labels if positions is None else np.take(labels, sorted(positions), axis)


def _mean(scores: dict[str, dict[int, float]]) -> float:
    values = [value for case in scores.values() for value in case.values() if not np.isnan(value)]
    return float(np.mean(values)) if values else 0.0


def dice(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Dice of two masks of any shape; NaN when both are empty (nothing was there and nothing was found)."""
    total = int(predicted.sum()) + int(truth.sum())
    return 2 * int((predicted & truth).sum()) / total if total else float("nan")
