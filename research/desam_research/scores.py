"""Means of a benchmark's rows over seeds, and differences between two methods with intervals over patients."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from DeSAMSegmentLib.engine.evaluate.scores import Score

RESAMPLES = 20_000  # of the bootstrap


@dataclass(frozen=True)
class Mean:
    """A mean over cases, labels and sources of each seed, then over seeds; ``sd`` is between seeds."""

    mean: float | None
    sd: float | None
    seeds: int


def mean(scores: Iterable[Score], measure: str = "dice", of_domains: bool = False) -> Mean:
    """The mean of a measure; ``of_domains`` weighs every domain of every source alike instead of every case.

    Undefined values stay out; the volume error enters without its sign.
    """
    by_seed: dict[int, dict[tuple[str, ...], list[float]]] = {}
    for score in scores:
        value = score.value(measure)
        if value is not None:
            group = (score.source, score.domain) if of_domains else ()
            by_seed.setdefault(score.seed, {}).setdefault(group, []).append(value)
    means = [float(np.mean([np.mean(values) for values in groups.values()])) for groups in by_seed.values()]
    if not means:
        return Mean(None, None, 0)
    sd = float(np.std(means, ddof=1)) if len(means) > 1 else None
    return Mean(float(np.mean(means)), sd, len(means))


@dataclass(frozen=True)
class Difference:
    """Mean Dice of one method minus another's over the same cases, with a 95 % interval over patients' cases."""

    mean: float
    low: float
    high: float
    cases: int


def difference(
    ours: Iterable[Score], theirs: Iterable[Score], patient: Callable[[str], str] = str
) -> Difference | None:
    """Paired over source, seed, case and label; None when they have nothing in common.

    The interval is a bootstrap over ``patient`` of the case's name, since a patient's scans and simulated sites are not
    independent. Seeds and domains of a patient stay together.
    """

    def keyed(scores: Iterable[Score]) -> dict[tuple, float]:
        return {(s.source, s.seed, s.case, s.label): s.dice for s in scores if s.dice is not None}

    left, right = keyed(ours), keyed(theirs)
    groups: dict[str, list[float]] = {}
    for key in sorted(left.keys() & right.keys()):  # the bootstrap draws by place
        groups.setdefault(patient(key[2]), []).append(left[key] - right[key])
    if not groups:
        return None
    sums = np.array([sum(group) for group in groups.values()])
    counts = np.array([len(group) for group in groups.values()])
    drawn = np.random.default_rng(0).integers(0, len(sums), (RESAMPLES, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Difference(float(sums.sum() / counts.sum()), float(low), float(high), int(counts.sum()))
