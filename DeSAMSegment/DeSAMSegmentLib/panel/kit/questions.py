"""Every question the panel asks, in one place, so that tests can answer without a dialog."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _


class Questions:
    """Modal dialogs. Only ever shown as the answer to something the user pressed."""

    def confirm(self, title: str, text: str, yes: str, details: str = "") -> bool:
        """A question with the button ``yes`` and a way out."""
        box = self._box(title, text, details)
        accept = box.addButton(yes, qt.QMessageBox.AcceptRole)
        box.addButton(_("Cancel"), qt.QMessageBox.RejectRole)
        box.exec_()
        return bool(box.clickedButton() == accept)

    def choose(self, title: str, text: str, answers: list[str]) -> int | None:
        """Several answers; the index of the pressed one, None for Cancel."""
        box = self._box(title, text, "")
        buttons = [box.addButton(answer, qt.QMessageBox.AcceptRole) for answer in answers]
        box.addButton(_("Cancel"), qt.QMessageBox.RejectRole)
        box.exec_()
        return next((n for n, button in enumerate(buttons) if box.clickedButton() == button), None)

    def text(self, title: str, label: str, initial: str = "") -> str:
        """A line of text; empty when cancelled."""
        parent = slicer.util.mainWindow()
        return str(qt.QInputDialog.getText(parent, title, label, qt.QLineEdit.Normal, initial) or "").strip()

    def openFile(self, title: str, filters: str) -> Path | None:
        return self._path(qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), title, "", filters))

    def saveFile(self, title: str, name: str, filters: str) -> Path | None:
        return self._path(qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), title, name, filters))

    def folder(self, title: str) -> Path | None:
        return self._path(qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), title))

    def tell(self, title: str, text: str) -> None:
        box = self._box(title, text, "")
        box.addButton(_("Close"), qt.QMessageBox.AcceptRole)
        box.exec_()

    @staticmethod
    def _box(title: str, text: str, details: str) -> Any:
        box = qt.QMessageBox(slicer.util.mainWindow())
        box.setWindowTitle(title)
        box.setText(text)
        if details:
            box.setInformativeText(details)
        return box

    @staticmethod
    def _path(answer: str) -> Path | None:
        return Path(answer) if answer else None
