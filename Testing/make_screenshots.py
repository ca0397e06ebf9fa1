"""Pictures of the panel in every state, made in the headless host from a real scene and a real worker.

    python Testing/make_screenshots.py [--model brain.desam] [--output Resources/Screenshots]

The image is the MNI152 T1 template of the nilearn package, cut into slices of 5 mm. Without ``--model``, the model
that is trained for the pictures of the section Fine-tune is used throughout. Everything else happens in a home folder
of its own that is deleted afterwards.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "DeSAMSegment")]
SHOWN = 6  # the slice in the pictures
THICK = 5  # template slices of 1 mm per slice here


def template(tissue: str) -> np.ndarray:
    """(K, J, I) of the template, thick slices."""
    import SimpleITK as sitk

    specification = importlib.util.find_spec("nilearn")
    assert specification is not None
    assert specification.origin is not None
    folder = Path(specification.origin).parent / "datasets" / "data"
    image = sitk.ReadImage(str(folder / f"mni_icbm152_{tissue}_tal_nlin_sym_09a_converted.nii.gz"))
    array = sitk.GetArrayFromImage(image).astype(np.float32)
    return array[: len(array) // THICK * THICK].reshape(-1, THICK, *array.shape[1:]).mean(axis=1)


class Studio:
    """The open panel beside a slice view, and the camera."""

    def __init__(self, folder: Path, look: str) -> None:
        from host.desk import Desk
        from host.viewer import SliceView
        from PySide6.QtWidgets import QHBoxLayout, QScrollArea, QWidget

        self.folder, self.look = folder, look
        self.desk = Desk()
        self.panel = self.desk.module.panel
        self.window = QWidget()
        self.window.setWindowTitle("DeSAM Segment")
        row = QHBoxLayout(self.window)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(4)
        scroll = QScrollArea()
        scroll.setWidget(self.panel)
        scroll.setWidgetResizable(True)
        scroll.setFixedWidth(480)
        row.addWidget(scroll)
        self.view = SliceView()
        row.addWidget(self.view, 1)
        self.window.resize(1240, 860)
        self.window.show()

    def open(self, *names: str) -> None:
        """Opens these sections and collapses the others."""
        for section in self.desk.widget.panel.sections:
            section.widget.collapsed = section.uiName not in names
        self.settle()

    def settle(self, seconds: float = 0.3) -> None:
        import slicer

        until = time.monotonic() + seconds
        while time.monotonic() < until:
            slicer.app.processEvents()
            time.sleep(0.01)

    def shootSection(self, section: Any, name: str) -> None:
        self.settle()
        self._save(section.widget.grab(), name)

    def shootWindow(self, name: str) -> None:
        self.settle()
        self._save(self.window.grab(), name)

    def _save(self, picture: Any, name: str) -> None:
        suffix = "" if self.look == "light" else f"-{self.look}"
        path = self.folder / f"{name}{suffix}.png"
        picture.save(str(path))
        print(path.name, f"{picture.width()} x {picture.height()}", flush=True)


def addScene() -> tuple[Any, Any, Any]:
    """The template as a new volume and, cut into odd and even slices, as two labelled cases."""
    import slicer

    image, white = template("t1").round().astype(np.int16), template("wm") / 255
    labels = (image > 0).astype(np.uint8)
    labels[white > 0.5] = 2
    matrix = np.diag([1.0, 1.0, float(THICK), 1.0])
    matrix[:3, 3] = -image.shape[2] / 2, -image.shape[1] / 2 - 20, -60
    cases = []
    for name, start in (("Site B 01", 4), ("Site B 02", 6)):
        chosen = slice(start, start + 17, 8)
        volume = slicer.util.addVolumeFromArray(image[chosen].copy(), matrix, name)
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{name} labels")
        node.CreateDefaultDisplayNodes()
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        for value, (segment, color) in enumerate((("grey matter", (0.8, 0.5, 0.4)), ("white matter", (1, 1, 0.8))), 1):
            identifier = node.GetSegmentation().AddEmptySegment(segment, segment, color)
            mask = (labels[chosen] == value).astype(np.uint8)
            slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, identifier, volume)
        cases.append((volume, node))
    matrix[2, 2] *= 2
    patient = slicer.util.addVolumeFromArray(image[5:31:2].copy(), matrix, "MNI152 T1")
    return patient, cases[0], cases[1]


def shootFineTune(studio: Studio, cases: list[tuple[Any, Any]], epochs: int) -> None:
    desk, ui = studio.desk, studio.desk.fineTune.ui
    studio.open("FineTune")
    studio.shootSection(desk.fineTune, "fine-tune-empty")
    for volume, segmentation in cases:
        ui.caseVolumeSelector.setCurrentNode(volume)
        ui.caseSegmentationSelector.setCurrentNode(segmentation)
        desk.press(ui.addCaseButton)
    widgets = desk.fineTune.optionWidgets
    widgets["name"].setText("brain site B")
    widgets["mode"].setCurrentIndex(1)
    widgets["epochs"].setValue(epochs or 30)
    studio.shootSection(desk.fineTune, "fine-tune-ready")
    if epochs == 0:
        return
    desk.press(ui.startButton)
    desk.waitUntil(lambda: len(desk.fineTune.chart.rows()) >= epochs - 1)
    studio.shootSection(desk.fineTune, "fine-tune-running")
    desk.waitUntilIdle()
    studio.shootSection(desk.fineTune, "fine-tune-done")


def shootSegment(studio: Studio, patient: Any, model: str) -> None:
    desk = studio.desk
    studio.open("Segment", "Review")
    desk.segment.ui.volumeSelector.setCurrentNode(None)
    desk.services.parameters.setNode("volume", patient)
    desk.segment.ui.outputSelector.setCurrentNode(None)
    desk.chooseModel(model)
    desk.segment.modeSelector.setCurrentIndex(1)
    desk.advanced.options["points"].setValue(7)
    studio.view.show_(patient)
    studio.shootSection(desk.segment, "segment-ready")
    desk.press(desk.segment.ui.applyButton)
    desk.waitUntil(lambda: not desk.services.jobs.busy or (desk.segment.run and desk.segment.run.done >= 6))
    studio.shootSection(desk.segment, "segment-running")
    desk.waitUntilIdle()
    studio.shootSection(desk.segment, "segment-done")
    studio.view.show_(patient, desk.services.parameters.getNode("segmentation"), SHOWN)
    desk.review.jumpToSlice(SHOWN)
    studio.shootSection(desk.review, "review")
    studio.shootWindow("overview")
    desk.review.ui.pointsCheckBox.setChecked(True)
    desk.review.jumpToSlice(SHOWN)
    studio.view.update()
    studio.shootWindow("grid-points")
    desk.review.ui.pointsCheckBox.setChecked(False)


def shootMany(studio: Studio, volumes: list[Any], model: str) -> None:
    """Three volumes of the scene, of which one is broken."""
    import slicer
    from PySide6.QtCore import Qt

    desk = studio.desk
    broken = slicer.util.addVolumeFromArray(np.full((3, 64, 64), 7, np.int16), np.eye(4), "Empty export")
    desk.chooseModel(model)
    studio.open("Segment", "SegmentMany")
    for node in (volumes[0], broken, volumes[1]):
        desk.segmentMany.ui.manySelector.setCheckState(node, Qt.CheckState.Checked)
    desk.press(desk.segmentMany.ui.segmentManyButton)
    desk.waitUntil(lambda: desk.segmentMany.queue is None or desk.segmentMany.queue.items[1].state == "running")
    studio.shootSection(desk.segment, "many-running")
    desk.waitUntil(lambda: desk.segmentMany.queue is None)
    studio.shootSection(desk.segment, "many-done")
    slicer.mrmlScene.RemoveNode(broken)


def shootMeasure(studio: Studio, case: tuple[Any, Any], model: str) -> None:
    """The model against the labels of a case."""
    desk, ui = studio.desk, studio.desk.measure.ui
    desk.chooseModel(model)
    studio.open("Measure")
    ui.measureVolumeSelector.setCurrentNode(case[0])
    ui.groundTruthSelector.setCurrentNode(case[1])
    ui.resultSelector.setCurrentNode(None)
    desk.press(ui.measureButton)
    desk.waitUntil(lambda: desk.measure.run is None)
    studio.shootSection(desk.measure, "measure")


def shootRest(studio: Studio) -> None:
    desk = studio.desk
    studio.open("Models")
    desk.models.ui.modelTable.selectRow(0)
    desk.models.ui.weightsTable.selectRow(3)
    studio.shootSection(desk.models, "models")
    studio.open("Advanced")
    studio.shootSection(desk.advanced, "advanced")


def shootConsent(studio: Studio) -> None:
    """The one question before packages are installed."""
    from DeSAMSegmentLib.panel.kit.installer import Installer
    from PySide6.QtWidgets import QMessageBox

    installer = Installer(studio.desk.services.questions, studio.desk.services.settings, check=lambda package: False)
    box = QMessageBox(studio.window)
    box.setText("DeSAM needs Python packages that are not installed yet.")
    box.setInformativeText(installer.consentText())
    box.addButton("Install", QMessageBox.AcceptRole)
    box.addButton("Cancel", QMessageBox.RejectRole)
    box.show()
    studio.settle()
    studio._save(box.grab(), "consent")
    box.close()


def shoot(arguments: argparse.Namespace, look: str) -> None:
    import host

    slicer = host.start()
    from host import desk

    slicer.mrmlScene.Clear(0)
    host.dress(look)
    desk.PATIENCE = 3600.0
    slicer.app.userSettings().clear()
    studio = Studio(arguments.output, look)
    studio.open("Segment", "Review")
    studio.shootSection(studio.desk.segment, "segment-empty")
    patient, *cases = addScene()
    models = {model.name for model in studio.desk.services.registry.models()}
    name = "brain" if arguments.model else "brain site B"
    if arguments.model and name not in models:
        studio.desk.services.registry.add(arguments.model, name)
    shootFineTune(studio, cases, 0 if name in models else arguments.epochs)  # trained once for all looks
    shootSegment(studio, patient, name)
    shootMany(studio, [volume for volume, _labels in cases], name)
    shootMeasure(studio, cases[1], name)
    shootRest(studio)
    shootConsent(studio)
    studio.window.layout().takeAt(0).widget().takeWidget()
    studio.desk.close()
    studio.window.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a .desam file to segment with")
    parser.add_argument("--output", type=Path, default=HERE.parent / "Resources" / "Screenshots")
    parser.add_argument("--epochs", type=int, default=8, help="of the training shown; 0 leaves it out")
    parser.add_argument("--looks", default="light,dark")
    arguments = parser.parse_args()
    looks = arguments.looks.split(",")
    if len(looks) > 1:  # a process each: in a second scene of one process charts stay white
        for look in looks:
            subprocess.run([sys.executable, *sys.argv, "--looks", look], check=True)
        return
    arguments.output.mkdir(parents=True, exist_ok=True)
    os.environ["DESAM_HOME"] = home = tempfile.mkdtemp(prefix="desam-screenshots-")
    try:
        shoot(arguments, looks[0])
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
