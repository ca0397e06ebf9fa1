"""Training images made from label maps: any contrast and plane, exact ground truth, the ordinary training after it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import write_nifti
from DeSAMSegmentLib.data.cases import Case, read_dataset
from DeSAMSegmentLib.data.labels import LabelMap
from DeSAMSegmentLib.data.slices import ACQUIRED, Slices, SliceSpec
from DeSAMSegmentLib.data.volume import Volume
from DeSAMSegmentLib.engine.events import Finished
from DeSAMSegmentLib.engine.options import TrainOptions
from DeSAMSegmentLib.engine.train import from_labels
from DeSAMSegmentLib.engine.train.train import train
from DeSAMSegmentLib.errors import BadDataset, BadLabels
from typer.testing import CliRunner

SHAPE = (40, 48, 44)
NAMES = {"brain": (2, 1002), "core": (4,)}


def head() -> np.ndarray:
    """Skull 500, brain 2 on one side and 1002 on the other, and a core 4, as nested boxes."""
    array = np.zeros(SHAPE, np.uint16)
    array[4:36, 4:44, 4:40] = 500
    array[8:32, 9:39, 9:35] = 2
    array[8:32, 9:39, 22:35] = 1002
    array[15:25, 18:30, 16:28] = 4
    return array


def label_map() -> LabelMap:
    return LabelMap(head(), np.diag([2.0, 2.0, 2.0, 1.0]), "head", names=NAMES)


def stack(seed: int, cut_out: bool = False) -> tuple[np.ndarray, np.ndarray, Slices]:
    labels = label_map()
    declared = from_labels._declared([2, 1002, 4], labels.array)
    volume, truth = from_labels.make_stack(labels, declared, np.random.default_rng(seed), cut_out)
    return volume.array, truth, Slices(volume, SliceSpec.for_volume(volume))


def made(cases: list[Case], options: TrainOptions) -> list[Case]:
    events = from_labels.stacks(cases, options)
    while True:
        try:
            next(events)
        except StopIteration as end:
            return list(end.value)


def array_of(case: Case) -> np.ndarray:
    assert isinstance(case.image, Volume)
    return case.image.array


def test_a_stack_has_a_slice_across_its_far_apart_axis_and_only_declared_values() -> None:
    axes = set()
    for seed in range(12):
        image, truth, slices = stack(seed)
        assert image.shape == truth.shape
        assert len(slices) == from_labels.SLICES == image.shape[slices.axis]
        assert slices.spec.axis == ACQUIRED
        assert set(np.unique(truth)) <= {0, 2, 1002, 4}
        assert image.min() >= 0
        axes.add(tuple(np.flatnonzero(slices.volume.ijk_to_ras[:3, 2])))
    assert axes == {(0,), (1,), (2,)}  # all three planes


def test_a_cut_out_is_black_where_no_label_is_near() -> None:
    for seed in range(6):
        image, truth, _ = stack(seed, cut_out=True)
        reach = 2 * from_labels.GROWN + 1
        near = np.zeros_like(truth, bool)
        for k, plane in enumerate(truth > 0):
            for row, column in np.argwhere(plane):
                near[k, max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1] = True
        assert not image[~near].any()


def test_contrast_is_random_and_both_sides_are_one_tissue() -> None:
    darker = []
    for seed in range(10):
        values = np.stack([np.full((1, 8, 8), value) for value in (2, 1002, 4, 500)])
        grey = from_labels._painted(values, np.random.default_rng(seed)).mean(axis=(1, 2))
        assert grey[0] == pytest.approx(grey[1], abs=0.06)
        darker.append(grey[2] < grey[0])
    assert 0 < sum(darker) < 10


def test_the_same_seed_makes_the_same_images_and_another_one_others() -> None:
    case = Case("head", label_map(), head(), names=NAMES)
    options = TrainOptions(from_labels=True, stacks=2)
    first, again, other = (made([case], each) for each in (options, options, TrainOptions(stacks=2, seed=1)))
    assert [each.name for each in first] == ["head stack 0", "head stack 1"]
    images = [[array_of(each) for each in cases] for cases in (first, again, other)]
    assert all(np.array_equal(a, b) for a, b in zip(images[0], images[1], strict=True))
    assert not any(np.array_equal(images[0][0], another) for another in (images[0][1], images[2][0]))


def test_an_empty_label_map_is_refused_by_name() -> None:
    case = Case("nothing", label_map(), np.zeros(SHAPE, np.uint8), names=NAMES)
    with pytest.raises(BadLabels, match="nothing is empty"):
        made([case], TrainOptions(from_labels=True, stacks=1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set without images."""
    for number in range(2):
        write_nifti(tmp_path / "heads" / "labelsTr" / f"head_{number}.nii.gz", head(), (2.0, 2.0, 2.0))
    labels = {"background": 0, **{name: list(values) for name, values in NAMES.items()}}
    described = {"labels": labels, "regions_class_order": [1, 2], "file_ending": ".nii.gz"}
    (tmp_path / "heads" / "dataset.json").write_text(json.dumps(described))
    return tmp_path / "heads"


def test_a_data_set_without_images_is_read_where_none_is_needed(folder: Path) -> None:
    with pytest.raises(BadDataset, match="no images"):
        read_dataset(folder)
    data = read_dataset(folder, images=False)
    assert [case.name for case in data.cases] == ["head_0", "head_1"]
    assert data.labels == {1: "brain", 2: "core"}
    (folder / "labelsTr" / "head_0.nii.gz").unlink()
    (folder / "labelsTr" / "head_1.nii.gz").unlink()
    with pytest.raises(BadDataset, match="no label maps"):
        read_dataset(folder, images=False)


def test_a_model_is_trained_without_an_image_and_resumed(folder: Path, tmp_path: Path, quick_encoder: None) -> None:
    data = read_dataset(folder, images=False)
    options = TrainOptions(from_labels=True, stacks=2, mode="box", epochs=1, styles=0, batch_size=4)
    for resume in (False, True):
        events = list(train(data.cases, data.labels, tmp_path / "run", options, resume=resume))
        assert isinstance(events[-1], Finished)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["cases"] == ["head_0", "head_1"]  # the label maps, not the stacks made from them


def test_the_command_line_takes_a_folder_of_label_maps(folder: Path, tmp_path: Path, quick_encoder: None) -> None:
    from desam_cli.app import app

    command = f"train {folder} {tmp_path / 'run'} --from-labels --stacks 2 --mode box --epochs 1 --styles 0 --no-cache"
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 0, done.output
    assert (tmp_path / "run" / "best.desam").is_file()


def test_stacks_of_one_label_map_stay_on_one_side_of_the_split(folder: Path) -> None:
    from DeSAMSegmentLib.data.cases import split

    cases = made(read_dataset(folder, images=False).cases, TrainOptions(from_labels=True, stacks=3))
    training, validation = split(cases, 0.5, 0, from_labels.MAP_PATTERN)
    assert len(training) == len(validation) == 3
    assert len({case.name.split()[0] for case in training}) == 1
