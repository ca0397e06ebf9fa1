"""pytest fixtures: ``from host.fixtures import *`` makes them known to a test module."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import host

slicer = host.start()

from .desk import Desk  # noqa: E402
from .models import writeModel  # noqa: E402


@pytest.fixture(scope="session")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The untrained model's file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DESAM_HOME", str(tmp_path_factory.mktemp("blobs")))
        return writeModel("blobs")


@pytest.fixture(scope="module")
def furnishedHome(tmp_path_factory: pytest.TempPathFactory, blobs: Path) -> Path:
    """A library with one model ("blobs") and a feature cache that fills up, for all tests of a module."""
    folder = tmp_path_factory.mktemp("furnished")
    (folder / "models").mkdir()
    shutil.copy(blobs, folder / "models")
    return folder


@pytest.fixture
def home(own_home: Path, furnishedHome: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Instead of the empty home that every test has: the furnished one."""
    monkeypatch.setenv("DESAM_HOME", str(furnishedHome))
    return furnishedHome


@pytest.fixture
def scene() -> Iterator[Any]:
    """An empty scene; afterwards, nothing may have been raised in a slot."""
    slicer.mrmlScene.Clear(0)
    host.failures.clear()
    yield slicer.mrmlScene
    slicer.mrmlScene.Clear(0)
    assert host.failures == []


@pytest.fixture
def desk(home: Path, scene: Any) -> Iterator[Desk]:
    """The open panel in an empty scene."""
    slicer.app.userSettings().clear()
    opened = Desk()
    yield opened
    opened.close()
    assert not slicer.app.layoutWasTouched


@pytest.fixture
def quickHome(own_home: Path) -> Path:
    """A home with a quick model "blobs" of the label "blob"."""
    writeModel("blobs", ("blob",), isQuick=True)
    return own_home


@pytest.fixture
def quickDesk(quickHome: Path, scene: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """The open panel with a real worker that has the stand-in encoder; the mode is the whole box."""
    worker = str(Path(__file__).parents[1] / "quick_worker.py")
    monkeypatch.setattr("DeSAMSegmentLib.panel.kit.process.WORKER_ARGUMENTS", [worker])
    slicer.app.userSettings().clear()
    opened = Desk()
    opened.segment.modeSelector.setCurrentIndex(2)
    yield opened
    opened.close()


__all__ = ["blobs", "desk", "furnishedHome", "home", "quickDesk", "quickHome", "scene"]
