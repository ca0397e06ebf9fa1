"""Paired Dice differences between two methods, from the scores that ``desam benchmark`` wrote.

    python benchmarks/paired.py desam-b-style desam-b generalisation/cardiac-scores.csv

Over the same source, seed, case and label, with a 95 % bootstrap interval over patients; on the training site and on
all others. Dice over all slices.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "DeSAMSegment"), str(HERE.parent / "research")]

from desam_research.scores import difference  # noqa: E402
from DeSAMSegmentLib.engine.evaluate.scores import Score, read_scores  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("method")
    parser.add_argument("against")
    parser.add_argument("scores", type=Path, nargs="+", help="scores.csv of one benchmark, or of several")
    parser.add_argument("--patient-pattern", default=r"(patient\d+)", help="its first group names the patient")
    parser.add_argument("--points", type=int, default=9, help="of the runs on a grid")
    arguments = parser.parse_args()
    pattern = re.compile(arguments.patient_pattern)
    every = [score for path in arguments.scores for score in read_scores(path)]
    kept = [s for s in every if s.protocol == "all" and s.points in (0, arguments.points)]

    def patient(case: str) -> str:
        found = pattern.search(case)
        return found[1] if found else case

    def told(what: str, scores: list[Score]) -> None:
        ours, theirs = ([s for s in scores if s.method == name] for name in (arguments.method, arguments.against))
        found = difference(ours, theirs, patient)
        if found is not None:
            print(f"{what}: {found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f}), {found.cases} pairs")

    told("training site", [s for s in kept if s.domain == s.source])
    told("other sites", [s for s in kept if s.domain != s.source])
    for domain in sorted({s.domain for s in kept if s.domain != s.source}):
        told(f"  {domain}", [s for s in kept if s.domain == domain])


if __name__ == "__main__":
    main()
