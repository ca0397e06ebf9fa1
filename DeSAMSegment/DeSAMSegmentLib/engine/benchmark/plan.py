"""Who trains where and is tested where: real domains in turn, or one real site against simulated ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...data.cases import Case, Dataset, patient_finder
from ...data.simulate import EFFECTS, check_site, simulated_case
from ...errors import BadDataset, BadInput
from ..options import SegmentOptions, TrainOptions

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
    """Train inside one site, test on others.

    Attributes:
      source: names the folder of its runs.
      left_out: cases of patients who are on the other side, and so on neither.
    """

    source: str
    train: tuple[Case, ...]
    test: tuple[TestCase, ...]
    left_out: tuple[Case, ...] = ()

    @property
    def domains(self) -> list[str]:
        return list(dict.fromkeys(each.domain for each in self.test))


@dataclass(frozen=True)
class Study:
    """A published experiment: how its data are prepared, trained and tested (docs/benchmark.md)."""

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


def cross_domain(dataset: Dataset, sources: Sequence[str] = (), patient_pattern: str = "") -> list[Split]:
    """Each domain in turn is trained on, all the others are tested on (paper, section 4.1).

    A patient who is trained on is not tested on, whatever the domain of the scan.

    Raises:
      BadDataset: without at least two domains, or when a domain has no other patients to test on.
      BadInput: for a source that is no domain, or a patient pattern that is no regular expression.
    """
    patient = patient_finder(patient_pattern)
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
    splits = []
    for source in dict.fromkeys(sources or by_domain):
        known = {patient(case.name) for case in by_domain[source]}
        others = [case for domain, cases in by_domain.items() if domain != source for case in cases]
        tests = tuple(TestCase(case) for case in others if patient(case.name) not in known)
        if not tests:
            raise BadDataset(
                f"Every patient outside {source or 'the unnamed domain'} is also in it: nobody is left to test on.",
                "Train on another --source, or correct --patient-pattern.",
            )
        left_out = tuple(case for case in others if patient(case.name) in known)
        splits.append(Split(source or "unnamed", tuple(by_domain[source]), tests, left_out))
    return splits


def simulated(
    dataset: Dataset,
    test_pattern: str,
    strengths: Sequence[float],
    effects: Sequence[str] = EFFECTS,
    patient_pattern: str = "",
) -> list[Split]:
    """Train on real cases as they are, test on others as they are and at simulated sites.

    Every effect is tested at strength 1, and all of them together ("mixed") at every one of ``strengths``. Other scans
    of a patient who is tested on are not trained on.

    Raises:
      BadInput: for a pattern that finds no case or all of them, an unknown effect, an impossible strength.
    """
    for strength in strengths:
        check_site(CURVE, strength)
    curve = sorted(set(strengths))
    sites = [(effect, strength) for effect in effects for strength in (curve if effect == CURVE else (1.0,))]
    for site in sites:
        check_site(*site)
    try:
        finds = re.compile(test_pattern).search
    except re.error as error:
        raise BadInput(f"--test-cases {test_pattern} is not a regular expression ({error}).") from error
    held_out = [case for case in dataset.cases if test_pattern and finds(case.name)]
    patient = patient_finder(patient_pattern)
    known = {patient(case.name) for case in held_out}
    others = [case for case in dataset.cases if case not in held_out]
    training = [case for case in others if patient(case.name) not in known]
    if not held_out or not training:
        raise BadInput(
            f"--test-cases {test_pattern!r} finds {len(held_out)} of {len(dataset.cases)} cases, "
            f"which leaves {len(training)} of other patients to train on.",
            "Give a regular expression that finds the names of the patients to test on, and leaves some to train on.",
        )
    tests = [TestCase(replace(case, domain=REAL)) for case in held_out]
    for effect, strength in dict.fromkeys(sites):
        if strength > 0:
            tests += [TestCase(case, effect, strength) for case in held_out]
    left_out = tuple(case for case in others if case not in training)
    return [Split(REAL, tuple(training), tuple(tests), left_out)]
