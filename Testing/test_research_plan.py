"""The plan of a benchmark keeps patients apart and methods comparable; its numbers are what they are called."""

from __future__ import annotations

from pathlib import Path

import pytest
from desam_research.benchmark import _means
from desam_research.cli import STUDIES, recipe
from desam_research.methods import METHODS, TABLES, chosen_methods
from desam_research.plan import cross_domain, simulated
from desam_research.report import write_html
from desam_research.scores import difference, mean
from DeSAMSegmentLib.data.cases import Case, Dataset
from DeSAMSegmentLib.engine.evaluate.metrics import Metrics
from DeSAMSegmentLib.engine.evaluate.report import markdown_table, write_markdown
from DeSAMSegmentLib.engine.evaluate.scores import Score, read_scores, write_scores
from DeSAMSegmentLib.engine.options import TrainOptions
from DeSAMSegmentLib.errors import BadDataset, BadInput
from standin import ball_volume, balls

# ---- plans ----


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
    for _, ids in TABLES.values():
        assert set(ids) <= set(METHODS)
    for method in METHODS.values():
        assert method.baseline in ("", *METHODS)
        for common in (TrainOptions(), TrainOptions.paper()):
            assert method.options(common, 3).is_valid() == (True, "")
            assert method.options(common, 3).seed == 3
    with pytest.raises(BadInput, match="no method 'magic'"):
        chosen_methods([], ["magic"])
    with pytest.raises(BadInput, match="no table 'magic'"):
        chosen_methods(["magic"], [])


def test_baselines_are_trained_with_the_same_prompts_and_slices() -> None:
    common = TrainOptions(epochs=5, views=2, labels=(1,))
    for method in METHODS.values():
        baseline = METHODS.get(method.baseline)
        if baseline is None or method.id in ("pdmm-only",):
            continue
        ours, theirs = method.options(common, 0), baseline.options(common, 0)
        for field in ("mode", "views", "labels", "empty_fraction", "validation_fraction", "seed", "iou_weight"):
            assert getattr(ours, field) == getattr(theirs, field), (method.id, field)


@pytest.mark.parametrize("study", STUDIES)
def test_a_published_study_keeps_the_papers_recipe(study: str) -> None:
    train, segment = recipe({"profile": study, "epochs": 3, "minutes": 0.0})
    found = (train.backbone, train.width, train.learning_rate, train.batch_size, train.empty_fraction, train.epochs)
    assert found == ("vit_h", "paper", 1e-4, 8, 0.0, 3)
    assert (train.profile, train.slice_axis, train.intensity, train.minutes) == ("paper", "axial", "percentile", None)
    assert segment.reference_rule


# ---- numbers ----


def score(**changes) -> Score:
    where = {"source": "A", "method": "m", "seed": 0, "points": 9, "case": "c", "domain": "B", "label": "l"}
    measures = {"dice": 0.5, "hd95_mm": 1.0, "assd_mm": 1.0, "volume_error_percent": -10.0}
    measured = {name: changes.pop(name, value) for name, value in measures.items()}
    return Score(**{**where, "protocol": "all", "metrics": Metrics(**measured), **changes})  # type: ignore[arg-type]


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


def test_a_patient_with_few_scans_does_not_weigh_more_in_the_interval_than_in_the_mean() -> None:
    names = [f"p{patient}-{scan}" for patient in range(9) for scan in range(9)] + ["p9-0"]
    ours = [score(case=name, dice=1.0 if name == "p9-0" else 0.5) for name in names]
    found = difference(ours, [score(case=name, dice=0.5) for name in names], lambda name: name[:2])
    assert found is not None
    assert found.mean == pytest.approx(0.5 / 82)
    assert 0 <= found.low < found.mean < found.high < 0.05


def test_the_dice_reported_while_a_benchmark_runs_is_that_outside_the_training_site() -> None:
    scores = [score(domain="real", dice=0.9), score(domain="noise 1", dice=0.5), score(domain="bias 1", dice=0.3)]
    assert _means(scores)["l"]["all"]["dice"] == pytest.approx(0.4)


def test_scores_survive_their_file(tmp_path: Path) -> None:
    scores = [score(), score(dice=None, seed=2), score(points=0)]
    write_scores(tmp_path / "scores.csv", scores, of_runs=True)
    assert read_scores(tmp_path / "scores.csv") == scores


def test_a_page_is_the_same_in_markdown_and_html(tmp_path: Path) -> None:
    table = markdown_table(("method", "a|b"), [("a <b>", "0.5"), ("![c](d) *e*", "**0.7**")])
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "curve.png").write_bytes(b"a picture")
    blocks = ["## Part", "words\n\nand more", table, "![A curve](plots/curve.png)"]
    markdown, page = (write(tmp_path, "Title", blocks) for write in (write_markdown, write_html))
    text = markdown.read_text(encoding="utf-8")
    assert text.startswith("# Title\n\n## Part\n\nwords\n\nand more\n\n| method | a\\|b |\n| --- | --- |\n")
    assert "| a <b> | 0.5 |\n| ![c](d) *e* | **0.7** |\n\n![A curve](plots/curve.png)" in text
    html = page.read_text(encoding="utf-8")
    assert "<th>a|b</th>" in html
    assert "<td>a &lt;b&gt;</td>" in html
    assert "<td>![c](d) *e*</td>" in html, "a name is no markup"
    assert "<td><strong>0.7</strong></td>" in html
    assert "<h2>Part</h2>" in html
    assert "<p>words</p>\n<p>and more</p>" in html
    assert '<img alt="A curve" src="data:image/png;base64,YSBwaWN0dXJl">' in html
