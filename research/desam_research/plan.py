"""What a benchmark runs: who trains where and is tested where (real domains in turn, or one real site against
simulated ones), by which methods, with which options."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

from desam_cli.selection import pattern
from DeSAMSegmentLib.data.cases import Case, Dataset, load_case, patient_finder
from DeSAMSegmentLib.engine.options import SegmentOptions, TrainOptions
from DeSAMSegmentLib.errors import BadDataset, BadInput

from .methods import Method
from .simulate import EFFECTS, check_site, simulate

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
        """The case, its voxels changed where that is asked for."""
        if not self.effect:
            return self.case
        volume, _ = load_case(replace(self.case, labels=None))
        changed = simulate(volume, self.effect, self.strength, name=self.case.name)
        return replace(self.case, name=self.name, image=changed, domain=self.domain)


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
class Run:
    """A method, a site and a seed, in a benchmark's folder."""

    benchmark: Path
    method: Method
    source: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.source}/{self.method.id}/seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Where the run lives."""
        safe = re.sub(r"[^\w.-]+", "_", self.source)
        return self.benchmark / "runs" / safe / self.method.id / f"seed{self.seed}"

    def scores_path(self, points: int) -> Path:
        return self.folder / f"scores-{points}.csv"

    def prediction_path(self, case: str) -> Path:
        """The label map at the grid of the tables."""
        return self.folder / "predictions" / f"{case}.nii.gz"


@dataclass(frozen=True)
class BenchmarkOptions:
    """What a benchmark runs.

    Attributes:
      points: grids to test, per side; the first is the one of the tables. Methods that use the box ignore them.
      report_only: nothing is trained; the report is of the runs that are finished.
      device: as everywhere.
    """

    methods: Sequence[Method]
    splits: Sequence[Split]
    seeds: Sequence[int] = (0, 1, 2)
    points: Sequence[int] = (9,)
    train: TrainOptions = field(default_factory=TrainOptions)
    segment: SegmentOptions = field(default_factory=SegmentOptions)
    report_only: bool = False
    device: str = "auto"
    title: str = "Does it generalise?"

    def check(self) -> None:
        """Raises BadInput for options that make no sense."""
        if not self.methods or not self.splits or not self.seeds or not self.points:
            raise BadInput("A benchmark needs at least one method, one site, one seed and one grid.")
        if any(not 1 <= points <= 64 for points in self.points):
            raise BadInput(f"Points per side must be between 1 and 64, not {', '.join(map(str, self.points))}.")
        for method, seed in product(self.methods, self.seeds):
            method.options(self.train, seed).check()

    def grids(self, method: Method) -> Sequence[int]:
        """The numbers of points a method is tested with; 0 stands for the box."""
        return self.points if method.changes["mode"] == "grid" else (0,)


def cross_domain(dataset: Dataset, sources: Sequence[str] = (), patient_pattern: str = "") -> list[Split]:
    """Each domain in turn is trained on, all the others are tested on (paper, section 4.1).

    A patient who is trained on is not tested on, whatever the domain of the scan.

    Raises:
      BadDataset: without at least two domains, or when a domain has no other patients to test on.
      BadInput: for a source that is no domain, or a patient pattern that is no regular expression.
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
    splits = []
    for source in dict.fromkeys(sources or by_domain):
        others = [case for domain, cases in by_domain.items() if domain != source for case in cases]
        tested, left_out = _by_patient(others, by_domain[source], patient_pattern)
        if not tested:
            raise BadDataset(
                f"Every patient outside {source or 'the unnamed domain'} is also in it: nobody is left to test on.",
                "Train on another --source, or correct --patient-pattern.",
            )
        splits.append(Split(source or "unnamed", tuple(by_domain[source]), tuple(map(TestCase, tested)), left_out))
    return splits


def _by_patient(cases: Sequence[Case], others: Sequence[Case], patient_pattern: str) -> list[tuple[Case, ...]]:
    """The cases whose patient has none of the others, and those whose patient has."""
    patient = patient_finder(patient_pattern)
    known = {patient(case.name) for case in others}
    return [tuple(case for case in cases if (patient(case.name) in known) == shared) for shared in (False, True)]


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
    strengths_of = {CURVE: sorted(set(strengths))}
    sites = [(effect, strength) for effect in effects for strength in strengths_of.get(effect, [1.0])]
    for site in [*product([CURVE], strengths), *sites]:
        check_site(*site)
    finds = pattern("--test-cases", test_pattern).search
    held_out = [case for case in dataset.cases if test_pattern and finds(case.name)]
    others = [case for case in dataset.cases if not (test_pattern and finds(case.name))]
    training, left_out = _by_patient(others, held_out, patient_pattern)
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
    return [Split(REAL, training, tuple(tests), left_out)]
