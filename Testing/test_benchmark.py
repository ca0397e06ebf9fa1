"""A benchmark trains where it says, tests where it says, goes on where it stopped, and reports what it counted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from DeSAMSegmentLib.cli import main
from DeSAMSegmentLib.cli.benchmark import grids, numbers
from DeSAMSegmentLib.data.cases import Case, Dataset
from DeSAMSegmentLib.data.features import FeatureCache
from DeSAMSegmentLib.engine.benchmark import runs
from DeSAMSegmentLib.engine.benchmark.benchmark import BenchmarkOptions, benchmark
from DeSAMSegmentLib.engine.benchmark.methods import METHODS, TABLES, chosen_methods
from DeSAMSegmentLib.engine.benchmark.page import Heading, Table, Text, write_pages
from DeSAMSegmentLib.engine.benchmark.plan import STUDIES, cross_domain, simulated, study_options
from DeSAMSegmentLib.engine.benchmark.scores import Score, difference, mean, read_scores, write_scores
from DeSAMSegmentLib.engine.events import CaseDone, Event, Finished
from DeSAMSegmentLib.engine.loading import load_backbone
from DeSAMSegmentLib.engine.options import TrainOptions
from DeSAMSegmentLib.errors import BadDataset, BadInput
from standin import ball_volume, stand_in_encoder


def balls(domains: str) -> Dataset:
    """One case per letter, the letter being its domain."""
    cases = [Case(f"ball{i}", *ball_volume(i), domain) for i, domain in enumerate(domains)]  # type: ignore[misc]
    return Dataset("balls", cases, {1: "ball"})


@pytest.fixture
def quick_features(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(id: str, device: str):
        return load_backbone(id, device) if id == "pixels" else stand_in_encoder()

    monkeypatch.setattr(runs, "load_backbone", load)


def quick(dataset: Dataset, methods: str, **changes) -> BenchmarkOptions:
    train = TrainOptions(epochs=1, batch_size=4, learning_rate=5e-3)
    return BenchmarkOptions(
        **{
            "methods": chosen_methods([], methods.split(",")),
            "splits": simulated(dataset, "ball0", [1.0], ["noise", "mixed"]),
            "seeds": (0, 1),
            "train": train,
            "device": "cpu",
            **changes,
        }
    )


def conduct(folder: Path, options: BenchmarkOptions) -> list[Event]:
    return list(benchmark({1: "ball"}, folder, options, FeatureCache(folder / "features")))


# ---- plans


def test_each_domain_is_trained_on_in_turn_and_the_others_are_tested() -> None:
    splits = cross_domain(balls("AAB"))
    assert [(split.source, len(split.train), [test.name for test in split.test]) for split in splits] == [
        ("A", 2, ["ball2"]),
        ("B", 1, ["ball0", "ball1"]),
    ]
    assert [split.source for split in cross_domain(balls("AAB"), ["B"])] == ["B"]


def test_a_patient_is_never_on_both_sides_of_a_simulated_split() -> None:
    (split,) = simulated(balls("AAA"), "ball[01]", [0.5, 1.0, 0.0])
    assert [case.name for case in split.train] == ["ball2"]
    assert {test.case.name for test in split.test} == {"ball0", "ball1"}
    assert split.domains == ["real", "bias 1", "contrast 1", "noise 1", "resolution 1", "mixed 0.5", "mixed 1"]


def test_data_without_sites_or_without_test_cases_are_refused_with_a_remedy() -> None:
    with pytest.raises(BadDataset, match=r"domains\.csv"):
        cross_domain(balls("AA"))
    with pytest.raises(BadInput, match="There are A, B"):
        cross_domain(balls("AB"), ["C"])
    for pattern in ("", "nobody", "ball"):
        with pytest.raises(BadInput, match="leaves some to train on"):
            simulated(balls("AA"), pattern, [1.0])


def test_every_table_names_known_methods_and_every_method_makes_sense() -> None:
    for ids in TABLES.values():
        assert set(ids) <= set(METHODS)
    for method in METHODS.values():
        assert method.rival in ("", *METHODS)
        for common in (TrainOptions(), TrainOptions.paper()):
            assert method.options(common, 3).is_valid() == (True, "")
            assert method.options(common, 3).seed == 3
    with pytest.raises(BadInput, match="no method 'magic'"):
        chosen_methods([], ["magic"])
    with pytest.raises(BadInput, match="no table 'magic'"):
        chosen_methods(["magic"], [])


def test_rivals_are_trained_with_the_same_prompts_and_slices() -> None:
    common = TrainOptions(epochs=5, views=2, labels=(1,))
    for method in METHODS.values():
        rival = METHODS.get(method.rival)
        if rival is None or method.id in ("pdmm-only",):
            continue
        ours, theirs = method.options(common, 0), rival.options(common, 0)
        for field in ("mode", "views", "labels", "empty_fraction", "validation_fraction", "seed", "iou_weight"):
            assert getattr(ours, field) == getattr(theirs, field), (method.id, field)


@pytest.mark.parametrize("study", STUDIES)
def test_a_published_study_keeps_the_papers_recipe(study: str) -> None:
    train, segment = study_options(study, {"epochs": 3})
    recipe = (train.backbone, train.width, train.learning_rate, train.batch_size, train.empty_fraction, train.epochs)
    assert recipe == ("vit_h", "paper", 1e-4, 8, 0.0, 3)
    assert segment.reference_rule


# ---- numbers


def score(**changes) -> Score:
    where = {"source": "A", "method": "m", "seed": 0, "points": 9, "case": "c", "domain": "B", "label": "l"}
    values = {"protocol": "all", "dice": 0.5, "hd95_mm": 1.0, "assd_mm": 1.0, "volume_error_percent": -10.0}
    return Score(**{**where, **values, **changes})  # type: ignore[arg-type]


def test_means_are_over_cases_then_seeds_and_domains_can_weigh_alike() -> None:
    scores = [
        score(seed=seed, case=case, domain=domain, dice=dice + seed / 10)
        for seed in (0, 1)
        for case, domain, dice in (("a", "B", 0.2), ("b", "B", 0.4), ("c", "C", 0.6))
    ]
    of_cases = mean(scores)
    assert of_cases.mean == pytest.approx(0.45)
    assert of_cases.sd == pytest.approx(0.1 / 2**0.5)
    assert mean(scores, of_domains=True).mean == pytest.approx(0.5)
    assert mean([score(dice=None), score(case="d")]).mean == 0.5
    assert mean([score(), score(volume_error_percent=10.0)], "volume_error_percent").mean == 10.0
    assert mean([]).mean is None


def test_differences_are_paired_and_their_interval_is_over_patients() -> None:
    ours = [score(case=f"p{p}-{scan}", dice=0.5 + 0.1 * p) for p in range(4) for scan in (1, 2)]
    theirs = [score(case=f"p{p}-{scan}", dice=0.4, method="n") for p in range(4) for scan in (1, 2)]
    found = difference(ours, [*theirs, score(case="nobody")], lambda name: name[:2])
    assert found is not None
    assert (found.mean, found.cases) == (pytest.approx(0.25), 8)
    assert found.low < 0.25 < found.high
    finer = difference(ours, theirs)
    assert finer is not None
    assert finer.high - finer.low < found.high - found.low, "scans of a patient are not independent"
    assert difference(ours, [score(case="nobody")]) is None


def test_scores_survive_their_file(tmp_path: Path) -> None:
    scores = [score(), score(dice=None, seed=2), score(points=0)]
    write_scores(tmp_path / "scores.csv", scores)
    assert read_scores(tmp_path / "scores.csv") == scores


def test_a_page_is_the_same_in_markdown_and_html(tmp_path: Path) -> None:
    table = Table(("method", "Dice"), [("a <b>", "0.5"), ("c", "0.7")], frozenset({(1, 1)}))
    markdown, page = write_pages(tmp_path, "Title", [Heading("Part"), Text("words"), table])
    assert "| a <b> | 0.5 |\n| c | **0.7** |" in markdown.read_text(encoding="utf-8")
    html = page.read_text(encoding="utf-8")
    assert "<td>a &lt;b&gt;</td>" in html
    assert '<td class="best">0.7</td>' in html
    assert "<h2>Part</h2>" in html


# ---- the whole


def test_a_benchmark_runs_every_method_and_writes_its_report(tmp_path: Path, quick_features: None) -> None:
    options = quick(balls("AAA"), "desam-b,desam-p,coupled-b,sam-b,unet", points=(3, 5, 7))
    events = conduct(tmp_path, options)
    done = [event for event in events if isinstance(event, CaseDone)]
    assert len(done) == 9, "SAM as it comes has no seed"
    assert isinstance(events[-1], Finished)
    scores = read_scores(tmp_path / "scores.csv")
    assert {each.method for each in scores} == {"desam-b", "desam-p", "coupled-b", "sam-b", "unet"}
    assert {each.domain for each in scores} == {"real", "noise 1", "mixed 1"}
    assert {each.points for each in scores if each.method == "desam-p"} == {3, 5, 7}
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    plain = [each for each in scores if each.method == "desam-b" and each.protocol == "all"]
    assert f"{mean(each for each in plain if each.domain == 'real').mean:.3f} ± " in report
    assert "Number of points" in report
    assert "DeSAM-B, whole box | coupled SAM decoder, box | outside" in report
    for picture in ("plots/points.png", "pictures/best.png", "pictures/worst.png"):
        assert (tmp_path / picture).stat().st_size > 5000
    assert (tmp_path / "report.html").read_text(encoding="utf-8").count("data:image/png") >= 4


def test_all_methods_of_a_run_see_the_same_split(tmp_path: Path, quick_features: None) -> None:
    conduct(tmp_path, quick(balls("AAAAA"), "desam-b,unet", seeds=(5,)))
    cards = [json.loads((tmp_path / f"runs/real/{id}/seed5/run.json").read_text()) for id in ("desam-b", "unet")]
    assert cards[0]["train"] == cards[1]["train"]
    assert "ball0" not in cards[0]["train"]


def test_a_stopped_benchmark_goes_on_without_training_again(
    tmp_path: Path, quick_features: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = quick(balls("AA"), "desam-b", seeds=(0, 1))
    stopped = benchmark({1: "ball"}, tmp_path, options, FeatureCache(tmp_path / "features"))
    next(event for event in stopped if isinstance(event, CaseDone))
    stopped.close()  # type: ignore[attr-defined]
    trained: list[Path] = []
    train = runs.train
    monkeypatch.setattr(runs, "train", lambda *args, **how: trained.append(args[2]) or train(*args, **how))
    conduct(tmp_path, options)
    assert trained == [tmp_path / "runs/real/desam-b/seed1/model"]
    conduct(tmp_path, options)
    assert len(trained) == 1


def test_a_report_can_be_had_of_what_is_finished_so_far(tmp_path: Path, quick_features: None) -> None:
    conduct(tmp_path, quick(balls("AA"), "sam-b,desam-b", seeds=(1,)))
    (tmp_path / "report.md").unlink()
    wider = quick(balls("AA"), "sam-b,desam-b,unet", seeds=(1, 2), report_only=True)
    done = [event.case for event in conduct(tmp_path, wider) if isinstance(event, CaseDone)]
    assert done == ["real/desam-b/seed 1", "real/sam-b/seed 1"]
    assert "U-Net" not in (tmp_path / "report.md").read_text(encoding="utf-8")
    with pytest.raises(BadInput, match=r"finished.*--report-only"):
        conduct(tmp_path / "elsewhere", wider)


def test_a_folder_made_with_other_options_is_refused(tmp_path: Path, quick_features: None) -> None:
    options = quick(balls("AA"), "sam-b")
    conduct(tmp_path, options)
    other = replace(options, train=replace(options.train, empty_fraction=0.1))
    with pytest.raises(BadInput, match="other options"):
        conduct(tmp_path, other)


# ---- command line


def test_lists_on_the_command_line() -> None:
    assert grids("9") == [9]
    assert grids("16,curve") == [16, 5, 7, 9, 12]
    assert grids("curve") == [9, 5, 7, 12, 16]
    assert numbers("0.5, 1", "--strengths", float) == [0.5, 1.0]
    with pytest.raises(BadInput, match="--seeds takes numbers"):
        numbers("a", "--seeds", int)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--protocol", "guess"], "cross-domain or simulated"),
        (["--methods", "magic"], "no method 'magic'"),
        (["--protocol", "simulated"], "leaves some to train on"),
        (["--profile", "kidney"], "Profile must be one of"),
    ],
)
def test_bad_benchmarks_are_one_line(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], dataset: Path
) -> None:
    assert main(["benchmark", str(dataset), str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()
