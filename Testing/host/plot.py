"""A stand-in for Slicer's plot view: draws the chart node's series, lets a click select a point."""

from __future__ import annotations

from typing import Any

import slicer
import vtk

from . import qt
from .binding import Qt, Signal


class qMRMLPlotView(qt.QWidget):
    """Draws lines and axes as plainly as Slicer does; ``dataSelected`` gives series and point of a click."""

    SIGNALS = ("dataSelected(vtkStringArray*,vtkCollection*)",)
    dataSelected = Signal(object, object)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._node: Any = None
        self._tag = 0
        self._watched: list[tuple[Any, int]] = []
        self.setMinimumHeight(150)

    def setMRMLPlotViewNode(self, node: Any) -> None:
        """The view node; None lets go of the scene."""
        if self._node is not None:
            self._node.RemoveObserver(self._tag)
        self._node = node
        if node is not None:
            self._tag = node.AddObserver("ModifiedEvent", lambda *_: self._watch())
        self._watch()

    def setMRMLScene(self, scene: Any) -> None:
        if scene is None:
            self.setMRMLPlotViewNode(None)

    def _watch(self) -> None:
        for node, tag in self._watched:
            node.RemoveObserver(tag)
        self._watched = []
        chart = self.chart()
        if chart is not None:
            tables = [series.GetTableNode() for series in self.series()]
            for node in (chart, *filter(None, tables)):
                self._watched.append((node, node.AddObserver("ModifiedEvent", lambda *_: self.update())))
        self.update()

    def chart(self) -> Any:
        return self._node.GetPlotChartNode() if self._node else None

    def series(self) -> list[Any]:
        chart = self.chart()
        every = [chart.GetNthPlotSeriesNode(i) for i in range(chart.GetNumberOfPlotSeriesNodes())] if chart else []
        return [series for series in every if series is not None and series.GetTableNode() is not None]

    def points(self, series: Any) -> list[tuple[float, float]]:
        """The (x, y) of one series as they stand in its table; rows without a number are left out."""
        table = series.GetTableNode().GetTable()
        x, y = table.GetColumnByName(series.GetXColumnName()), table.GetColumnByName(series.GetYColumnName())
        if x is None or y is None:
            return []
        rows = ((x.GetValue(i), y.GetValue(i)) for i in range(table.GetNumberOfRows()))
        return [(a, b) for a, b in rows if a == a and b == b]

    def fitToContent(self) -> None:
        self.update()

    def _limits(self) -> tuple[float, float, float, float]:
        points = [p for series in self.series() for p in self.points(series)] or [(0.0, 0.0), (1.0, 1.0)]
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        x0, x1, y0, y1 = min(xs), max(xs), min(0.0, *ys), max(ys)
        if not self.chart().GetYAxisRangeAuto():
            y0, y1 = self.chart().GetYAxisRange()
        return x0, x1 if x1 > x0 else x0 + 1, y0, y1 if y1 > y0 else y0 + 1

    def _area(self) -> Any:
        return qt.QRectF(52, 26, max(10, self.size.width() - 66), max(10, self.size.height() - 70))

    def _toScreen(self, x: float, y: float) -> Any:
        x0, x1, y0, y1 = self._limits()
        area = self._area()
        return qt.QPointF(
            area.left() + (x - x0) / (x1 - x0) * area.width(), area.bottom() - (y - y0) / (y1 - y0) * area.height()
        )

    def paintEvent(self, event: Any) -> None:
        painter = qt.QPainter(self)
        painter.setRenderHint(qt.QPainter.Antialiasing)
        painter.fillRect(self.rect, qt.QColor("white"))
        if self.chart() is not None:
            self._drawAxes(painter)
            for series in self.series():
                self._drawSeries(painter, series)
            self._drawLegend(painter)
        painter.end()

    def _drawAxes(self, painter: Any) -> None:
        area, chart = self._area(), self.chart()
        x0, x1, y0, y1 = self._limits()
        painter.setPen(qt.QPen(qt.QColor(225, 225, 225), 1))
        for tick in range(5):
            y = area.bottom() - tick / 4 * area.height()
            painter.drawLine(qt.QPointF(area.left(), y), qt.QPointF(area.right(), y))
        painter.setPen(qt.QColor(60, 60, 60))
        painter.drawRect(area)
        for part in (0.0, 0.25, 0.5, 0.75, 1.0):
            toTheLeft = qt.QRectF(0, area.bottom() - part * area.height() - 8, 46, 16)
            painter.drawText(toTheLeft, Qt.AlignRight | Qt.AlignVCenter, f"{y0 + part * (y1 - y0):.2f}")
        step = max(1, round((x1 - x0) / 6))
        for tick in range(round(x0), round(x1) + 1, step):
            x = area.left() + (tick - x0) / (x1 - x0) * area.width()
            painter.drawText(qt.QRectF(x - 25, area.bottom() + 3, 50, 16), Qt.AlignCenter, str(tick))
        below = qt.QRectF(area.left(), area.bottom() + 22, area.width(), 18)
        painter.drawText(below, Qt.AlignRight | Qt.AlignVCenter, chart.GetXAxisTitle() or "")
        painter.drawText(qt.QRectF(area.left(), 4, area.width(), 18), Qt.AlignCenter, chart.GetTitle() or "")

    def _drawSeries(self, painter: Any, series: Any) -> None:
        color = qt.QColor.fromRgbF(*series.GetColor())
        points = [self._toScreen(*p) for p in self.points(series)]
        painter.setPen(qt.QPen(color, series.GetLineWidth() or 2))
        if series.GetLineStyle() != slicer.vtkMRMLPlotSeriesNode.LineStyleNone and len(points) > 1:
            painter.drawPolyline(qt.QPolygonF(points))
        if series.GetMarkerStyle() != slicer.vtkMRMLPlotSeriesNode.MarkerStyleNone:
            painter.setBrush(color)
            for point in points:
                painter.drawEllipse(point, 3, 3)
            painter.setBrush(Qt.NoBrush)

    def _drawLegend(self, painter: Any) -> None:
        x = self._area().left() + 4
        y = self.size.height() - 20
        for series in self.series():
            painter.setPen(qt.QPen(qt.QColor.fromRgbF(*series.GetColor()), 3))
            painter.drawLine(qt.QPointF(x, y + 8), qt.QPointF(x + 16, y + 8))
            painter.setPen(qt.QColor(60, 60, 60))
            width = painter.fontMetrics().horizontalAdvance(series.GetName())
            painter.drawText(qt.QRectF(x + 20, y, width + 4, 16), Qt.AlignLeft | Qt.AlignVCenter, series.GetName())
            x += width + 40

    def mousePressEvent(self, event: Any) -> None:
        """Slicer emits the series' IDs and, for each, the array of point indices."""
        best: tuple[float, Any, int] | None = None
        for series in self.series():
            for index, point in enumerate(self.points(series)):
                distance = (self._toScreen(*point) - qt.QPointF(event.pos())).manhattanLength()
                if best is None or distance < best[0]:
                    best = (distance, series, index)
        if best is not None:
            names, indices, collection = vtk.vtkStringArray(), vtk.vtkIdTypeArray(), vtk.vtkCollection()
            names.InsertNextValue(best[1].GetID())
            indices.InsertNextValue(best[2])
            collection.AddItem(indices)
            self.dataSelected.emit(names, collection)


qt.register(qMRMLPlotView)
