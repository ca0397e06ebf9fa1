"""Whatever object a call at the Python console is given: one sentence that names the argument, never a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import host
import pytest
from DeSAMSegmentLib.errors import DeSAMError
from host import phantom
from host.desk import MODULE
from host.fixtures import *  # noqa: F403
from host.fixtures import slicer

ODD = [None, 5, 2.5, "head", ["head"], ("head", "organ"), {}, object(), Path("head"), print, b"head"]


@pytest.fixture
def logic(home: Path, scene: Any) -> Any:
    return host.loadModule(MODULE).file.DeSAMSegmentLogic()


@pytest.fixture
def nodes() -> dict[str, Any]:
    volume = phantom.addVolume("head", 3, shape=(3, 64, 48))
    made = {"volume": volume, "segmentation": phantom.addSegmentation("organ", 3, volume)}
    for key, kind in (("map", "vtkMRMLLabelMapVolumeNode"), ("transform", "vtkMRMLLinearTransformNode")):
        made[key] = slicer.mrmlScene.AddNewNodeByClass(kind, key)
    return made


def refused(call: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(DeSAMError) as caught:
        call(*arguments, **options)
    return str(caught.value)


def test_a_label_map_where_a_segmentation_is_wanted(logic: Any, nodes: dict[str, Any], tmp_path: Path) -> None:
    pairs = [(nodes["volume"], nodes["map"])]
    words = r"a segmentation node, not map (vtkMRMLLabelMapVolumeNode). In the Data module"
    assert words in refused(logic.fineTune, pairs)
    assert words in refused(logic.evaluate, pairs, "blobs", tmp_path)
    assert words in refused(logic.segment, nodes["volume"], "blobs", segmentationNode=nodes["map"])


def test_a_name_where_a_node_is_wanted(logic: Any, nodes: dict[str, Any]) -> None:
    assert 'slicer.util.getNode("head")' in refused(logic.segment, "head", "blobs")
    assert 'slicer.util.getNode("organ")' in refused(logic.fineTune, [(nodes["volume"], "organ")])


def test_one_pair_is_no_list_of_pairs_and_a_pair_may_be_a_list(logic: Any, nodes: dict[str, Any]) -> None:
    pair = (nodes["volume"], nodes["segmentation"])
    assert "cases takes a list of" in refused(logic.fineTune, pair)
    assert "must be at least" in refused(logic.fineTune, [list(pair)], epochs=-1)


def test_an_unknown_option_is_named_with_the_one_that_was_meant(logic: Any, nodes: dict[str, Any]) -> None:
    assert "Is iou_treshold meant to be iou_threshold?" in refused(
        logic.segment, nodes["volume"], "blobs", iou_treshold=1
    )
    pairs = [(nodes["volume"], nodes["segmentation"])]
    assert "There is no option backbone" in refused(logic.fineTune, pairs, backbone="vit_b")


def test_every_argument_refuses_every_odd_object_in_words(logic: Any, nodes: dict[str, Any], tmp_path: Path) -> None:
    """No job may begin: what is valid by chance is left out, and a value too many is always wrong."""
    volume, pairs = nodes["volume"], [(nodes["volume"], nodes["segmentation"])]
    segment = {"volumeNode": volume, "model": "absent"}
    many = {"volumes": [volume], "model": "absent"}
    tune = {"cases": pairs, "epochs": -1}
    evaluate = {"cases": pairs, "model": "absent", "folder": tmp_path}
    calls = [
        (logic.segment, segment, ("volumeNode", "model", "mode", "points", "segmentationNode", "device", "progress")),
        (logic.segment, segment, ("slice_range", "iou_threshold")),
        (logic.segmentMany, many, ("volumes", "model", "folder", "format", "device", "progress")),
        (logic.fineTune, tune, ("cases", "labels", "base", "name", "mode", "slices", "folder", "device", "progress")),
        (logic.fineTune, tune, ("epochs", "profile", "exclude")),
        (logic.evaluate, evaluate, ("cases", "model", "folder", "labels", "device", "progress")),
    ]
    for call, right, arguments in calls:
        for argument in arguments:
            for odd in [*ODD, nodes["map"], nodes["transform"], [nodes["map"]], [pairs]]:
                if argument != "epochs" or odd != 5:
                    refused(call, **{**right, argument: odd})
