"""The first click: someone who has just installed DeSAM sees a result without training or importing anything."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest
from host import phantom, sampledata
from host.desk import Desk
from host.fixtures import *  # noqa: F403
from host.fixtures import slicer


@pytest.fixture
def shipped(own_home: Path, blobs: Path, desk: Desk) -> Path:
    """A model in the place of the shipped one for the brain."""
    folder = own_home / "shipped"
    folder.mkdir()
    (folder / "brain-mr.desam").write_bytes(blobs.read_bytes())
    desk.services.registry.changed.emit()
    return folder


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sampledata.state, "online", False)


def test_three_actions_lead_from_the_closed_panel_to_a_result(shipped: Path, desk: Desk) -> None:
    # 1, opening the module, the fixture did
    desk.press(desk.segment.ui.sampleButton)  # 2
    assert "press Apply" in desk.words()
    desk.press(desk.segment.ui.applyButton)  # 3
    desk.waitUntilIdle()
    result = desk.services.parameters.getNode("segmentation")
    assert result.GetName() == "MRHead segmentation"
    assert result.GetSegmentation().GetNumberOfSegments() == 1
    assert slicer.util.getNode("MRHead").IsA("vtkMRMLScalarVolumeNode")


def test_a_sample_that_is_there_already_is_not_loaded_twice(shipped: Path, desk: Desk) -> None:
    mine = phantom.addVolume("MRHead", seed=4)
    desk.press(desk.segment.ui.sampleButton)
    assert desk.services.parameters.getNode("volume") is mine
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 1


def test_without_a_network_the_panel_says_so_and_changes_nothing(shipped: Path, desk: Desk, offline: None) -> None:
    before = desk.services.parameters.get("model")
    desk.press(desk.segment.ui.sampleButton)
    assert "could not download its sample data MRHead" in desk.words()
    assert desk.services.parameters.get("model") == before


def test_without_a_shipped_model_the_button_says_why_it_cannot_be_pressed(desk: Desk) -> None:
    assert not desk.segment.ui.sampleButton.enabled
    assert "No model that comes with DeSAM" in desk.segment.ui.sampleButton.toolTip


def test_the_shipped_models_are_listed_before_any_package_is_installed(
    shipped: Path, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = desk.services.registry

    def missing() -> None:
        raise ImportError("platformdirs")

    monkeypatch.setattr(registry, "_library", missing)
    registry.changed.emit()
    assert [(model.name, model.shipped) for model in registry.models()] == [("brain-mr", True)]
    desk.press(desk.segment.ui.sampleButton)
    assert desk.services.parameters.get("model") == "brain-mr"


def test_the_samples_are_registered_when_slicer_has_started_and_nothing_is_downloaded(desk: Desk) -> None:
    importlib.import_module("DeSAMSegmentLib.panel.segment.sample").register()
    desk.module.file.registerSampleData()  # twice is once
    (source,) = sampledata.registered["DeSAM Segment"]
    assert SimpleNamespace(**source).node == "MRHead"
    assert source["uris"].endswith(source["checksum"].removeprefix("SHA256:"))
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0
