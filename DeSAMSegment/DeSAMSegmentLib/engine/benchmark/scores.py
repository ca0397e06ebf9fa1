"""The numbers of a benchmark: one row per method, seed, case, label, protocol and grid; their means; differences."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import BadInput
from ...files import write_text
from ..metrics import MEASURES, Metrics

RESAMPLES = 20_000  # of the bootstrap


@dataclass(frozen=True)
class Score:
    """One label of one test case, as one run saw it. ``points`` is 0 for the whole box."""

    source: str
    method: str
    seed: int
    points: int
    case: str
    domain: str
    label: str
    protocol: str
    dice: float | None
    hd95_mm: float | None
    assd_mm: float | None
    volume_error_percent: float | None

    @classmethod
    def of(cls, metrics: Metrics, **where: Any) -> Score:
        return cls(
            dice=metrics.dice,
            hd95_mm=metrics.hd95_mm,
            assd_mm=metrics.assd_mm,
            volume_error_percent=metrics.volume_error_percent,
            **where,
        )


def write_scores(path: Path, scores: Sequence[Score]) -> None:
    """As CSV; an undefined value is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Score)], lineterminator="\n")
    writer.writeheader()
    for score in scores:
        row = asdict(score)
        writer.writerow({key: _cell(value) for key, value in row.items()})
    write_text(path, text.getvalue())


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value


def read_scores(path: Path) -> list[Score]:
    """The inverse of ``write_scores``.

    Raises:
      BadInput: for a damaged file.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [_score(row) for row in csv.DictReader(file)]
    except (ValueError, KeyError, TypeError, csv.Error):
        raise BadInput(f"{path} is damaged.", "Delete it: this run is then tested again.") from None


def _score(row: dict[str, str]) -> Score:
    if None in row.values():
        raise ValueError("a row is cut short")
    numbers = {key: float(row[key]) if row[key] else None for key in MEASURES}
    texts = {key: row[key] for key in ("source", "method", "case", "domain", "label", "protocol")}
    return Score(seed=int(row["seed"]), points=int(row["points"]), **texts, **numbers)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Mean:
    """A mean over cases, labels and sources of each seed, then over seeds; ``sd`` is between seeds."""

    mean: float | None
    sd: float | None
    seeds: int


def mean(scores: Iterable[Score], measure: str = "dice", of_domains: bool = False) -> Mean:
    """The mean of a measure; ``of_domains`` weighs every domain of every source alike instead of every case (E-10).

    Undefined values stay out; the volume error enters without its sign.
    """
    by_seed: dict[int, list[Score]] = {}
    for score in scores:
        if getattr(score, measure) is not None:
            by_seed.setdefault(score.seed, []).append(score)
    means = [_of_domains(found, measure) if of_domains else _plain(found, measure) for found in by_seed.values()]
    if not means:
        return Mean(None, None, 0)
    sd = float(np.std(means, ddof=1)) if len(means) > 1 else None
    return Mean(float(np.mean(means)), sd, len(means))


def _plain(scores: Sequence[Score], measure: str) -> float:
    values = [getattr(score, measure) for score in scores]
    return float(np.mean(np.abs(values) if measure == "volume_error_percent" else values))


def _of_domains(scores: Sequence[Score], measure: str) -> float:
    groups: dict[tuple[str, str], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.source, score.domain), []).append(score)
    return float(np.mean([_plain(group, measure) for group in groups.values()]))


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
