"""Labels are matched by name: whatever their numbers, order and format, a label lies where it was drawn.

Every data set of the table holds two organs that differ in grey, so a mixed-up label shows in its mean.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import write_nifti
from DeSAMSegmentLib.data.cases import CaseStore, read_dataset
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.data.labels import LabelMap, Matcher, Overlay, closest, find_label, has, ignored, match
from DeSAMSegmentLib.data.reading import read_labels
from DeSAMSegmentLib.engine.evaluate.evaluate import evaluate
from DeSAMSegmentLib.engine.events import Event, Finished, Log
from DeSAMSegmentLib.engine.options import TrainOptions
from DeSAMSegmentLib.engine.runtime.session import Session
from DeSAMSegmentLib.engine.train.initial_model import in_base_order
from DeSAMSegmentLib.engine.train.train import train
from DeSAMSegmentLib.errors import BadInput, BadLabels
from DeSAMSegmentLib.store.card import ModelCard
from DeSAMSegmentLib.store.model_file import read_card
from DeSAMSegmentLib.store.terminology import default_labels
from standin import stand_in_encoder

LEFT, RIGHT = "left ventricle", "right ventricle"
GREY = {LEFT: 250, RIGHT: 160}
SHAPE = (4, 40, 48)
USUAL = {LEFT: 1, RIGHT: 2}


def masks() -> dict[str, np.ndarray]:
    found = {name: np.zeros(SHAPE, bool) for name in GREY}
    found[LEFT][:3, 8:20, 6:18] = found[RIGHT][:3, 8:20, 26:42] = True
    return found


def image() -> np.ndarray:
    grey = np.full(SHAPE, 40) + np.random.default_rng(0).normal(0, 3, SHAPE)
    for name, mask in masks().items():
        grey[mask] += GREY[name] - 40
    return grey.astype(np.int16)


def painted(values: dict[str, int]) -> np.ndarray:
    """The two organs with these values (K, J, I)."""
    return sum((mask * values[name] for name, mask in masks().items()), np.zeros(SHAPE, int)).astype(np.uint8)


def data_set(folder: Path, labels: dict[str, Any], array: np.ndarray, write: Callable[..., Any] = write_nifti) -> Path:
    """An nnU-Net raw folder of one case, ``c0``."""
    ending = ".nii.gz" if write is write_nifti else ".nrrd"
    write_nifti(folder / "imagesTr" / "c0_0000.nii.gz", image())
    write(folder / "labelsTr" / f"c0{'.seg' * (ending == '.nrrd')}{ending}", array)
    text = json.dumps({"labels": {"background": 0} | labels, "file_ending": ".nii.gz"})
    (folder / "dataset.json").write_text(text)
    return folder


NUMBERED = ((LEFT, "3"), (RIGHT, "7"))


def write_segments(path: Path, array: np.ndarray, segments: Iterable[tuple[str, str]] = NUMBERED) -> None:
    """A .seg.nrrd as 3D Slicer numbers it on saving: LEFT is 3, RIGHT is 7, whatever dataset.json says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = sitk.GetImageFromArray(array)
    mask.SetSpacing((0.8, 0.9, 3.0))
    for number, (name, value) in enumerate(segments):
        mask.SetMetaData(f"Segment{number}_ID", f"Segment_{number}")
        mask.SetMetaData(f"Segment{number}_Name", name)
        if value:
            mask.SetMetaData(f"Segment{number}_LabelValue", value)
        mask.SetMetaData(f"Segment{number}_Layer", "0")
        mask.SetMetaData(f"Segment{number}_Extent", "0 47 0 39 0 3")
    sitk.WriteImage(mask, str(path))


def members_of(folder: Path, labels: dict[str, int] = USUAL) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Image, memberships of LEFT and RIGHT, and what was said."""
    store = CaseStore(Matcher(list(labels), list(labels.values())), folder / "scratch")
    volume, members = store.load(read_dataset(folder).cases[0])
    return volume.array, members, store.remarks()


def ended(events: Iterable[Event]) -> Any:
    """The result that a job ends with."""
    *_, last = events
    assert isinstance(last, Finished)
    return last.result


# what is on disk -> what is said about it; in all of them both organs are where they were drawn
TABLE: dict[str, tuple[dict[str, Any], np.ndarray, Callable[..., Any], str]] = {
    "usual": (USUAL, painted(USUAL), write_nifti, ""),
    "numbers swapped": ({RIGHT: 1, LEFT: 2}, painted({RIGHT: 1, LEFT: 2}), write_nifti, ""),
    "other numbers": ({RIGHT: 40, LEFT: 4}, painted({RIGHT: 40, LEFT: 4}), write_nifti, ""),
    "values before names, as old data sets have them": (
        {"1": RIGHT, "2": LEFT}, painted({RIGHT: 1, LEFT: 2}), write_nifti, "",
    ),
    "names that differ in case and hyphens": (
        {"Left_Ventricle": 2, "RIGHT-VENTRICLE": 1}, painted({RIGHT: 1, LEFT: 2}), write_nifti,
        "c0: Left_Ventricle is taken for the label left ventricle.",
    ),
    "a segmentation that names its segments": (USUAL, painted({LEFT: 3, RIGHT: 7}), write_segments, ""),
    "a value that is not declared": (
        USUAL, np.where(np.arange(48) > 45, 9, painted(USUAL)).astype(np.uint8), write_nifti,
        "The label maps of c0 have 320 voxels of value 9, which no label is declared for: they count as background.",
    ),
    "a region of two values": (
        {LEFT: [1, 5], RIGHT: 2},
        np.where((painted(USUAL) == 1) & (np.arange(48) > 10), 5, painted(USUAL)).astype(np.uint8), write_nifti, "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_a_label_lies_where_it_was_drawn(tmp_path: Path, case: str) -> None:
    labels, array, write, said = TABLE[case]
    grey, members, remarks = members_of(data_set(tmp_path / "set", labels, array, write))
    for number, (name, mask) in enumerate(masks().items()):
        np.testing.assert_array_equal(has(members, number), mask)
        assert abs(grey[has(members, number)].mean() - GREY[name]) < 1
    assert any(text.startswith(said) for text in remarks) if said else not remarks


def test_voxels_that_nobody_labelled_are_neither_organ_nor_background(tmp_path: Path) -> None:
    array = painted(USUAL)
    array[:, 25:] = 3
    _, members, remarks = members_of(data_set(tmp_path / "set", USUAL | {"ignore": 3}, array))
    np.testing.assert_array_equal(ignored(members), array == 3)
    np.testing.assert_array_equal(has(members, 0), masks()[LEFT])
    assert not remarks


def test_ignored_voxels_do_not_change_a_score(tmp_path: Path) -> None:
    """A prediction that paints where nobody looked is as good as one that does not."""
    drawn = painted(USUAL)
    drawn[:, 25:] = 3
    folder = data_set(tmp_path / "set", USUAL | {"ignore": 3}, drawn)
    for name, rest in (("clean", 0), ("wild", 2)):
        array = painted(USUAL)
        array[:, 25:] = rest
        write_nifti(tmp_path / name / "c0.nii.gz", array)
    data = read_dataset(folder)
    assert list(data.labels.values()) == [LEFT, RIGHT]
    for name in ("clean", "wild"):
        result = ended(evaluate(data.cases, data.labels, tmp_path / f"of {name}", predictions=tmp_path / name))
        assert {score.metrics.dice for score in result.scores if score.protocol == "all"} == {1.0}


@pytest.mark.parametrize("named", ["dataset.json beside them", "segments"])
def test_predictions_under_other_numbers_are_scored_by_name(tmp_path: Path, named: str) -> None:
    """0.000 instead of 1.000, and no word, when the numbers counted."""
    data = read_dataset(data_set(tmp_path / "set", USUAL, painted(USUAL)))
    swapped = {RIGHT: 1, LEFT: 2}
    folder = tmp_path / "predictions"
    if named == "segments":
        write_segments(folder / "c0.seg.nrrd", painted({LEFT: 3, RIGHT: 7}))
    else:
        write_nifti(folder / "c0.nii.gz", painted(swapped))
        (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0} | swapped}))
    scores = ended(evaluate(data.cases, data.labels, tmp_path / "report", predictions=folder)).scores
    assert {(each.label, each.dice) for each in scores if each.protocol == "all"} == {(LEFT, 1.0), (RIGHT, 1.0)}


# ---- the rule -------------------------------------------------------------------------------------------------------


def test_one_rule_says_which_names_are_the_same() -> None:
    known = ["Left Ventricle", "left ventricle", "myocardium"]
    assert find_label("left ventricle", known) == "left ventricle", "the very same one first"
    assert find_label("LEFT_ventricle", known) == "Left Ventricle"
    assert find_label("ventricle", known) is None
    assert find_label("Gefa\u0308\u00df", ["gef\u00e4ss"]) == "gef\u00e4ss", "however its letters are put together"
    assert match(["prostate"], ["gland"]) == {"prostate": "gland"}, "of one label each, they are the same"
    assert match(["prostate", "zone"], ["gland"]) == {}
    assert closest(["left ventrical"], known) == " Is left ventrical meant to be left ventricle?"


def test_a_label_map_with_none_of_the_labels_is_refused_with_what_it_has(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "set", {"left ventrical": 1, "liver": 2}, painted(USUAL))
    with pytest.raises(BadLabels, match=r"it has left ventrical, liver\. Is left ventrical meant to be left ventricle"):
        members_of(folder)


def test_segments_of_one_name_are_one_label_and_impossible_values_are_refused(tmp_path: Path) -> None:
    path, array = tmp_path / "a.seg.nrrd", painted({LEFT: 3, RIGHT: 7})
    write_segments(path, array, [("heart", "3"), ("Heart", "7")])
    assert read_labels(path).names == {"heart": (3, 7)}
    for values in (("0", "7"), ("-3", "7"), ("9" * 5000, "7"), ("", "")):
        write_segments(path, array, zip(USUAL, values, strict=True))
        with pytest.raises(BadLabels, match="damaged header: segment left ventricle"):
            read_labels(path)


def test_a_label_that_is_found_is_not_meant_to_be_another() -> None:
    matcher = Matcher([LEFT, RIGHT], [1, 2])
    matcher.members("c0", LabelMap(painted(USUAL), np.eye(4), names={LEFT: (1,), "rv": (2,)}))
    assert matcher.remarks()[-1] == "c0: there is no label right ventricle; it counts as absent there."


def test_segments_that_overlap_keep_their_own_masks_and_it_is_said() -> None:
    gland, lesion = np.zeros((2, 3, 8, 8), bool)
    gland[:, 1:7, 1:7] = lesion[1, 3:5, 3:5] = True
    overlay = Overlay(gland.shape)
    overlay.paint("lesion", lesion)
    overlay.paint("gland", gland)  # painted over it, which made a lesion inside an organ vanish
    matcher = Matcher(["gland", "lesion"], [1, 2])
    members = matcher.members("c0", LabelMap(overlay.array, np.eye(4), names=overlay.names))
    np.testing.assert_array_equal(has(members, 0), gland)
    np.testing.assert_array_equal(has(members, 1), lesion)
    assert matcher.remarks() == ["gland and lesion overlap in 4 voxels: each is learnt and scored with its own mask."]


# ---- refining -------------------------------------------------------------------------------------------------------


def card(*names: str) -> ModelCard:
    return ModelCard("base", default_labels(dict(enumerate(names, 1))), "lite_medsam")


def test_a_base_goes_on_with_the_label_of_each_decoders_name() -> None:
    """By position the wrong decoder was trained: Dice 0.000, and "ready"."""
    ours = list(default_labels({1: RIGHT, 2: "Left-Ventricle"}))
    ordered = in_base_order(ours, card(LEFT, RIGHT), TrainOptions())
    assert [(label.value, label.name) for label in ordered] == [(2, "Left-Ventricle"), (1, RIGHT)]
    for others in ((LEFT, "liver"), (LEFT,), (LEFT, RIGHT, "liver")):
        with pytest.raises(BadInput, match="Choose a base with the same labels"):
            in_base_order(ours, card(*others), TrainOptions())


def test_refining_on_swapped_numbers_starts_where_the_base_ended(tmp_path: Path) -> None:
    """The loss of the first epoch on the same organs under swapped numbers is that on the same numbers."""
    sets = {
        name: read_dataset(data_set(tmp_path / name, labels, painted(labels)))
        for name, labels in {"same": USUAL, "swapped": {RIGHT: 1, LEFT: 2}}.items()
    }

    def trained(name: str, run: str, **more: Any) -> tuple[Any, float]:
        options = TrainOptions(name=run, mode="box", styles=0, validation_fraction=0, batch_size=4, **more)
        session = Session("cpu", cache=FeatureCache(tmp_path / "cache"), encoder=stand_in_encoder())
        events = list(train(sets[name].cases, sets[name].labels, tmp_path / run, options, session))
        assert not [event.text for event in events if isinstance(event, Log) and event.level == "warning"]
        result = ended(events)
        return result, result.history[0]["loss"]

    base, _ = trained("same", "base", epochs=25)
    refined = {name: trained(name, f"on {name}", epochs=1, base=str(base.best)) for name in sets}
    assert refined["swapped"][1] == pytest.approx(refined["same"][1], rel=1e-3)
    assert [(each.value, each.name) for each in read_card(refined["swapped"][0].best).labels] == [(2, LEFT), (1, RIGHT)]
