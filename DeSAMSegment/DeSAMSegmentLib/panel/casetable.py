"""The table of training cases in the section Fine-tune."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import qt

from .caselist import CaseList
from .cases import AnyCase, SceneCase
from .i18n import _


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
                item.setToolTip(case.problem() or text)
                self._table.setItem(row, column, item)
            self._table.setCellWidget(row, 3, self._slicesChoice(case))

    def _slicesChoice(self, case: AnyCase) -> Any:
        choice = qt.QComboBox()
        choice.setToolTip(_("All slices: a slice without label has no organ. Labelled: other slices are not used."))
        choice.addItem(_("All"), "all")
        choice.addItem(_("Labelled"), "labelled")
        choice.setCurrentIndex(choice.findData(case.slices))
        choice.connect("currentIndexChanged(int)", lambda index: self._setSlices(case, choice.itemData(index)))
        return choice

    def _setSlices(self, shown: AnyCase, slices: str) -> None:
        cases = self._cases.read()
        for case in cases:
            if case == shown:
                case.slices = slices
        shown.slices = slices
        self._cases.write(cases)


def _columns(case: AnyCase) -> tuple[str, str, str]:
    if isinstance(case, SceneCase):
        return case.title, str(case.segmentationNode.GetName()), case.segment or _("all segments")
    return case.title, case.labels.name, ", ".join(case.names.values())
