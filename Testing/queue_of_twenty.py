"""Twenty volumes in the panel's queue, three of them broken and one over which the worker is killed: a test looks at
what becomes of them, and ``benchmarks/queue_of_volumes.py`` writes it down.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import slicer
from conftest import write_nifti
from host import phantom, qt
from host.desk import Desk

SHAPE = (2, 48, 40)
KILLED = 7  # the row over which the worker is killed


def addVolumes(count: int) -> list[Any]:
    return [phantom.addVolume(f"volume {seed}", seed, shape=SHAPE) for seed in range(count)]


def addSequence(frames: int, name: str = "cine", browsed: bool = True) -> Any:
    """A volume sequence, played by a browser."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", name)
    node.SetIndexName("time")
    node.SetIndexUnit("s")
    for number in range(frames):
        frame = phantom.addVolume(f"frame {number}", number, shape=SHAPE)
        node.SetDataNodeAtValue(frame, str(number / 2))
        slicer.mrmlScene.RemoveNode(frame)
    if browsed:
        browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", f"{name} browser")
        browser.SetAndObserveMasterSequenceNodeID(node.GetID())
    return node


def breakVolume(node: Any) -> None:
    slicer.util.arrayFromVolume(node)[:] = 7
    slicer.util.arrayFromVolumeModified(node)


def check(desk: Desk, *nodes: Any) -> None:
    for node in nodes:
        desk.segmentMany.ui.manySelector.setCheckState(node, qt.Qt.CheckState.Checked)


def column(desk: Desk, number: int) -> list[str]:
    table = desk.segmentMany.ui.manyTable
    return [table.item(row, number).text() for row in range(table.rowCount)]


def runTwenty(desk: Desk, folder: Path) -> tuple[list[Any], set[int]]:
    """Twelve volumes and three frames of the scene, five files of ``folder / "in"``; the items of the queue when it is
    over, and the processes that worked on it.
    """
    volumes = addVolumes(12)
    cine = addSequence(3)
    for seed in range(5):
        write_nifti(folder / "in" / f"case{seed}.nii.gz", phantom.image(phantom.ellipsoid(SHAPE, seed), seed))
    breakVolume(volumes[3])
    breakVolume(cine.GetNthDataNode(1))
    whole = (folder / "in" / "case2.nii.gz").read_bytes()
    (folder / "in" / "case2.nii.gz").write_bytes(whole[: len(whole) // 2])
    check(desk, *volumes, cine)
    many = desk.segmentMany
    many.ui.manyFolderEdit.setCurrentPath(str(folder / "in"))
    assert many.ui.segmentManyButton.toolTip == "Choose the folder to write to."
    many.ui.manyOutputEdit.setCurrentPath(str(folder / "out"))
    workers: set[int] = set()
    killed: list[int] = []

    def look() -> None:
        if desk.workerPid():
            workers.add(desk.workerPid())
        isThere = many.queue is not None and column(desk, 1)[KILLED] == "running" and many.queue.run.done == 1
        if isThere and not killed:
            killed.append(desk.workerPid())
            os.kill(desk.workerPid(), signal.SIGKILL)

    timer = qt.QTimer()
    timer.setInterval(1)
    timer.connect("timeout()", look)
    timer.start()
    desk.press(many.ui.segmentManyButton)
    items = many.queue.items
    desk.waitUntil(lambda: many.queue is None)
    timer.stop()
    assert killed
    return items, workers
