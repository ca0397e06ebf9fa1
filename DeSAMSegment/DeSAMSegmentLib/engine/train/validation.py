"""How good an epoch is: 3-D Dice of the chosen inference mode on cases (or slices) held out from training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ...data.cases import Case, CaseStore, labelled_slices, split
from ...data.labels import has, ignored
from ...data.slices import Slices, SliceSpec
from ...data.volume import Volume
from ..events import Event, Finished, Log, Progress
from ..options import SegmentOptions, TrainOptions
from ..runtime.features import FeatureStream
from ..runtime.loading import DeSAM
from ..runtime.session import Session
from ..segment.confidence import Calibration
from ..segment.segment import Segmentation, SegmentResult
from .team import Team

FEWEST_CASES = 4  # with fewer, slices are held out instead of patients


@dataclass(frozen=True)
class HeldOut:
    """A volume to validate on, with its memberships; ``positions`` restricts it to some slices (None = all)."""

    name: str
    volume: Volume
    members: np.ndarray
    positions: frozenset[int] | None
    slices: int  # how many are segmented


@dataclass(frozen=True)
class ValidationScore:
    """Mean Dice over cases and labels, and that of each; what the certainty of a label's masks is worth."""

    dice: float
    per_case: dict[str, dict[int, float]]
    calibration: dict[int, Calibration] = field(default_factory=dict)

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
    cases: Sequence[Case], store: CaseStore, spec: SliceSpec, options: TrainOptions
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
        return training, [_whole(case, store, spec, options) for case in validation], {}
    held_out, excluded = [], {}
    for case in cases:
        volume, members = store.load(case)
        positions = frozenset(labelled_slices(members, Slices(volume, spec).axis)[2::5].tolist())
        if positions:
            held_out.append(HeldOut(case.name, volume, members, positions, len(positions)))
            excluded[case.name] = set(positions)
    return list(cases), held_out, excluded


def _whole(case: Case, store: CaseStore, spec: SliceSpec, options: TrainOptions) -> HeldOut:
    volume, members = store.load(case)
    slices = Slices(volume, spec)
    if case.slices == "labelled" or options.slices == "labelled":
        labelled = frozenset(labelled_slices(members, slices.axis).tolist())
        return HeldOut(case.name, volume, members, labelled, len(labelled))
    return HeldOut(case.name, volume, members, None, len(slices))


def encode_held_out(held_out: Sequence[HeldOut], spec: SliceSpec, session: Session, team: Team) -> Iterator[Event]:
    """Computes this process's share of the features that validation will ask the cache for."""
    for case in held_out:
        slices = Slices(case.volume, spec)
        every = [i for i in range(len(slices)) if case.positions is None or slices.index(i) in case.positions]
        own = [i for i in every[team.rank :: team.size] if not slices.is_blank(i)]
        for done, _ in enumerate(FeatureStream(slices, session).fill(own), 1):
            yield Progress(f"Features of {case.name}", done, len(own))


def validate(
    held_out: Sequence[HeldOut],
    model: DeSAM,
    options: SegmentOptions,
    session: Session,
    text: str = "Validating",
) -> Iterator[Event | ValidationScore]:
    """Segments what is held out exactly as a user would; yields Progress and what was worth a Log, then the score."""
    per_case: dict[str, dict[int, float]] = {}
    pairs: dict[int, list[tuple[float, float]]] = {}
    values = [label.value for label in model.card.labels]
    for done, case in enumerate(held_out, 1):
        result = None
        # masks at doubtful ends teach the calibration; a few slices of a volume do not touch one another
        chosen = replace(options, one_stretch=False)
        if case.positions is not None:
            chosen = replace(chosen, largest_component=False)
        for event in Segmentation(case.volume, model, chosen, session, only=case.positions).events():
            if isinstance(event, Finished):
                result = event.result
            elif isinstance(event, Log):
                yield event
        assert isinstance(result, SegmentResult)
        target = _at(case.members, result.axis, case.positions)
        labels = _at(result.labels, result.axis, case.positions)
        per_case[case.name] = _dice_of_all(labels, target, values)
        _pair(pairs, result, case.members, values)
        yield Progress(text, done, len(held_out))
    calibration = {value: Calibration.fit(*zip(*found, strict=True)) for value, found in pairs.items()}
    yield ValidationScore(_mean(per_case), per_case, calibration)


def _pair(
    pairs: dict[int, list[tuple[float, float]]], result: SegmentResult, members: np.ndarray, values: Sequence[int]
) -> None:
    """Adds, per label value, the certainty of each mask that was found and its slice's Dice: 0 where nothing is."""
    stack, truth = np.moveaxis(result.labels, result.axis, 0), np.moveaxis(members, result.axis, 0)
    for (value, position), certainty in result.certainty.items():
        known = ~ignored(truth[position])
        if known.any():
            real = has(truth[position], values.index(value)) & known
            score = dice((stack[position] == value) & known, real)
            pairs.setdefault(value, []).append((certainty, 0.0 if np.isnan(score) else score))


def _dice_of_all(labels: np.ndarray, target: np.ndarray, values: Sequence[int]) -> dict[int, float]:
    """label value -> Dice of a label map against memberships, voxels that nobody labelled left out."""
    known = ~ignored(target)
    pairs = enumerate(values)
    return {value: dice((labels == value) & known, has(target, number) & known) for number, value in pairs}


def _at(labels: np.ndarray, axis: int, positions: frozenset[int] | None) -> np.ndarray:
    return labels if positions is None else np.take(labels, sorted(positions), axis)


def _mean(scores: dict[str, dict[int, float]]) -> float:
    values = [value for case in scores.values() for value in case.values() if not np.isnan(value)]
    return float(np.mean(values)) if values else 0.0


def dice(predicted: np.ndarray, target: np.ndarray) -> float:
    """Dice of two masks of any shape; NaN when both are empty (nothing was there and nothing was found)."""
    total = int(predicted.sum()) + int(target.sum())
    return 2 * int((predicted & target).sum()) / total if total else float("nan")
