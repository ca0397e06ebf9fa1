"""The Measure section: how good a result or a model is, where the ground truth is known."""

from __future__ import annotations

import shutil
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ...engine.evaluate.report import number
from ...errors import DeSAMError
from ...jobs.client import JobEnd
from ..kit.remedies import inWords
from ..kit.section import Section, Services
from ..models.registry import RegisteredModel
from ..segment.section import SegmentSection
from ..train.case_table import CaseList
from ..train.cases import AnyCase, SceneCase, uniqueNames
from .run import MEASURES, CompareRun, MeasureRun, ResultRun

PICTURE = 420  # pixels: the width of the panel


class MeasureSection(Section):
    """Measures with the model and the options of the Segment section."""

    uiName = "Measure"

    def __init__(self, services: Services, segment: SegmentSection) -> None:
        super().__init__(services)
        self.run: MeasureRun | None = None
        self.last: MeasureRun | None = None  # whose rows are shown
        self._segment, self._cases = segment, CaseList(services.parameters)
        ui = self.ui
        for selector, role in (
            (ui.measureVolumeSelector, "measureVolume"),
            (ui.groundTruthSelector, "measureGroundTruth"),
            (ui.resultSelector, "measureResult"),
        ):
            selector.setMRMLScene(slicer.mrmlScene)
            services.binder.bindNode(selector, role)
        header = ui.measureTable.horizontalHeader()
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        ui.measureTable.verticalHeader().setVisible(False)
        ui.measureTable.verticalHeader().setDefaultSectionSize(22)
        ui.measureButton.connect("clicked()", self.onMeasure)
        ui.compareButton.connect("clicked()", self.onCompare)
        ui.saveTableButton.connect("clicked()", self.onSaveTable)
        ui.openReportButton.connect("clicked()", self.onOpenReport)
        services.parameters.changed.connect(lambda name: self.refresh())
        services.registry.changed.connect(self.refresh)
        services.jobs.stateChanged.connect(self.refresh)
        self._show(None)

    # ---- what can be measured -------------------------------------------------------------------------------------

    def canMeasure(self) -> tuple[bool, str]:
        """Whether Measure would start, and if not, why."""
        return self.canBegin(self._problem)

    def _problem(self) -> str:
        case, result = self._case(), self.services.parameters.getNode("measureResult")
        problem = case.validate() if case.segmentationNode else _("Choose the ground truth: a segmentation.")
        if not problem and result is None:
            problem = self._segment.modelProblem() or self._segment.options().is_valid()[1]
        elif not problem:
            problem = SceneCase(case.volumeNode, result).validate()
        if not problem and result is case.segmentationNode:
            return _("Ground truth and result are the same segmentation.")
        return problem

    def canCompare(self) -> tuple[bool, str]:
        """Whether the chosen model can be compared with its base, and if not, why."""
        problem = self.busy() or self._segment.modelProblem()
        if not problem:
            model = self._segment.chosenModel()
            assert model is not None
            training = model.card.training
            if self._base(model) is None:
                base = training.get("base")
                gone = _("The model {base}, which it was fine-tuned from, is not in the list any more.")
                problem = gone.format(base=base) if base else _("The chosen model was not fine-tuned from another one.")
            elif not training.get("held_out"):
                problem = _("Nothing was held out when the chosen model was trained.")
            elif not self._heldOut(model):
                text = _("Its held-out cases ({names}) are not in the table of the Fine-tune section.")
                problem = text.format(names=", ".join(training["held_out"]))
        return not problem, problem

    def _case(self) -> SceneCase:
        parameters = self.services.parameters
        return SceneCase(parameters.getNode("measureVolume"), parameters.getNode("measureGroundTruth"))

    def _base(self, model: RegisteredModel) -> RegisteredModel | None:
        found = self.services.registry.find(model.card.training.get("base", ""))
        return found if found is not None and found.card is not None else None

    def _heldOut(self, model: RegisteredModel) -> list[AnyCase]:
        """Cases of the Fine-tune section of which something was held out when the model was trained."""
        cases = self._cases.read()
        held = model.card.training.get("held_out", {})
        return [case for name, case in zip(uniqueNames(cases), cases, strict=True) if name in held]

    # ---- measuring ------------------------------------------------------------------------------------------------

    def onMeasure(self) -> None:
        """Starts, or cancels while a measurement of ours is going on."""
        if self.isCancelled() or not self.services.installer.ensure():
            return
        isPossible, reason = self.canMeasure()
        if not isPossible:
            self.ui.measureStatusLabel.setText(reason)
            return
        case = self._case()
        result = self.services.parameters.getNode("measureResult") or self._segment.chosenModel()
        self._start(ResultRun(case, result, self._folder(case.title), *self._settings()))

    def onCompare(self) -> None:
        """The chosen model and its base, on what was held out."""
        if self.isCancelled() or not self.canCompare()[0]:
            return
        model = self._segment.chosenModel()
        assert model is not None
        base = self._base(model)
        assert base is not None
        folder = self._folder(f"{model.name} and its base")
        self._start(CompareRun(self._heldOut(model), (model, base), folder, *self._settings()))

    def _settings(self) -> tuple[Any, str]:
        return self._segment.options(), self.services.settings.get("device")

    def _folder(self, name: str) -> Any:
        folder = self.services.registry.runFolder(name, "reports")
        shutil.rmtree(folder, ignore_errors=True)
        return folder

    def _start(self, run: MeasureRun) -> None:
        self.run = run
        self._show(None)
        self.ui.measureStatusLabel.setText(_("Preparing the cases..."))
        self.services.jobs.run(run.job(self._onTick, self._onEnd))

    def _onTick(self) -> None:
        if self.run is not None and self.run.step:
            self.ui.measureStatusLabel.setText(self.run.step)

    def _onEnd(self, end: JobEnd) -> None:
        run, self.run = self.run, None
        if run is None:
            return
        verdict = run.verdict() if isinstance(run, CompareRun) and end.how == "finished" else ""
        self.ui.measureStatusLabel.setText("\n".join(filter(None, [verdict, run.endText(end)])))
        self._show(run)

    def onSaveTable(self) -> None:
        path = self.last and self.services.questions.saveFile(
            _("Save the table"), f"{self.last.folder.name}.csv", _("Tables (*.csv)")
        )
        if self.last is not None and path:
            try:
                self.last.saveTable(path)
                self.ui.measureStatusLabel.setText(_("Saved: {path}").format(path=path))
            except (DeSAMError, OSError) as error:
                self.ui.measureStatusLabel.setText(inWords(error))

    def onOpenReport(self) -> None:
        """The folder with the report and its pictures."""
        if self.last is not None:
            qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self.last.folder)))

    # ---- what is shown --------------------------------------------------------------------------------------------

    def _show(self, run: MeasureRun | None) -> None:
        """The rows and the first picture of a measurement; None hides those of the last one."""
        ui, rows = self.ui, run.rows if run is not None else []
        self.last = run if rows else None
        ui.measureTable.setRowCount(len(rows))
        for row, (label, name, values) in enumerate(rows):
            cells = [number(values.get(measure)) for measure in MEASURES]
            for column, text in enumerate((label, name, *cells)):
                ui.measureTable.setItem(row, column, qt.QTableWidgetItem(text))
        ui.measureTable.setColumnHidden(1, run is None or len(run.names) == 1)
        pictures = run.pictures() if run is not None and rows else []
        if pictures:
            picture = qt.QPixmap(str(pictures[0]))
            ui.pictureLabel.setPixmap(picture.scaledToWidth(PICTURE, qt.Qt.SmoothTransformation))
        for widget in (ui.measureTable, ui.saveTableButton, ui.openReportButton):
            widget.setVisible(bool(rows))
        ui.pictureLabel.setVisible(bool(pictures))
        self.refresh()

    def refresh(self) -> None:
        ui = self.ui
        tip = _("Compare the result, or what the model finds, with the ground truth.")
        reason = self.canMeasure()[1]
        ui.measureButton.setText(_("&Measure"))
        if self.run is not None:
            isCancelling = self.services.jobs.cancelling
            ui.measureButton.setText(_("Cancelling...") if isCancelling else _("Cancel"))
            reason, tip = "", _("Stop measuring.")
        self.setEnabledWithReason(ui.measureButton, reason, tip)
        tip = _("Measure the model chosen in the Segment section, and the one that it was fine-tuned from, on the "
                "cases or slices that were held out from its training.")  # fmt: skip
        self.setEnabledWithReason(ui.compareButton, self.canCompare()[1], tip)
