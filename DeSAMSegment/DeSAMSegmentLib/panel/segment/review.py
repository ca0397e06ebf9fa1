"""The Review section: how sure the model is slice by slice, what the user corrects, and learning from it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ...engine.events import LOW_AGREEMENT, LOW_CONFIDENCE, PointScore, SliceDone
from ...errors import DeSAMError
from ..kit.remedies import inWords
from ..kit.section import Section, Services
from ..kit.signal import Signal
from ..models.registry import RegisteredModel
from ..scene.charts import Curve, CurveChart
from ..scene.geometry import viewedSlice, worldFromSliceCentre
from ..scene.gridpoints import GridPoints
from ..train.case_table import CaseList
from ..train.cases import CorrectedCase
from ..train.corrections import CUT, learningRun, replayable
from .reviewed import PREDICTED, Reviewed
from .run import SegmentRun

SHOWN = 12  # slices in the table during a run
INTERVAL = 0.5  # seconds between two refreshes during a run


class ReviewSection(Section):
    """Fed by the Segment section; keeps its table and chart in the scene, and in memory what was corrected.

    Signals: ``restWanted(result)``, ``learnWanted(run)``, ``modelWanted(name)``.
    """

    uiName = "Review"

    def __init__(self, services: Services) -> None:
        super().__init__(services)
        curves = [Curve("Confidence", (0.12, 0.47, 0.71)), Curve("Agreement", (1.0, 0.5, 0.05))]
        self.chart = CurveChart(services.parameters, "review", "Slice", curves, (0.0, 1.05))
        self.chart.place(self.ui.chartFrame)
        self.chart.onPointClicked(self._onPointClicked)
        self.ui.chartFrame.setVisible(False)
        self.restWanted, self.learnWanted, self.modelWanted = Signal(), Signal(), Signal()
        self.results: list[Reviewed] = []  # of the scene
        self.current: Reviewed | None = None  # None during a run
        self._points: dict[int, tuple[PointScore, ...]] = {}
        self._markups = GridPoints()
        self._shownSlice: int | None = None
        self._refreshed = 0.0
        services.binder.bind("check", self.ui.pointsCheckBox, "showPoints")
        services.parameters.changed.connect(self._onParameter)
        header = self.ui.reviewTable.horizontalHeader()
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setStretchLastSection(True)
        self.ui.reviewTable.verticalHeader().setVisible(False)
        self.ui.reviewTable.verticalHeader().setDefaultSectionSize(22)
        self.ui.reviewTable.connect("cellClicked(int,int)", lambda row, column: self._onRow(row))
        self.ui.reviewTable.connect("cellActivated(int,int)", lambda row, column: self._onRow(row))
        for name, slot in (("edit", self.onEdit), ("next", self.onNext), ("accept", self.onAccept),
                           ("nothing", self.onNothing), ("learn", self.onLearn), ("rest", self.onRest),
                           ("back", self.onBack)):  # fmt: skip
            getattr(self.ui, f"{name}Button").connect("clicked()", slot)
        self.ui.resultSelector.connect("activated(int)", lambda number: self._show(self.results[number]))
        services.jobs.stateChanged.connect(self.refreshButtons)
        services.registry.changed.connect(self.refreshButtons)
        self.refresh()

    def enter(self) -> None:
        """The user comes back, perhaps from the Segment Editor."""
        self.refresh()
        if self.current is not None:
            self.current.compare()
            self.refresh()

    def begin(self, run: SegmentRun) -> None:
        """A new run has started."""
        self.current, self._points = None, {}
        self.say("")
        self._startChart(run.volumeNode, run.model)
        self.refresh()

    def _startChart(self, volumeNode: Any, model: RegisteredModel) -> None:
        self._hidePoints()
        self.services.parameters.setNode("reviewVolume", volumeNode)
        self.services.parameters.set("reviewModel", model.name)
        self.chart.start(_("{volume}: confidence").format(volume=volumeNode.GetName()))
        self.ui.chartFrame.setVisible(True)

    def add(self, event: SliceDone) -> None:
        """One slice is done."""
        self.services.parameters.set("reviewAxis", event.axis)
        self._points[event.index] = event.points
        self.chart.append(event.index, event.confidence, event.agreement)

    def tick(self) -> None:
        if time.monotonic() - self._refreshed > INTERVAL:
            self.refresh()

    def end(self, run: SegmentRun) -> None:
        rows = {int(row[0]): (row[1], row[2]) for row in self.chart.rows()}
        if run.writer is not None and run.writer.segmentationNode is not None and rows:
            axis = self.services.parameters.get("reviewAxis")
            if run.rest is not None and run.rest.exists and run.rest.axis == axis:
                self.current = run.rest
                self.current.renewed(run, rows, self._points)
            else:
                self.current = Reviewed(run, axis, rows, self._points)
                self.results.append(self.current)
        self.refresh()

    def _show(self, result: Reviewed) -> None:
        """Another result than the last one."""
        self.current, self._points = result, result.points
        self.services.parameters.set("reviewAxis", result.axis)
        self._startChart(result.volumeNode, result.model)
        for index, row in result.rows.items():
            self.chart.append(index, *row)
        self.enter()

    def ranked(self) -> list[tuple[int, float, float, str]]:
        """(slice, confidence, agreement, why it is flagged), flagged ones first."""
        rows = [(int(row[0]), row[1], row[2], self._why(row[1], row[2])) for row in self.chart.rows()]
        return sorted(rows, key=lambda row: (not row[3], min(row[1], row[2])))

    @staticmethod
    def _why(confidence: float, agreement: float) -> str:
        reasons = [_("low confidence")] if confidence < LOW_CONFIDENCE else []
        reasons += [_("points disagree")] if agreement < LOW_AGREEMENT else []
        return ", ".join(reasons)

    def refresh(self) -> None:
        self._refreshed = time.monotonic()
        self.results = [each for each in self.results if each.exists]
        self.current = self.current if self.current in self.results else None
        rows = self.ranked()
        states = self.current.states if self.current is not None else {}
        count = len(rows) if states else min(SHOWN, len(rows))
        for widget in (self.ui.chartFrame, self.ui.reviewTableLabel, self.ui.reviewTable, self.ui.pointsCheckBox):
            widget.setVisible(bool(rows))
        self.chart.refresh()
        table = self.ui.reviewTable
        table.setRowCount(count)
        for number, (index, confidence, agreement, why) in enumerate(rows[:count]):
            state = stateWords(states.get(index, PREDICTED))
            for column, text in enumerate((str(index), f"{confidence:.2f}", f"{agreement:.2f}", state, why or "-")):
                table.setItem(number, column, qt.QTableWidgetItem(text))
        if rows:
            flagged = sum(1 for row in rows if row[3])
            text = _("{model}: {flagged} of {count} slices are flagged for review.")
            model = self.services.parameters.get("reviewModel")
            self.ui.summaryLabel.setText(text.format(model=model, flagged=flagged, count=len(rows)))
        else:
            self.ui.summaryLabel.setText(_("Segment a volume to see which slices are flagged for review."))
        self._fillResults()
        self.refreshButtons()

    def _fillResults(self) -> None:
        selector = self.ui.resultSelector
        selector.clear()
        for each in self.results:
            names = each.volumeNode.GetName(), each.segmentationNode.GetName()
            selector.addItem(_("{volume}: {segmentation}").format(volume=names[0], segmentation=names[1]))
        selector.setCurrentIndex(self.results.index(self.current) if self.current is not None else -1)
        selector.setVisible(len(self.results) > 1 and self.current is not None)

    def refreshButtons(self) -> None:
        ui, base = self.ui, self._earlierVersion()
        ui.correctFrame.setVisible(self.current is not None)
        ui.learnFrame.setVisible(bool(self.results))
        tip = _("Makes a new version of the chosen model from the edited and accepted slices of all results.")
        self.setEnabledWithReason(ui.learnButton, self._learnProblem(), tip)
        tip = _("Segments the volume again; slices that you edited or accepted keep their voxels.")
        self.setEnabledWithReason(ui.restButton, self._restProblem(), tip)
        ui.backButton.setVisible(bool(base))
        ui.backButton.setText(_("Back to {name}").format(name=base))

    def say(self, text: str) -> None:
        """What the learning says."""
        self.ui.learnLabel.setText(text)
        self.ui.learnLabel.setVisible(bool(text))

    # ---- correcting -----------------------------------------------------------------------------------------------

    def onEdit(self) -> None:
        """Opens the Segment Editor on the result."""
        if self.current is None:
            return
        slicer.util.selectModule("SegmentEditor")
        editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
        editor.setSegmentationNode(self.current.segmentationNode)
        editor.setSourceVolumeNode(self.current.volumeNode)
        editor.setCurrentSegmentID(next(iter(self.current.segmentIDs.values())))

    def onNext(self) -> None:
        """The next slice that nobody looked at yet, flagged ones first, round and round."""
        if self.current is None:
            return
        ranked = self.ranked()
        order = [row[0] for row in ranked]
        start = order.index(self._shownSlice) + 1 if self._shownSlice in order else 0
        waiting = [i for i in order[start:] + order[:start] if self.current.states.get(i) == PREDICTED]
        flagged = {row[0] for row in ranked if row[3]}
        following = next((i for i in waiting if i in flagged), waiting[0] if waiting else None)
        if following is not None:
            self.ui.reviewTable.selectRow(order.index(following))
            self.jumpToSlice(following)

    def onAccept(self) -> None:
        """The slice in view is right, as it is now."""
        self._mark(Reviewed.accept)

    def onNothing(self) -> None:
        """Nothing is in the slice in view: the result is emptied there."""
        self._mark(Reviewed.clear)

    def _mark(self, how: Callable[[Reviewed, int], None]) -> None:
        if self.current is None:
            return
        index = viewedSlice(self.current.volumeNode, self.current.axis)
        index = self._shownSlice if index is None else index
        if index in self.current.rows:
            how(self.current, index)
            self.refresh()
            self.onNext()

    # ---- learning -------------------------------------------------------------------------------------------------

    def _chosenModel(self) -> RegisteredModel | None:
        model = self.services.registry.find(self.services.parameters.get("model"))
        return model if model is not None and model.card is not None else None

    def _fits(self, result: Reviewed) -> bool:
        """Whether the chosen model finds what this result consists of."""
        model = self._chosenModel()
        return model is not None and _labels(model) == _labels(result.model)

    def _learnProblem(self) -> str:
        problem = self.busy()
        if not problem and self._chosenModel() is None:
            return _("Choose a model.")
        if not problem and not any(each.marked() for each in self.results if self._fits(each)):
            return _("Edit or accept some slices of a result of this model first.")
        return problem

    def _restProblem(self) -> str:
        problem = self.busy()
        if not problem and (self.current is None or not self._fits(self.current)):
            return _("Choose a model that finds what this result consists of.")
        return problem

    def onLearn(self) -> None:
        """Starts the training; the new version appears in the list."""
        model, parameters = self._chosenModel(), self.services.parameters
        assert model is not None
        cases = [
            CorrectedCase(each.volumeNode, each.segmentationNode, labels=each.labels(), axis=each.axis,
                          positions=tuple(each.corrected()))
            for each in self.results if self._fits(each)
        ]  # fmt: skip
        cases = [case for case in cases if case.positions]
        replay = replayable(model, CaseList(parameters).read())
        cut = {name: parameters.get(f"segment.{name}") for name in CUT}
        try:
            device = self.services.settings.get("device")
            run = learningRun(self.services.registry, model, cases, replay, device, **cut)
        except DeSAMError as error:
            self.say(inWords(error))
            return
        self.learnWanted.emit(run)

    def onRest(self) -> None:
        """Segments what nobody edited or accepted again."""
        self.restWanted.emit(self.current)

    def _earlierVersion(self) -> str:
        """The model that the chosen one was made from by learning, if it is still there."""
        model = self._chosenModel()
        base = str(model.card.training.get("base", "")) if model is not None else ""
        return base if base and self.services.registry.find(base) is not None else ""

    def onBack(self) -> None:
        """Chooses the version before."""
        self.modelWanted.emit(self._earlierVersion())

    # ---- jumping --------------------------------------------------------------------------------------------------

    def jumpToSlice(self, index: int) -> None:
        """Moves the slice views to a slice of the reviewed volume, and shows its points if wanted."""
        volume = self.services.parameters.getNode("reviewVolume")
        if volume is None or volume.GetImageData() is None:
            return
        axis = self.services.parameters.get("reviewAxis")
        mode = slicer.vtkMRMLSliceNode.OffsetJumpSlice
        slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *worldFromSliceCentre(volume, axis, index), mode)
        self._shownSlice = index
        self._showPoints()

    def _onRow(self, row: int) -> None:
        self.jumpToSlice(int(self.ui.reviewTable.item(row, 0).text()))

    def _onPointClicked(self, row: int) -> None:
        rows = self.chart.rows()
        if row < len(rows):
            self.jumpToSlice(int(rows[row][0]))

    def _showPoints(self) -> None:
        volume = self.services.parameters.getNode("reviewVolume")
        points = self._points.get(self._shownSlice if self._shownSlice is not None else -1, ())
        if self.services.parameters.get("showPoints") and points and volume is not None:
            axis = self.services.parameters.get("reviewAxis")
            self._markups.show(volume, axis, int(self._shownSlice or 0), points)
        else:
            self._markups.hide()

    def _hidePoints(self) -> None:
        self._shownSlice = None
        self._markups.hide()

    def _onParameter(self, name: str) -> None:
        if name == "":
            self._points = {}
            self._hidePoints()
            self.chart.show()
            self.refresh()
        elif name == "showPoints":
            self._showPoints()
        elif name == "model":
            self.refreshButtons()


def stateWords(state: str) -> str:
    return {"predicted": _("predicted"), "edited": _("edited"), "accepted": _("accepted")}[state]


def _labels(model: RegisteredModel) -> set[tuple[int, str]]:
    return {(label.value, label.name) for label in model.card.labels}
