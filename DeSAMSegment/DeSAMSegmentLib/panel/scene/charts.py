"""Curves as MRML: a table, its plot series and a chart, shown in the panel and saved with the scene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import slicer
import vtk

from .parameters import Parameters


@dataclass(frozen=True)
class Curve:
    """One line of a chart; ``color`` 0..1."""

    name: str
    color: tuple[float, float, float]


class CurveChart:
    """A growing table drawn as lines.

    Arguments:
      parameters: remembers the nodes, so that they are found again after loading a scene.
      role: names the node references.
      xTitle: of the first column and the horizontal axis.
      curves: one further column each.
      yRange: fixed limits of the vertical axis; None = automatic.
    """

    def __init__(
        self,
        parameters: Parameters,
        role: str,
        xTitle: str,
        curves: list[Curve],
        yRange: tuple[float, float] | None = None,
    ) -> None:
        self._parameters, self._role = parameters, role
        self._xTitle, self._curves, self._yRange = xTitle, curves, yRange
        self._view: Any = None
        self._widget: Any = None

    @property
    def table(self) -> Any:
        """The table node, or None before the first run."""
        return self._parameters.getNode(f"{self._role}Table")

    @property
    def chart(self) -> Any:
        return self._parameters.getNode(f"{self._role}Chart")

    def start(self, title: str) -> None:
        """Empties the chart for a new run, or makes its nodes."""
        if self.table is None or self.chart is None:
            self._createNodes()
        self.table.SetName(title)
        self.chart.SetName(title)
        self.chart.SetTitle(title)
        self.table.GetTable().SetNumberOfRows(0)
        self.table.Modified()
        self.show()

    def append(self, *values: float) -> None:
        """One row: x, then a number per curve (NaN where there is none). ``refresh`` makes the views follow."""
        table = self.table
        if table is None:
            return
        row = table.GetTable().InsertNextBlankRow()
        for column, value in enumerate(values):
            table.GetTable().SetValue(row, column, vtk.vtkVariant(float(value)))

    def refresh(self) -> None:
        if self.table is not None:
            self.table.GetTable().Modified()
            self.table.Modified()
            self.chart.Modified()

    def rows(self) -> list[tuple[float, ...]]:
        """What the table holds."""
        if self.table is None:
            return []
        data = self.table.GetTable()
        columns = range(data.GetNumberOfColumns())
        return [
            tuple(data.GetValue(row, column).ToDouble() for column in columns) for row in range(data.GetNumberOfRows())
        ]

    def place(self, frame: Any) -> None:
        """Puts a plot into a frame of the panel, without the bar of a view; the user's layout is left alone."""
        self._widget = slicer.qMRMLPlotView()
        self._widget.setMRMLScene(slicer.mrmlScene)
        self._widget.setMinimumHeight(180)
        frame.layout().addWidget(self._widget)

    def show(self) -> None:
        """Shows the chart of the current scene, if there is one."""
        if self._widget is None or self.chart is None:
            return
        scene = slicer.mrmlScene
        if self._view is None or not scene.IsNodePresent(self._view):
            self._view = scene.CreateNodeByClass("vtkMRMLPlotViewNode")
            self._view.UnRegister(None)
            self._view.SetName(f"DeSAM {self._role} view")
            self._view.SetLayoutName(f"DeSAM{self._role}")  # this and the next two: no view of Slicer's layout
            self._view.SetDoPropagatePlotChartSelection(False)
            self._view.SetAndObserveParentLayoutNodeID(self._parameters.node.GetID())
            scene.AddNode(self._view)
            self._view.SetHideFromEditors(True)
            self._view.SetSaveWithScene(False)
            self._view.SetInteractionMode(slicer.vtkMRMLPlotViewNode.InteractionModeSelectPoints)
            self._widget.setMRMLPlotViewNode(self._view)
        self._view.SetPlotChartNodeID(self.chart.GetID())
        self.refresh()
        self._widget.fitToContent()

    def onPointClicked(self, slot: Any) -> None:
        """Calls ``slot(row)`` when a point of a curve is clicked."""

        def selected(seriesIDs: Any, selections: Any) -> None:
            if selections.GetNumberOfItems() and selections.GetItemAsObject(0).GetNumberOfValues():
                slot(int(selections.GetItemAsObject(0).GetValue(0)))

        self._widget.connect("dataSelected(vtkStringArray*,vtkCollection*)", selected)

    def _createNodes(self) -> None:
        scene = slicer.mrmlScene
        table = scene.AddNewNodeByClass("vtkMRMLTableNode", f"DeSAM {self._role}")
        for name in (self._xTitle, *(curve.name for curve in self._curves)):
            column = vtk.vtkDoubleArray()
            column.SetName(name)
            table.AddColumn(column)
        chart = scene.AddNewNodeByClass("vtkMRMLPlotChartNode", f"DeSAM {self._role}")
        chart.SetXAxisTitle(self._xTitle)
        chart.SetYAxisTitleVisibility(False)
        chart.SetTitleFontSize(12)  # Slicer's 20, 16 and 12 are for a chart of the layout's size
        chart.SetAxisTitleFontSize(11)
        chart.SetAxisLabelFontSize(10)
        chart.SetLegendFontSize(10)
        if self._yRange is not None:
            chart.SetYAxisRangeAuto(False)
            chart.SetYAxisRange(*self._yRange)
        for curve in self._curves:
            chart.AddAndObservePlotSeriesNodeID(self._createSeries(table, curve).GetID())
        self._parameters.setNode(f"{self._role}Table", table)
        self._parameters.setNode(f"{self._role}Chart", chart)

    def _createSeries(self, table: Any, curve: Curve) -> Any:
        series = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", curve.name)
        series.SetAndObserveTableNodeID(table.GetID())
        series.SetXColumnName(self._xTitle)
        series.SetYColumnName(curve.name)
        series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
        series.SetLineStyle(slicer.vtkMRMLPlotSeriesNode.LineStyleSolid)
        series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleCircle)
        series.SetMarkerSize(5)
        series.SetColor(*curve.color)
        return series
