"""The row under the table of training cases: volume, segmentation, segment, and the buttons that add and remove."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer

from ..errors import DeSAMError
from .cases import SceneCase, readFolder
from .casetable import CaseTable
from .i18n import _
from .section import Services
from .segments import segmentNames


class CaseAdder:
    """Arguments:
    ui: the widgets of the section Fine-tune. table: where cases go.
    changed: called after anything changed. say: shows a sentence to the user.
    """

    def __init__(
        self, ui: Any, table: CaseTable, services: Services, changed: Callable[[], None], say: Callable[[str], None]
    ) -> None:
        self._ui, self._table, self._services = ui, table, services
        self._changed, self._say = changed, say
        for selector in (ui.caseVolumeSelector, ui.caseSegmentationSelector):
            selector.setMRMLScene(slicer.mrmlScene)
        ui.caseSlicesSelector.addItem(_("All slices"), "all")
        ui.caseSlicesSelector.addItem(_("Labelled slices only"), "labelled")
        ui.caseSegmentationSelector.connect("currentNodeChanged(vtkMRMLNode*)", lambda *_: self.fillSegments())
        ui.caseVolumeSelector.connect("currentNodeChanged(vtkMRMLNode*)", lambda *_: changed())
        ui.addCaseButton.connect("clicked()", self.onAddCase)
        ui.addFolderButton.connect("clicked()", self.onAddFolder)
        ui.removeCaseButton.connect("clicked()", self.onRemove)

    def fillSegments(self) -> None:
        """The segments of the chosen segmentation, as they are now; what was chosen stays chosen."""
        selector = self._ui.caseSegmentSelector
        chosen = selector.itemData(selector.currentIndex)
        node = self._ui.caseSegmentationSelector.currentNode()
        names = list(segmentNames(node).values()) if node is not None else []
        selector.clear()
        if len(names) != 1:
            selector.addItem(_("All segments"), "")
        for name in names:
            selector.addItem(name, name)
        selector.setCurrentIndex(max(0, selector.findData(chosen or "")))
        self._changed()

    def problem(self) -> str:
        """Why there is nothing to add; empty when there is."""
        nodes = (self._ui.caseVolumeSelector.currentNode(), self._ui.caseSegmentationSelector.currentNode())
        return "" if all(nodes) else _("Load a volume and its segmentation first.")

    def onAddCase(self) -> None:
        """Adds the chosen volume and segmentation."""
        ui = self._ui
        volume, segmentation = ui.caseVolumeSelector.currentNode(), ui.caseSegmentationSelector.currentNode()
        segment = ui.caseSegmentSelector.itemData(ui.caseSegmentSelector.currentIndex) or ""
        slices = ui.caseSlicesSelector.itemData(ui.caseSlicesSelector.currentIndex)
        case = SceneCase(volume, segmentation, segment, slices)
        problem = case.problem()
        if problem:
            self._say(problem)
        else:
            self._table.add([case])
        self._changed()

    def onAddFolder(self) -> None:
        """Adds the cases of a data set folder."""
        folder = self._services.questions.folder(_("Data set folder (imagesTr, labelsTr, dataset.json)"))
        if folder is not None:
            try:
                self._table.add(readFolder(folder))
            except (DeSAMError, ImportError) as error:
                self._say(str(error))
        self._changed()

    def onRemove(self) -> None:
        self._table.removeSelected()
        self._changed()
