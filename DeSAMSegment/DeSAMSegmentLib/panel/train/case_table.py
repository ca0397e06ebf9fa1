"""The training cases in the panel: their list in the parameter node, the table that shows it, and the row that adds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ...data.cases import Case
from ...engine.options import SLICES
from ...errors import DeSAMError
from ..kit.remedies import inWords
from ..kit.section import Services
from ..scene.parameters import Parameters
from ..scene.segments import segmentNames
from .cases import AnyCase, SceneCase, readFolder, validateCase


class CaseList:
    """Stored with the scene as node references and a little JSON; a case whose nodes are gone disappears from it."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters

    def read(self) -> list[AnyCase]:
        cases: list[AnyCase] = []
        for number, entry in enumerate(self._parameters.get("trainCases")):
            if "image" in entry:
                names = {name: tuple(values) for name, values in entry["names"].items()}
                image, labels = Path(entry["image"]), Path(entry["labels"])
                cases.append(Case(entry["name"], image, labels, entry["domain"], entry["slices"], names))
                continue
            volume = self._parameters.getNode(f"case{number}Volume")
            segmentation = self._parameters.getNode(f"case{number}Segmentation")
            if volume is not None and segmentation is not None:
                cases.append(SceneCase(volume, segmentation, entry["segment"], entry["slices"]))
        return cases

    def write(self, cases: Sequence[AnyCase]) -> None:
        before = len(self._parameters.get("trainCases"))
        entries: list[dict[str, Any]] = []
        for number, case in enumerate(cases):
            nodes = (case.volumeNode, case.segmentationNode) if isinstance(case, SceneCase) else (None, None)
            self._parameters.setNode(f"case{number}Volume", nodes[0])
            self._parameters.setNode(f"case{number}Segmentation", nodes[1])
            entries.append(self._entry(case))
        for number in range(len(cases), before):
            self._parameters.setNode(f"case{number}Volume", None)
            self._parameters.setNode(f"case{number}Segmentation", None)
        self._parameters.set("trainCases", entries)

    @staticmethod
    def _entry(case: AnyCase) -> dict[str, Any]:
        if isinstance(case, SceneCase):
            return {"segment": case.segment, "slices": case.slices}
        return {
            "name": case.name,
            "image": str(case.image),
            "labels": str(case.labels),
            "names": {name: list(values) for name, values in case.names.items()},
            "slices": case.slices,
            "domain": case.domain,
        }


class CaseTable:
    """Shows and edits a CaseList; the last column is a choice per case.

    What a user does to a row is done to the case that row shows, even if the list has lost cases in the meantime.
    """

    def __init__(self, table: Any, cases: CaseList) -> None:
        self._table, self._cases = table, cases
        self._shown: list[AnyCase] = []
        header = table.horizontalHeader()
        header.setSectionResizeMode(qt.QHeaderView.Stretch)
        table.verticalHeader().setVisible(False)

    def add(self, cases: Sequence[AnyCase]) -> None:
        """Appends cases that are not in the table yet."""
        known = self._cases.read()
        self._cases.write([*known, *(case for case in cases if case not in known)])
        self.refresh()

    def removeSelected(self) -> None:
        """Removes the selected rows, or the last one when none is selected."""
        rows = {index.row() for index in self._table.selectionModel().selectedRows()} or {len(self._shown) - 1}
        removed = [case for row, case in enumerate(self._shown) if row in rows]
        self._cases.write([case for case in self._cases.read() if case not in removed])
        self.refresh()

    def refresh(self) -> None:
        self._shown = cases = self._cases.read()
        self._table.setRowCount(len(cases))
        for row, case in enumerate(cases):
            for column, text in enumerate(_columns(case)):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(validateCase(case) or text)
                self._table.setItem(row, column, item)
            self._table.setCellWidget(row, 3, self._slicesChoice(row, case.slices))

    def _slicesChoice(self, row: int, slices: str) -> Any:
        choice = qt.QComboBox()
        choice.setToolTip(_("All slices: a slice without label is background. Labelled: other slices are not used."))
        for value, text in SLICES.items():
            choice.addItem(_(text), value)
        choice.setCurrentIndex(choice.findData(slices))
        choice.connect("currentIndexChanged(int)", lambda index: self._setSlices(row, choice.itemData(index)))
        return choice

    def _setSlices(self, row: int, slices: str) -> None:
        shown = self._shown[row]
        changed = [replace(case, slices=slices) if case == shown else case for case in self._cases.read()]
        self._shown[row] = replace(shown, slices=slices)
        self._cases.write(changed)


def _columns(case: AnyCase) -> tuple[str, str, str]:
    if isinstance(case, SceneCase):
        return case.title, str(case.segmentationNode.GetName()), case.segment or _("all segments")
    labels = case.labels.name if isinstance(case.labels, Path) else ""
    return case.name, labels, ", ".join(case.names)


class CaseAdder:
    """The row under the table: volume, segmentation, segment, and the buttons that add and remove.

    Arguments:
      ui: the widgets of the Fine-tune section. table: where cases go.
      changed: called after anything changed. say: shows a sentence to the user.
    """

    def __init__(
        self, ui: Any, table: CaseTable, services: Services, changed: Callable[[], None], say: Callable[[str], None]
    ) -> None:
        self._ui, self._table, self._services = ui, table, services
        self._changed, self._say = changed, say
        for selector in (ui.caseVolumeSelector, ui.caseSegmentationSelector):
            selector.setMRMLScene(slicer.mrmlScene)
        for value, text in SLICES.items():
            ui.caseSlicesSelector.addItem(_(text), value)
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

    def validate(self) -> str:
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
        problem = case.validate()
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
                self._say(inWords(error))
        self._changed()

    def onRemove(self) -> None:
        self._table.removeSelected()
        self._changed()
