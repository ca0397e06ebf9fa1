"""An evaluation as its user sees it: events, tables, page and figures; failures do not stop it."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import blob
from DeSAMSegmentLib.data.cases import Case, load_case, read_dataset
from DeSAMSegmentLib.data.slices import Slices, SliceSpec
from DeSAMSegmentLib.data.volume import Volume
from DeSAMSegmentLib.data.writing import write_labelmap
from DeSAMSegmentLib.engine.evaluate.evaluate import EvaluationResult, evaluate
from DeSAMSegmentLib.engine.evaluate.metrics import Metrics
from DeSAMSegmentLib.engine.evaluate.report import number, page, write_markdown
from DeSAMSegmentLib.engine.evaluate.scores import Score, read_scores, summarise, write_scores
from DeSAMSegmentLib.engine.events import CaseDone, CaseFailed, Event, Finished, Log, Progress, Saved, Started
from DeSAMSegmentLib.engine.figures import choose_slices, draw_case
from DeSAMSegmentLib.engine.runtime.session import Session
from DeSAMSegmentLib.errors import BadDataset, BadInput, BadLabels, DiskFull
from markdown_it import MarkdownIt


@pytest.fixture
def predictions(dataset: Path, tmp_path: Path) -> Path:
    """Label maps of the data set's cases, the second one moved by two pixels."""
    folder = tmp_path / "predictions"
    for shift, case in enumerate(read_dataset(dataset).cases):
        volume, labels = load_case(case)
        assert labels is not None
        write_labelmap(folder / f"{case.name}.nii.gz", np.roll(labels.array, 2 * shift, 2), volume)
    return folder


def run(dataset: Path, folder: Path, **how) -> tuple[list[Event], EvaluationResult]:
    data = read_dataset(dataset)
    events = list(evaluate(data.cases, data.labels, folder, **how))
    assert isinstance(events[-1], Finished)
    return events, events[-1].result


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_events_come_in_the_order_a_face_expects(dataset: Path, predictions: Path, tmp_path: Path) -> None:
    events, _ = run(dataset, tmp_path / "report", predictions=predictions)
    assert isinstance(events[0], Started)
    assert (events[0].total, events[0].unit) == (2, "case")
    done = [event for event in events if isinstance(event, CaseDone)]
    assert [(event.case, event.domain, event.done) for event in done] == [
        ("north_1", "north", 1),
        ("south_1", "south", 2),
    ]
    assert done[0].metrics["blob"]["all"]["dice"] == 1.0
    for event in events:
        assert not isinstance(event, Saved) or event.path.is_file()


def test_the_table_has_a_row_per_case_label_and_protocol(dataset: Path, predictions: Path, tmp_path: Path) -> None:
    run(dataset, tmp_path / "report", predictions=predictions)
    rows = rows_of(tmp_path / "report")
    assert [(row["case"], row["protocol"]) for row in rows[:3]] == [
        ("north_1", "labelled"),
        ("north_1", "all"),
        ("north_1", "reference"),
    ]
    moved = next(row for row in rows if row["case"] == "south_1" and row["protocol"] == "all")
    assert float(moved["dice"]) == pytest.approx(14 / 16)  # 16 wide, moved by 2
    assert float(moved["hd95_mm"]) == pytest.approx(2 * 0.8, abs=1e-4)
    assert next(row for row in rows if row["protocol"] == "reference")["hd95_mm"] == ""


def test_the_summary_has_the_mean_of_cases_and_the_mean_of_domains(
    dataset: Path, predictions: Path, tmp_path: Path
) -> None:
    run(dataset, tmp_path / "report", predictions=predictions)
    summary = json.loads((tmp_path / "report" / "summary.json").read_text(encoding="utf-8"))
    dice = summary["labels"]["blob"]["all"]["dice"]
    assert dice["mean"] == pytest.approx((1 + 14 / 16) / 2)
    assert dice["domains"]["south"]["mean"] == pytest.approx(14 / 16)
    assert dice["cases"] == 2


def test_the_page_shows_means_cases_and_figures(dataset: Path, predictions: Path, tmp_path: Path) -> None:
    run(dataset, tmp_path / "report", predictions=predictions)
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "| blob | **all cases** | 2 | 0.938 ± 0.088 |" in text
    assert "![south_1](pictures/south_1.png)" in text
    assert (tmp_path / "report" / "pictures" / "south_1.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_case_without_prediction_fails_and_the_others_go_on(dataset: Path, predictions: Path, tmp_path: Path) -> None:
    (predictions / "north_1.nii.gz").unlink()
    events, result = run(dataset, tmp_path / "report", predictions=predictions)
    failed = [event for event in events if isinstance(event, CaseFailed)]
    assert [event.case for event in failed] == ["north_1"]
    assert "no prediction north_1.nii.gz" in failed[0].reason
    assert result.summary["blob"]["all"]["dice"]["cases"] == 1
    assert "no prediction north_1.nii.gz" in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")


def test_a_prediction_on_a_grid_elsewhere_fails_its_case(dataset: Path, predictions: Path, tmp_path: Path) -> None:
    image, labels = blob()
    far = Volume(image, np.array([[1, 0, 0, 900.0], [0, 1, 0, 900], [0, 0, 1, 900], [0, 0, 0, 1]]), name="far")
    write_labelmap(predictions / "south_1.nii.gz", labels, far)
    _, result = run(dataset, tmp_path / "report", predictions=predictions)
    assert list(result.failed) == ["south_1"]


def test_a_full_disk_ends_the_evaluation(
    dataset: Path, predictions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise DiskFull("The disk is full.")

    monkeypatch.setattr("DeSAMSegmentLib.engine.figures.draw_case", full)
    with pytest.raises(DiskFull):
        run(dataset, tmp_path / "report", predictions=predictions)


def test_a_model_is_run_scored_and_its_label_maps_are_kept(
    dataset: Path, untrained_model: Path, quick_encoder: None, tmp_path: Path
) -> None:
    events, result = run(dataset, tmp_path / "report", session=Session("cpu"), model=untrained_model)
    assert (tmp_path / "report" / "predictions" / "north_1.nii.gz").is_file()
    assert [(e.text, e.total) for e in events if isinstance(e, Progress)][:1] == [("north_1", 4)]
    assert not result.failed
    # the model's own label maps, scored again as finished ones, give the same figures
    _, again = run(dataset, tmp_path / "again", predictions=tmp_path / "report" / "predictions")
    assert [score.metrics for score in again.scores] == [score.metrics for score in result.scores]


def test_labels_the_model_does_not_know_are_named_and_left_out(
    dataset: Path, untrained_model: Path, quick_encoder: None, tmp_path: Path
) -> None:
    cases = read_dataset(dataset).cases[:1]
    events = list(evaluate(cases, {1: "blob", 7: "tail"}, tmp_path / "r", Session("cpu"), model=untrained_model))
    assert any(isinstance(event, Log) and "does not know tail" in event.text for event in events)
    assert set(events[-1].summary) == {"blob"}
    two = {7: "tail", 8: "head"}
    with pytest.raises(BadLabels, match="finds blob; the data set has tail, head"):
        list(evaluate(cases, two, tmp_path / "r", Session("cpu"), model=untrained_model))


def test_questions_that_make_no_sense_are_refused(dataset: Path, tmp_path: Path) -> None:
    cases = read_dataset(dataset).cases
    with pytest.raises(BadInput, match="either a model or a folder"):
        next(evaluate(cases, {1: "blob"}, tmp_path))
    with pytest.raises(BadDataset, match="no case"):
        next(evaluate([], {1: "blob"}, tmp_path, predictions=tmp_path))
    with pytest.raises(BadInput, match="no folder"):
        next(evaluate(cases, {1: "blob"}, tmp_path, predictions=tmp_path / "nowhere"))


def test_a_case_without_ground_truth_fails(dataset: Path, predictions: Path, tmp_path: Path) -> None:
    cases = [replace(case, labels=None) for case in read_dataset(dataset).cases]
    *_, finished = evaluate(cases, {1: "blob"}, tmp_path / "report", predictions=predictions)
    assert set(finished.result.failed) == {"north_1", "south_1"}


# ---- the report ----


def scores_of(*values: tuple[str, str, float | None]) -> list[Score]:
    made = []
    for case, domain, dice in values:
        metrics = Metrics(dice=dice, volume_error_percent=None if dice is None else (dice - 0.5) * 100)
        made += [Score(case, domain, "organ", protocol, metrics) for protocol in ("labelled", "all", "reference")]
    return made


def test_the_mean_of_domains_weighs_domains_not_cases() -> None:
    dice = summarise(scores_of(("a", "x", 0.9), ("b", "x", 0.7), ("c", "y", 0.2)))["organ"]["all"]["dice"]
    assert dice["mean"] == pytest.approx(0.6)
    assert dice["mean_of_domains"] == pytest.approx((0.8 + 0.2) / 2)


def test_undefined_values_stay_out_of_the_mean_and_are_empty_cells(tmp_path: Path) -> None:
    made = scores_of(("a", "x", 0.9), ("b", "x", None))
    summary = summarise(made)
    assert summary["organ"]["all"]["dice"]["mean"] == pytest.approx(0.9)
    assert summary["organ"]["all"]["dice"]["cases"] == 1
    table = tmp_path / "metrics.csv"
    write_scores(table, made)
    assert table.read_text(encoding="utf-8").splitlines()[4].startswith("b,x,organ,labelled,,,,,")
    assert read_scores(table) == made


def test_over_and_undershoot_do_not_cancel_in_the_mean_volume_error() -> None:
    error = summarise(scores_of(("a", "x", 0.9), ("b", "x", 0.1)))["organ"]["all"]["volume_error_percent"]
    assert error["mean"] == pytest.approx(40.0)


def test_a_page_without_any_scored_case_can_be_written(tmp_path: Path) -> None:
    result = EvaluationResult(tmp_path, failed={"a": "It is broken."})
    blocks = page(result, {"source": "model x", "device": "CPU"})
    text = write_markdown(tmp_path, "Evaluation", blocks).read_text(encoding="utf-8")
    assert "| a | It is broken. |" in text
    assert number(None) == "-"


def test_names_cannot_write_the_page_and_what_was_remarked_stands_on_it(tmp_path: Path) -> None:
    """Names come from other people's files: HTML and Markdown in them are shown, not obeyed."""
    hostile = "<script>x</script>\n[a](http://b) **c**\x1b"
    result = EvaluationResult(tmp_path, failed={hostile: hostile})
    result.scores.append(Score(hostile, hostile, hostile, "all", Metrics(dice=1.0)))
    result.summary.update(summarise(result.scores))
    text = "\n\n".join(page(result, {"source": hostile, "device": "CPU", "remarks": ["a overlaps b"]}))
    assert not set("<\x1b") & set(text)
    assert "- a overlaps b" in text
    shown = MarkdownIt().enable("table").render(text)
    assert "<a " not in shown
    assert shown.count("&lt;script&gt;x&lt;/script&gt; [a](http://b) **c**") >= 5


# ---- figures ----


def axial_slices(array: np.ndarray) -> Slices:
    volume = Volume(array.astype(np.int16), np.diag([0.8, 0.9, 3.0, 1.0]), name="made")
    return Slices(volume, SliceSpec.for_volume(volume, axis="axial"))


def test_the_drawn_slices_are_the_worst_the_median_and_the_largest() -> None:
    ground_truth = np.zeros((7, 40, 40), np.uint8)
    for index, size in enumerate((4, 8, 20, 8, 8)):
        ground_truth[index, 5 : 5 + size, 5 : 5 + size] = 1
    prediction = ground_truth.copy()
    prediction[1] = 0  # the worst
    prediction[3, 5:7] = 0
    chosen = choose_slices(axial_slices(ground_truth), ground_truth, prediction, None)
    why = {reason: dice for _, reason, dice in chosen}
    assert why["lowest Dice"] == 0.0
    assert why["largest area"] == 1.0
    assert len(chosen) == 3


def test_a_volume_without_any_label_still_gets_a_figure(tmp_path: Path) -> None:
    nothing = np.zeros((3, 20, 30), np.uint8)
    image = np.arange(nothing.size).reshape(nothing.shape)
    draw_case(tmp_path / "p.png", "nothing", axial_slices(image), nothing, nothing, ["organ"])
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_pyplot_is_left_alone(tmp_path: Path) -> None:
    import matplotlib.pyplot

    image, labels = blob()
    draw_case(tmp_path / "p.png", "blob", axial_slices(image), labels, labels, ["blob"])
    assert matplotlib.pyplot.get_fignums() == []


def test_case_objects_in_memory_need_no_files(tmp_path: Path) -> None:
    image, labels = blob()
    volume = Volume(image, np.diag([0.8, 0.9, 3.0, 1.0]), name="memory")
    write_labelmap(tmp_path / "memory.nii.gz", labels, volume)
    case = Case("memory", volume, labels, slices="labelled")
    *_, finished = evaluate([case], {1: "blob"}, tmp_path / "report", predictions=tmp_path)
    scores = {score.protocol: score.metrics for score in finished.result.scores}
    assert (scores["all"].dice, scores["all"].slices) == (1.0, 3)
