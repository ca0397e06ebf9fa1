"""A benchmark trains where it says, tests where it says, goes on where it stopped, and reports what it counted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from DeSAMSegmentLib.cli import main
from DeSAMSegmentLib.cli.benchmark import grids, numbers
from DeSAMSegmentLib.data.cases import Case, Dataset, read_dataset
from DeSAMSegmentLib.data.features import FeatureCache
from DeSAMSegmentLib.engine.benchmark import runs
from DeSAMSegmentLib.engine.benchmark.benchmark import BenchmarkOptions, benchmark
from DeSAMSegmentLib.engine.benchmark.methods import METHODS, TABLES, chosen_methods
from DeSAMSegmentLib.engine.benchmark.page import Heading, Table, Text, write_pages
from DeSAMSegmentLib.engine.benchmark.plan import STUDIES, TestCase, cross_domain, simulated, study_options
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


def scans(*names: str) -> Dataset:
    """Cases whose domain is what follows the last dash of their names."""
    return Dataset("scans", [Case(name, *ball_volume(0), name.split("-")[-1]) for name in names], {1: "ball"})  # type: ignore[misc]


def test_the_scans_of_a_patient_stay_on_one_side() -> None:
    data = scans("p1-A", "p2-A", "p1-B", "p3-B")
    split = cross_domain(data, ["A"], r"(p\d)")[0]
    assert [test.name for test in split.test] == ["p3-B"]
    assert [case.name for case in split.left_out] == ["p1-B"]
    assert [test.name for test in cross_domain(data, ["A"])[0].test] == ["p1-B", "p3-B"], "nobody said who is who"
    with pytest.raises(BadDataset, match="nobody is left to test on"):
        cross_domain(scans("p1-A", "p1-B"), (), r"(p\d)")

    (split,) = simulated(data, "p1-A", [1.0], ["noise"], r"(p\d)")
    assert [case.name for case in split.train] == ["p2-A", "p3-B"]
    assert [case.name for case in split.left_out] == ["p1-B"]
    with pytest.raises(BadInput, match="leaves 0 of other patients"):
        simulated(scans("p1-A", "p1-B"), "A", [1.0], ["noise"], r"(p\d)")


def test_impossible_sites_are_refused_before_anything_is_trained() -> None:
    for strengths, effects in (([1.0], ["fog"]), ([float("nan")], ["mixed"]), ([float("inf")], ["bias"]), ([-1.0], [])):
        with pytest.raises(BadInput, match="simulated site"):
            simulated(balls("AA"), "ball0", strengths, effects)


def test_styles_follow_the_common_options_where_a_method_has_them() -> None:
    wanted = {"new-site": TrainOptions(styles=5), "none": TrainOptions(styles=0), "paper": TrainOptions.paper()}
    found = {name: METHODS["desam-b-style"].options(common, 0).styles for name, common in wanted.items()}
    assert found == {"new-site": 5, "none": 3, "paper": 3}
    assert METHODS["desam-b"].options(wanted["new-site"], 0).styles == 0


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


@pytest.mark.parametrize(("name", "remedy"), [("run.json", "Delete the folder"), ("scores-0.csv", "tested again")])
def test_a_damaged_record_of_a_run_is_named(tmp_path: Path, quick_features: None, name: str, remedy: str) -> None:
    options = quick(balls("AA"), "sam-b", seeds=(0,))
    conduct(tmp_path, options)
    record = tmp_path / "runs/real/sam-b/seed0" / name
    text = record.read_text(encoding="utf-8")
    record.write_text(text[: text.rindex(",")], encoding="utf-8")
    with pytest.raises(BadInput, match=f"{name} is damaged.*{remedy}"):
        conduct(tmp_path, options)


def test_a_damaged_model_of_a_run_is_named(tmp_path: Path, quick_features: None) -> None:
    options = quick(balls("AA"), "desam-b", seeds=(0,))
    conduct(tmp_path, options)
    folder = tmp_path / "runs/real/desam-b/seed0"
    (folder / "scores-0.csv").unlink()
    model = folder / "model" / "best.desam"
    model.write_bytes(model.read_bytes()[:2000])
    with pytest.raises(BadInput, match=r"real/desam-b/seed 0.*best\.desam.*Delete the folder"):
        conduct(tmp_path, options)


def test_a_case_to_test_on_that_cannot_be_read_is_told_before_training(
    tmp_path: Path, quick_features: None, dataset: Path
) -> None:
    data = read_dataset(dataset)
    tests = [replace(data.cases[0], name="torn", image=tmp_path / "torn.nii.gz"), replace(data.cases[0], labels=None)]
    (tmp_path / "torn.nii.gz").write_bytes(b"half a file")
    for test, says in zip(tests, ("torn", "no labels to test against"), strict=True):
        split = replace(cross_domain(balls("AB"), ["A"])[0], test=(TestCase(test),))
        with pytest.raises(BadInput, match=says):
            conduct(tmp_path / says, quick(balls("AA"), "desam-b", splits=[split]))
        assert not (tmp_path / says / "runs").exists()


@pytest.mark.parametrize("seeds", [(-1,), (0, 2**32)])
def test_a_seed_out_of_range_is_refused(seeds: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="seed must be between"):
        conduct(tmp_path, quick(balls("AA"), "desam-b", seeds=seeds))


def test_a_seed_that_is_given_twice_runs_once(tmp_path: Path, quick_features: None) -> None:
    events = conduct(tmp_path, quick(balls("AA"), "desam-b", seeds=(1, 1)))
    assert [event.case for event in events if isinstance(event, CaseDone)] == ["real/desam-b/seed 1"]


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
        (["--protocol", "simulated", "--test-cases", "0", "--effects", "fog"], "simulated site"),
        (["--protocol", "simulated", "--test-cases", "("], "not a regular expression"),
        (["--source", "Mars"], "Mars"),
        (["--seeds", "-1"], "seed must be between"),
        (["--seeds", ""], "at least one"),
        (["--points", "0"], "between 1 and 64"),
        (["--patient-pattern", "("], "no regular expression"),
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
