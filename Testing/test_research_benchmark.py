"""A benchmark trains where it says, tests where it says, resumes where it stopped, and reports what it counted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import desam_research.benchmark as benchmarks
import pytest
from desam_cli import main
from desam_research.benchmark import benchmark
from desam_research.cli import grids, numbers
from desam_research.methods import chosen_methods
from desam_research.plan import BenchmarkOptions, TestCase, cross_domain, simulated
from desam_research.scores import mean
from DeSAMSegmentLib.data.cases import Dataset, read_dataset
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.engine.evaluate.scores import read_scores
from DeSAMSegmentLib.engine.events import CaseDone, Event, Finished
from DeSAMSegmentLib.engine.options import TrainOptions
from DeSAMSegmentLib.engine.runtime import session as sessions
from DeSAMSegmentLib.errors import BadInput
from standin import StandInBackbone, balls


@pytest.fixture
def quick_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """A millisecond's stand-in for every backbone but the image itself."""
    original = sessions.build_backbone

    def build(id: str, tensors: object):
        return original(id, tensors) if id == "pixels" else StandInBackbone()  # type: ignore[arg-type]

    monkeypatch.setattr(sessions, "build_backbone", build)


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


# ---- the whole ----


def test_a_benchmark_runs_every_method_and_writes_its_report(tmp_path: Path, quick_features: None) -> None:
    options = quick(balls("AAA"), "desam-b,desam-p,coupled-b,sam-b,unet", points=(1, 2, 3))
    events = conduct(tmp_path, options)
    done = [event for event in events if isinstance(event, CaseDone)]
    assert len(done) == 9, "SAM as it comes has no seed"
    assert isinstance(events[-1], Finished)
    scores = read_scores(tmp_path / "scores.csv")
    assert {each.method for each in scores} == {"desam-b", "desam-p", "coupled-b", "sam-b", "unet"}
    assert {each.domain for each in scores} == {"real", "noise 1", "mixed 1"}
    assert {each.points for each in scores if each.method == "desam-p"} == {1, 2, 3}
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    plain = [each for each in scores if each.method == "desam-b" and each.protocol == "all"]
    assert f"{mean(each for each in plain if each.domain == 'real').mean:.3f} ± " in report
    assert "Number of points" in report
    assert "DeSAM-B, whole box | coupled SAM decoder, box | outside" in report
    for figure in ("plots/points.png", "pictures/best.png", "pictures/worst.png"):
        assert (tmp_path / figure).stat().st_size > 5000
    assert (tmp_path / "report.html").read_text(encoding="utf-8").count("data:image/png") >= 4


def test_all_methods_of_a_run_see_the_same_split(tmp_path: Path, quick_features: None) -> None:
    conduct(tmp_path, quick(balls("AAAAA"), "desam-b,unet", seeds=(5,)))
    cards = [json.loads((tmp_path / f"runs/real/{id}/seed5/run.json").read_text()) for id in ("desam-b", "unet")]
    assert cards[0]["train"] == cards[1]["train"]
    assert "ball0" not in cards[0]["train"]


def test_a_stopped_benchmark_resumes_without_training_again(
    tmp_path: Path, quick_features: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = quick(balls("AA"), "desam-b", seeds=(0, 1))
    stopped = benchmark({1: "ball"}, tmp_path, options, FeatureCache(tmp_path / "features"))
    next(event for event in stopped if isinstance(event, CaseDone))
    stopped.close()  # type: ignore[attr-defined]
    trained: list[Path] = []
    train = benchmarks.train
    monkeypatch.setattr(benchmarks, "train", lambda *args, **how: trained.append(args[2]) or train(*args, **how))
    conduct(tmp_path, options)
    assert trained == [tmp_path / "runs/real/desam-b/seed1/model"]
    conduct(tmp_path, options)
    assert len(trained) == 1


def test_a_report_of_what_is_finished_so_far_can_be_written(tmp_path: Path, quick_features: None) -> None:
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


def test_a_test_case_that_cannot_be_read_is_reported_before_training(
    tmp_path: Path, quick_features: None, dataset: Path
) -> None:
    data = read_dataset(dataset)
    tests = [replace(data.cases[0], name="torn", image=tmp_path / "torn.nii.gz"), replace(data.cases[0], labels=None)]
    (tmp_path / "torn.nii.gz").write_bytes(b"half a file")
    for test, says in zip(tests, ("torn", "has no labels"), strict=True):
        split = replace(cross_domain(balls("AB"), ["A"])[0], test=(TestCase(test),))
        with pytest.raises(BadInput, match=says):
            conduct(tmp_path / says, quick(balls("AA"), "desam-b", splits=[split]))
        assert not (tmp_path / says / "runs").exists()


@pytest.mark.parametrize("seeds", [(-1,), (0, 2**32)])
def test_a_seed_out_of_range_is_refused(seeds: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="Seed must be between"):
        conduct(tmp_path, quick(balls("AA"), "desam-b", seeds=seeds))


def test_a_seed_that_is_given_twice_runs_once(tmp_path: Path, quick_features: None) -> None:
    events = conduct(tmp_path, quick(balls("AA"), "desam-b", seeds=(1, 1)))
    assert [event.case for event in events if isinstance(event, CaseDone)] == ["real/desam-b/seed 1"]


# ---- command line ----


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
        (["--seeds", "-1"], "Seed must be between"),
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
