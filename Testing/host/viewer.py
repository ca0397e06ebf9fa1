"""A plain slice viewer for pictures: one volume with its segments and points, drawn from the scene with Qt.

Not Slicer's views: it only knows axis-aligned volumes. It makes visible what the scene holds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFont, QImage, QPainter, QPen
from PySide6.QtWidgets import QWidget

BARS = {0: ("R", "#f34a33"), 1: ("G", "#6eb04b"), 2: ("Y", "#edd54c")}  # Slicer's colours of axial, coronal, sagittal


class SliceView(QWidget):
    """Shows one slice along an array axis (0 axial, 1 coronal, 2 sagittal) with segments filled and outlined."""

    def __init__(self, axis: int = 0) -> None:
        super().__init__()
        self.axis, self.index = axis, 0
        self.volume: Any = None
        self.segmentation: Any = None
        self.setMinimumSize(200, 200)

    def show_(self, volume: Any, segmentation: Any = None, index: int | None = None) -> None:
        self.volume, self.segmentation = volume, segmentation
        shape = slicer.util.arrayFromVolume(volume).shape
        self.index = shape[self.axis] // 2 if index is None else index
        self.update()

    def _picture(self) -> np.ndarray:
        """(rows, columns, 3) uint8, superior or anterior up, patient's right on the left."""
        array = slicer.util.arrayFromVolume(self.volume)
        low, high = np.percentile(array, (1, 99.7))
        grey = np.clip((array.take(self.index, self.axis) - low) / max(1e-6, high - low), 0, 1)
        rgb = np.repeat(grey[..., None], 3, axis=2)
        for color, mask in self._masks():
            plane = mask.take(self.index, self.axis) > 0
            edge = plane & ~_eroded(plane)
            rgb[plane] = 0.65 * rgb[plane] + 0.35 * np.array(color)
            rgb[edge] = color
        return np.ascontiguousarray((255 * self._oriented(rgb)).astype(np.uint8))

    def _oriented(self, picture: np.ndarray) -> np.ndarray:
        """Rows from anterior or superior down, columns from the patient's right."""
        return picture[::-1, ::-1] if self._spacing()[2] > 0 else picture[::-1]

    def _spacing(self) -> np.ndarray:
        import vtk

        matrix = vtk.vtkMatrix4x4()
        self.volume.GetIJKToRASMatrix(matrix)
        i = matrix.GetElement(0, 0)
        return np.array([*self.volume.GetSpacing()[:2], i])

    def _masks(self) -> list[tuple[tuple[float, ...], np.ndarray]]:
        if self.segmentation is None:
            return []
        segmentation = self.segmentation.GetSegmentation()
        identifiers = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
        return [
            (
                segmentation.GetSegment(identifier).GetColor(),
                slicer.util.arrayFromSegmentBinaryLabelmap(self.segmentation, identifier, self.volume),
            )
            for identifier in identifiers
        ]

    def paintEvent(self, event: Any) -> None:
        painter = QPainter(self)
        painter.fillRect(self.rect, QColor("black"))
        if self.volume is not None:
            self._paintSlice(painter)
        name, color = BARS[self.axis]
        width = self.size.width()
        painter.fillRect(QRectF(0, 0, width, 18), QColor(color))
        painter.setPen(QColor("black"))
        painter.drawText(QRectF(6, 0, width, 18), Qt.AlignVCenter, f"{name}   slice {self.index}")
        painter.end()

    def _paintSlice(self, painter: QPainter) -> None:
        picture = self._picture()
        rows, columns = picture.shape[:2]
        image = QImage(picture.data, columns, rows, 3 * columns, QImage.Format_RGB888)
        spacing = [self.volume.GetSpacing()[2 - axis] for axis in range(3) if axis != self.axis]
        high, wide = rows * spacing[0], columns * spacing[1]
        scale = min((self.size.width() - 20) / wide, (self.size.height() - 38) / high)
        left, top = (self.size.width() - wide * scale) / 2, 18 + (self.size.height() - 18 - high * scale) / 2
        painter.setRenderHint(QPainter.SmoothPixmapTransform)
        painter.drawImage(QRectF(left, top, wide * scale, high * scale), image)
        cell = (wide * scale / columns, high * scale / rows)
        self._paintPoints(painter, left, top, cell, (rows, columns))

    def _paintPoints(self, painter: QPainter, left: float, top: float, cell: tuple[float, float], shape: Any) -> None:
        node = slicer.mrmlScene.GetFirstNodeByName("DeSAM grid points")
        if node is None or self.axis != 0:
            return
        import vtk

        toIJK = vtk.vtkMatrix4x4()
        self.volume.GetRASToIJKMatrix(toIJK)
        painter.setRenderHint(QPainter.Antialiasing)
        painter.setFont(QFont("DejaVu Sans", 8))
        for number in range(node.GetNumberOfControlPoints()):
            i, j, _, _ = toIJK.MultiplyPoint((*node.GetNthControlPointPositionVector(number), 1.0))
            column = shape[1] - 1 - i if self._spacing()[2] > 0 else i
            place = QPointF(left + (column + 0.5) * cell[0], top + (shape[0] - 0.5 - j) * cell[1])
            color = QColor("#3fd03f") if node.GetNthControlPointSelected(number) else QColor("#ff9900")
            painter.setPen(QPen(color, 1))
            painter.setBrush(color)
            painter.drawEllipse(place, 2.5, 2.5)
            painter.drawText(place + QPointF(4, 3), node.GetNthControlPointLabel(number))


def _eroded(mask: np.ndarray) -> np.ndarray:
    inner = mask.copy()
    for axis in (0, 1):
        for shift in (-1, 1):
            inner &= np.roll(mask, shift, axis)
    return inner
