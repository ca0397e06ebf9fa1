"""Who trains where and is tested where: real domains in turn, or one real site against simulated ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...data.cases import Case, Dataset
from ...data.simulate import EFFECTS, simulated_case
from ...errors import BadDataset, BadInput
from ..options import SegmentOptions, TrainOptions

PROTOCOLS = ("cross-domain", "simulated")
REAL = "real"  # the domain of unchanged test cases in the simulated protocol
CURVE = "mixed"  # the effect whose strength is varied


@dataclass(frozen=True)
class TestCase:
    """A labelled case to test on, as it is or at a simulated site; read when it is needed."""

    __test__ = False  # not a test class, whatever pytest makes of its name
    case: Case
    effect: str = ""
    strength: float = 0.0

    @property
    def domain(self) -> str:
        return f"{self.effect} {self.strength:g}" if self.effect else self.case.domain

    @property
    def name(self) -> str:
        return f"{self.case.name}-{self.effect}-{self.strength:g}" if self.effect else self.case.name

    def load(self) -> Case:
        """The case with its voxels changed, where that is asked for."""
        return simulated_case(self.case, self.effect, self.strength) if self.effect else self.case


@dataclass(frozen=True)
class Split:
    """Train inside one site, test on others. ``source`` names the folder of its runs."""

    source: str
    train: tuple[Case, ...]
    test: tuple[TestCase, ...]

    @property
    def domains(self) -> list[str]:
        return list(dict.fromkeys(each.domain for each in self.test))


@dataclass(frozen=True)
class Study:
    """A published experiment: how its data are prepared, trained and tested (reference-code.md, E1 to E3)."""

    train: dict[str, Any] = field(default_factory=dict)
    segment: SegmentOptions = field(default_factory=SegmentOptions)


_PUBLISHED = {"profile": "paper", "backbone": "vit_h", "slice_axis": "axial", "intensity": "percentile"}
STUDIES: dict[str, Study] = {  # the same recipe for both; where to get the data: docs/benchmark.md
    "prostate": Study(_PUBLISHED, SegmentOptions(reference_rule=True)),
    "abdomen": Study(_PUBLISHED, SegmentOptions(reference_rule=True)),
}


def study_options(study: str, changes: dict[str, Any]) -> tuple[TrainOptions, SegmentOptions]:
    """The options of a published study, with the user's own changes over them.

    Raises:
      BadInput: for an unknown study.
    """
    if study not in STUDIES:
        raise BadInput(f"There is no profile {study!r}.", f"There are {', '.join(('new-site', 'paper', *STUDIES))}.")
    return TrainOptions.paper(**{**STUDIES[study].train, **changes}), STUDIES[study].segment


def cross_domain(dataset: Dataset, sources: Sequence[str] = ()) -> list[Split]:
    """Each domain in turn is trained on, all the others are tested on (paper, section 4.1).

    Raises:
      BadDataset: without at least two domains. BadInput: for a source that is no domain.
    """
    by_domain: dict[str, list[Case]] = {}
    for case in dataset.cases:
        by_domain.setdefault(case.domain, []).append(case)
    if len(by_domain) < 2:
        raise BadDataset(
            f"The data set {dataset.name} has one domain only.",
            "Name each case's site in domains.csv (columns case,domain), or use --protocol simulated.",
        )
    unknown = [source for source in sources if source not in by_domain]
    if unknown:
        raise BadInput(f"There is no domain {unknown[0]!r}.", f"There are {', '.join(by_domain)}.")
    return [
        Split(
            source or "unnamed",
            tuple(by_domain[source]),
            tuple(TestCase(case) for other, cases in by_domain.items() if other != source for case in cases),
        )
        for source in (sources or by_domain)
    ]


def simulated(
    dataset: Dataset, test_pattern: str, strengths: Sequence[float], effects: Sequence[str] = EFFECTS
) -> list[Split]:
    """Train on real cases as they are, test on others as they are and at simulated sites.

    Every effect is tested at strength 1, and all of them together ("mixed") at every one of ``strengths``.

    Raises:
      BadInput: for a pattern that finds no case, or all of them.
    """
    try:
        finds = re.compile(test_pattern).search
    except re.error as error:
        raise BadInput(f"--test-cases {test_pattern} is not a regular expression ({error}).") from error
    held_out = [case for case in dataset.cases if test_pattern and finds(case.name)]
    training = [case for case in dataset.cases if case not in held_out]
    if not held_out or not training:
        raise BadInput(
            f"--test-cases {test_pattern!r} finds {len(held_out)} of {len(dataset.cases)} cases.",
            "Give a regular expression that finds the names of the patients to test on, and leaves some to train on.",
        )
    tests = [TestCase(replace(case, domain=REAL)) for case in held_out]
    for effect in effects:
        for strength in sorted(set(strengths)) if effect == CURVE else (1.0,):
            if strength > 0:
                tests += [TestCase(case, effect, strength) for case in held_out]
    return [Split(REAL, tuple(training), tuple(tests))]
