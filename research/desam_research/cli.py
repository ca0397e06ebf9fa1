"""``desam benchmark``: the paper's experiments on a data set of one's own, with baselines in the same run."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from desam_cli import options as shared
from desam_cli.selection import choose_cases, choose_labels, parts
from desam_cli.view import follow
from DeSAMSegmentLib.data.cases import read_dataset
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.engine.options import SegmentOptions, TrainOptions
from DeSAMSegmentLib.errors import BadInput

from .methods import METHODS, POINTS_CURVE, PROTOCOLS, TABLES, chosen_methods

if TYPE_CHECKING:
    from DeSAMSegmentLib.data.cases import Dataset

    from .benchmark import Ahead
    from .plan import Split

STUDIES = ("prostate", "abdomen")  # the paper's experiments; where to get the data: docs/benchmark.md
PUBLISHED = {"backbone": "vit_h", "slice_axis": "axial", "intensity": "percentile"}

PROTOCOL = "cross-domain: train on each domain in turn; simulated: one real site, simulated others."
TABLE = f"{', '.join(TABLES)}; repeatable. Default: main, unless methods are named."
GRIDS = "Grid points per side to test; the first is the tables', 'curve' adds Fig. 3's."
TEST_CASES = "Protocol simulated: regular expression for the names of the cases to test on."
STRENGTHS = "Protocol simulated: strengths of the mixed shift, separated by commas."
EFFECTS = "Protocol simulated: bias, contrast, noise, resolution, mixed; default: all of them."
REPORT_ONLY = "Train nothing; report the runs in OUTPUT that are finished."


@shared.takes(TrainOptions)
def command(
    dataset: Annotated[Path, typer.Argument(help="nnU-Net raw folder with labels; domains.csv names the sites.")],
    output: Annotated[Path, typer.Argument(help="Folder of the report and of every run; an earlier one goes on.")],
    chosen: dict[str, Any],
    protocol: Annotated[str, typer.Option(help=PROTOCOL)] = "cross-domain",
    table: Annotated[list[str] | None, typer.Option(help=TABLE)] = None,
    methods: Annotated[str, typer.Option(help=f"Methods, separated by commas: {', '.join(METHODS)}.")] = "",
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2",
    points: Annotated[str, typer.Option(help=GRIDS)] = "9",
    source: Annotated[list[str] | None, typer.Option(help="Train on this domain only; repeatable.")] = None,
    test_cases: Annotated[str, typer.Option(help=TEST_CASES)] = "",
    strengths: Annotated[str, typer.Option(help=STRENGTHS)] = "0.5,1,1.5",
    effects: Annotated[str, typer.Option(help=EFFECTS)] = "",
    report_only: Annotated[bool, typer.Option("--report-only", help=REPORT_ONLY)] = False,
    keep: shared.Keep = "",
    exclude: shared.Exclude = "",
    workers: shared.Workers = 0,
    scheduler: shared.Scheduler = "",
    device: shared.Device = "auto",
    no_cache: shared.NoCache = False,
    json: shared.Json = False,
) -> None:
    """Train on one site, test on the others: DeSAM, its ablations and baselines on the same features and split.

    Besides new-site and paper, --profile takes prostate and abdomen: the published preparation (docs/benchmark.md).
    """
    from .benchmark import BenchmarkOptions, benchmark

    names = chosen.pop("labels", None)
    train, segment = recipe(chosen)
    data = read_dataset(dataset)
    labels = choose_labels(names, data.labels)
    data = replace(data, cases=choose_cases(data.cases, keep, exclude, None))
    named = parts(methods)
    options = BenchmarkOptions(
        chosen_methods(table or ([] if named else ["main"]), named),
        _splits(protocol, data, train.patient_pattern, source, test_cases, strengths, effects),
        numbers(seeds, "--seeds", int), grids(points), train, segment, report_only, device, f"{data.name}: {protocol}",
    )  # fmt: skip
    follow(benchmark(labels, output, options, None if no_cache else FeatureCache(), _ahead(workers, scheduler)), json)


def _ahead(workers: int, scheduler: str) -> Ahead | None:
    """What carries runs out elsewhere; None where all are done here."""
    if not workers and not scheduler:
        return None
    from .shared_out import carried_out

    return partial(carried_out, workers=workers, scheduler=scheduler)


def _splits(
    protocol: str, data: Dataset, patients: str, source: list[str] | None, test_cases: str, strengths: str, effects: str
) -> list[Split]:
    """What the runs of a protocol train and test on; the arguments are the command's. Raises BadInput."""
    from .plan import cross_domain, simulated
    from .simulate import EFFECTS

    if protocol not in PROTOCOLS:
        raise BadInput(f"--protocol is {' or '.join(PROTOCOLS)}, not {protocol!r}.")
    if protocol == "simulated":
        curve = numbers(strengths, "--strengths", float)
        return simulated(data, test_cases, curve, parts(effects) or EFFECTS, patients)
    return cross_domain(data, source or (), patients)


def recipe(chosen: dict[str, Any]) -> tuple[TrainOptions, SegmentOptions]:
    """Training and testing options of a profile, with what was given on the command line over them."""
    if chosen.get("profile") not in STUDIES:
        return shared.build(TrainOptions, chosen), SegmentOptions()
    return shared.build(TrainOptions, {**PUBLISHED, **chosen, "profile": "paper"}), SegmentOptions(reference_rule=True)


def grids(text: str) -> list[int]:
    """``"9"``, ``"9,16"`` or ``"9,curve"`` as points per side, each once."""
    words = parts(text)
    given = numbers(",".join(word for word in words if word != "curve") or "9", "--points", int)
    return list(dict.fromkeys([*given, *(POINTS_CURVE if "curve" in words else ())]))


def numbers(text: str, option: str, kind: type) -> list[Any]:
    """Numbers separated by commas.

    Raises:
      BadInput: naming the option.
    """
    try:
        return [kind(part) for part in parts(text)]
    except ValueError:
        raise BadInput(f"{option} takes numbers separated by commas, not {text!r}.") from None
