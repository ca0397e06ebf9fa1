"""The Review section: how sure the model is, slice by slice, and the slices that are flagged for review."""

from __future__ import annotations

import time

import qt
import slicer
from slicer.i18n import tr as _

from ...engine.events import LOW_AGREEMENT, LOW_CONFIDENCE, PointScore, SliceDone
from ..kit.section import Section, Services
from ..scene.charts import Curve, CurveChart
from ..scene.geometry import worldFromSliceCentre
from ..scene.gridpoints import GridPoints
from .run import SegmentRun

SHOWN = 12  # slices in the table
INTERVAL = 0.5  # seconds between two refreshes during a run


class ReviewSection(Section):
    """Fed by the Segment section; keeps its table and chart in the scene."""

    uiName = "Review"

    def __init__(self, services: Services) -> None:
        super().__init__(services)
        curves = [Curve("Confidence", (0.12, 0.47, 0.71)), Curve("Agreement", (1.0, 0.5, 0.05))]
        self.chart = CurveChart(services.parameters, "review", "Slice", curves, (0.0, 1.05))
        self.chart.place(self.ui.chartFrame)
        self.chart.onPointClicked(self._onPointClicked)
        self.ui.chartFrame.setVisible(False)
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
        self.refresh()

    def begin(self, run: SegmentRun) -> None:
        """A new run has started."""
        self._points = {}
        self._hidePoints()
        parameters = self.services.parameters
        parameters.setNode("reviewVolume", run.volumeNode)
        parameters.set("reviewModel", run.model.name)
        self.chart.start(_("{volume}: confidence").format(volume=run.volumeNode.GetName()))
        self.ui.chartFrame.setVisible(True)
        self.refresh()

    def add(self, event: SliceDone) -> None:
        """One slice is done."""
        self.services.parameters.set("reviewAxis", event.axis)
        self._points[event.index] = event.points
        self.chart.append(event.index, event.confidence, event.agreement)

    def tick(self) -> None:
        if time.monotonic() - self._refreshed > INTERVAL:
            self.refresh()

    def end(self, run: SegmentRun) -> None:
        self.refresh()

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
        rows = self.ranked()
        for widget in (self.ui.chartFrame, self.ui.reviewTableLabel, self.ui.reviewTable, self.ui.pointsCheckBox):
            widget.setVisible(bool(rows))
        self.chart.refresh()
        table = self.ui.reviewTable
        table.setRowCount(min(SHOWN, len(rows)))
        for number, (index, confidence, agreement, why) in enumerate(rows[:SHOWN]):
            for column, text in enumerate((str(index), f"{confidence:.2f}", f"{agreement:.2f}", why or "-")):
                table.setItem(number, column, qt.QTableWidgetItem(text))
        if rows:
            flagged = sum(1 for row in rows if row[3])
            text = _("{model}: {flagged} of {count} slices are flagged for review.")
            model = self.services.parameters.get("reviewModel")
            self.ui.summaryLabel.setText(text.format(model=model, flagged=flagged, count=len(rows)))
        else:
            self.ui.summaryLabel.setText(_("Segment a volume to see which slices are flagged for review."))

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
