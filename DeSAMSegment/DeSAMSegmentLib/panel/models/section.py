"""The Models section: the library, and the weights of the frozen backbones."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from ...engine.events import Progress
from ...errors import DeSAMError
from ...jobs.client import JobEnd
from ...jobs.requests import DownloadRequest, ImportRequest
from ..kit import words
from ..kit.background import Job
from ..kit.remedies import inWords
from ..kit.section import Section, Services
from ..kit.signal import Signal
from .registry import RegisteredModel


class ModelsSection(Section):
    """Signals: ``modelImported(name)``."""

    uiName = "Models"

    def __init__(self, services: Services) -> None:
        super().__init__(services)
        self.modelImported = Signal()
        self._isDownloading = False
        ui = self.ui
        for table in (ui.modelTable, ui.weightsTable):
            table.horizontalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
            table.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.Stretch)
            table.verticalHeader().setVisible(False)
            table.verticalHeader().setDefaultSectionSize(22)
            table.connect("itemSelectionChanged()", self.refresh)
        for button, slot in (
            (ui.importButton, self.onImport), (ui.exportButton, self.onExport), (ui.renameButton, self.onRename),
            (ui.deleteButton, self.onDelete), (ui.openFolderButton, self.onOpenFolder),
            (ui.downloadButton, self.onDownload), (ui.chooseFileButton, self.onChooseFile),
        ):  # fmt: skip
            button.connect("clicked()", slot)
        ui.downloadProgressBar.setVisible(False)
        services.registry.changed.connect(self.fill)
        services.jobs.stateChanged.connect(self.refresh)
        self.fill()

    def fill(self) -> None:
        """Both tables."""
        models = self.services.registry.models()
        self.ui.modelTable.setRowCount(len(models))
        for row, model in enumerate(models):
            card = model.card
            texts = [model.name, words.modelFinds(card), card.backbone, words.diceText(card.training)] if card else None
            tip = words.cardText(model.name, card) if card else model.problem
            _fillRow(self.ui.modelTable, row, texts or [model.name, _("cannot be used"), "", ""], tip)
        weights = self.services.registry.weights()
        self.ui.weightsTable.setRowCount(len(weights))
        for row, status in enumerate(weights):
            info = status.info
            state = _("installed") if status.path else _("not installed")
            tip = f"{info.title}\n{status.path or info.url or _('From {source}').format(source=info.source)}"
            _fillRow(self.ui.weightsTable, row, [info.id, words.size(info.bytes), info.licence, state], tip)
        self.refresh()

    # ---- models ---------------------------------------------------------------------------------------------------

    def selectedModel(self) -> RegisteredModel | None:
        item = self.ui.modelTable.item(self.ui.modelTable.currentRow(), 0)
        return self.services.registry.find(item.text()) if item is not None else None

    def onImport(self) -> None:
        """A ``.desam`` file is copied at once, a published checkpoint is converted in the background."""
        filters = _("Models (*.desam *.pth *.pt)")
        path = self.services.questions.openFile(_("Import a model"), filters)
        if path is None:
            return
        if path.suffix == ".desam":
            self._try(lambda: self.modelImported.emit(self.services.registry.add(path)))
        elif self.services.installer.ensure():
            self._try(lambda: self._convert(path, self.services.registry.pathForNew(path.stem)))

    def _convert(self, checkpoint: Path, model: Path) -> None:
        def ended(end: JobEnd) -> None:
            self._say(inWords(end.error) if end.error else "")
            if end.how == "finished":
                self.services.registry.changed.emit()
                self.modelImported.emit(model.stem)

        self._say(_("Converting {name}...").format(name=checkpoint.name))
        self.services.jobs.run(Job(_ready(ImportRequest(checkpoint, model)), lambda event: None, ended))

    def onExport(self) -> None:
        model = self.selectedModel()
        filters = _("Models (*.desam)")
        path = model and self.services.questions.saveFile(_("Export the model"), f"{model.name}.desam", filters)
        if model and path:
            self._try(lambda: self.services.registry.export(model.name, path))

    def onRename(self) -> None:
        model = self.selectedModel()
        name = model and self.services.questions.text(_("Rename the model"), _("New name:"), model.name)
        if model and name and name != model.name:
            self._try(lambda: self._renamed(model.name, self.services.registry.rename(model.name, name)))

    def _renamed(self, old: str, new: str) -> None:
        if self.services.parameters.get("model") == old:
            self.services.parameters.set("model", new)

    def onDelete(self) -> None:
        model = self.selectedModel()
        if model is None:
            return
        text = _("Delete the model {name} from this computer? This cannot be undone.").format(name=model.name)
        if self.services.questions.confirm(_("Delete the model?"), text, _("Delete")):
            self._try(lambda: self.services.registry.delete(model.name))

    def onOpenFolder(self) -> None:
        self._try(lambda: qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self.services.registry.folder()))))

    # ---- weights --------------------------------------------------------------------------------------------------

    def selectedWeights(self) -> Any:
        row = self.ui.weightsTable.currentRow()
        weights = self.services.registry.weights()
        return weights[row] if 0 <= row < len(weights) else None

    def onDownload(self) -> None:
        """Asks with size and licence, then downloads in the background; pressed again, it cancels."""
        if self._isDownloading:
            self.services.jobs.cancel()
            return
        status = self.selectedWeights()
        if status is None or not self._agreed(status.info) or not self.services.installer.ensure():
            return
        self._isDownloading = True
        bar = self.ui.downloadProgressBar
        bar.setRange(0, 0)
        bar.setVisible(True)

        def progressed(event: Any) -> None:
            if isinstance(event, Progress):
                bar.setRange(0, 1000)
                bar.setValue(round(1000 * event.done / max(1, event.total)))
                self._say(event.text)

        def ended(end: JobEnd) -> None:
            self._isDownloading = False
            bar.setVisible(False)
            said = {"finished": _("The weights are installed."), "cancelled": _("Stopped.")}
            self._say(inWords(end.error) if end.error else said.get(end.how, ""))
            self.services.registry.changed.emit()

        self.services.jobs.run(Job(_ready(DownloadRequest(status.info.id)), progressed, ended))

    def _agreed(self, info: Any) -> bool:
        text = _("Download {title}?").format(title=info.title)
        details = _("{size} from {url}\nLicence: {licence}").format(
            size=words.size(info.bytes), url=info.url, licence=info.licence
        )
        return self.services.questions.confirm(_("Download weights?"), text, _("Download"), details)

    def onChooseFile(self) -> None:
        status = self.selectedWeights()
        filters = _("Weights (*.pth *.pt *.safetensors)")
        path = status and self.services.questions.openFile(_("Weights of {id}").format(id=status.info.id), filters)
        if path:
            self._try(lambda: self.services.registry.addWeights(path, status.info.id))

    # ---- what is shown --------------------------------------------------------------------------------------------

    def _try(self, action: Callable[[], Any]) -> None:
        try:
            action()
            self._say("")
        except (DeSAMError, OSError, ImportError) as error:
            self._say(inWords(error))

    def _say(self, text: str) -> None:
        self.ui.modelsStatusLabel.setText(text)

    def refresh(self) -> None:
        ui = self.ui
        busy = _("Another job is running.") if self.services.jobs.busy else ""
        chosen = self.selectedModel()
        model = "" if chosen else _("Select a model in the table.")
        fixed = _("This model comes with DeSAM and stays as it is.") if chosen and chosen.shipped else model or busy
        self.setEnabledWithReason(ui.importButton, busy, _("Add a .desam file, or a published checkpoint (.pth)."))
        self.setEnabledWithReason(ui.exportButton, model, _("Copy the selected model to a file."))
        self.setEnabledWithReason(ui.renameButton, fixed, _("Give the selected model another name."))
        self.setEnabledWithReason(ui.deleteButton, fixed, _("Delete the selected model from this computer."))
        self._refreshWeightButtons(busy)

    def _refreshWeightButtons(self, busy: str) -> None:
        ui, status = self.ui, self.selectedWeights()
        ui.downloadButton.setText(_("Cancel download") if self._isDownloading else _("Down&load..."))
        reason = "" if status else _("Select a backbone in the table.")
        tip = _("Use a weight file that is already on this computer.")
        self.setEnabledWithReason(ui.chooseFileButton, reason or busy, tip)
        if status and status.path:
            reason = _("These weights are already installed.")
        elif status and not status.info.url:
            reason = _("These weights cannot be downloaded: get the file from {source}, then choose it here.")
            reason = reason.format(source=status.info.source)
        tip = _("Download the weights of the selected backbone, after asking.")
        self.setEnabledWithReason(ui.downloadButton, "" if self._isDownloading else reason or busy, tip)


def _ready(request: Any) -> Callable[[Path], Generator[None, None, Any]]:
    """A Job's ``prepare`` for a request that needs no preparation."""

    def prepare(folder: Path) -> Generator[None, None, Any]:
        yield
        return request

    return prepare


def _fillRow(table: Any, row: int, texts: list[str], tip: str) -> None:
    for column, text in enumerate(texts):
        item = qt.QTableWidgetItem(text)
        item.setToolTip(tip)
        table.setItem(row, column, item)
