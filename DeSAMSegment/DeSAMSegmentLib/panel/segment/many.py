"""Several volumes, inside the Segment section and with its model and options: one queue, one line per volume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ctk
import qt
import slicer
from slicer.i18n import tr as _

from ...data.cases import Case
from ...engine.events import SliceDone
from ...engine.segment.targets import plan
from ...errors import DeSAMError
from ...jobs.client import JobEnd
from ..kit.remedies import inWords
from ..kit.section import Section, Services
from ..kit.signal import Signal
from ..train.case_table import CaseList
from ..train.cases import AnyCase, UnlabelledCase
from ..train.corrections import UNLABELLED, learningRun, replayable
from .queue import Queue, QueueItem, queueItems
from .section import SegmentSection


class SegmentManySection(Section):
    """Signals as of the Segment section, for volumes of the scene; ``adaptWanted(run)``."""

    uiName = "SegmentMany"

    def __init__(self, services: Services, segment: SegmentSection) -> None:
        super().__init__(services)
        self.runStarted, self.sliceDone, self.ticked, self.runEnded = Signal(), Signal(), Signal(), Signal()
        self.adaptWanted = Signal()
        self.queue: Queue | None = None
        self._segment = segment
        ui = self.ui
        segment.widget.layout().addWidget(self.widget)
        ui.manySelector.setMRMLScene(slicer.mrmlScene)
        for edit in (ui.manyFolderEdit, ui.manyOutputEdit):
            edit.filters = ctk.ctkPathLineEdit.Dirs
            edit.connect("currentPathChanged(QString)", lambda *_: self.refresh())
        header = ui.manyTable.horizontalHeader()
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setStretchLastSection(True)
        ui.manyTable.verticalHeader().setVisible(False)
        ui.manyTable.verticalHeader().setDefaultSectionSize(22)
        for widget in (ui.manyTable, ui.manyProgressBar):
            widget.setVisible(False)
        ui.manySelector.connect("checkedNodesChanged()", self.refresh)
        ui.segmentManyButton.connect("clicked()", self.onSegmentMany)
        ui.adaptButton.connect("clicked()", self.onAdapt)
        services.parameters.changed.connect(lambda name: self.refresh())
        services.registry.changed.connect(self.refresh)
        services.jobs.stateChanged.connect(self.refresh)
        self.refresh()

    # ---- what is to be segmented ----------------------------------------------------------------------------------

    def sources(self) -> list[Any]:
        """Nodes and the folder that are chosen."""
        folder = self.ui.manyFolderEdit.currentPath
        return [*self.ui.manySelector.checkedNodes(), *([folder] if folder else [])]

    def canStart(self) -> tuple[bool, str]:
        """Whether the button would start, and if not, why."""
        return self.canBegin(self._problem)

    def _problem(self) -> str:
        problem = self._segment.modelProblem() or self._segment.options().is_valid()[1]
        if not problem and not self.sources():
            return _("Check volumes of the scene, or choose a folder.")
        if not problem and self.ui.manyFolderEdit.currentPath and not self.ui.manyOutputEdit.currentPath:
            return _("Choose the folder to write to.")
        return problem

    # ---- the queue ------------------------------------------------------------------------------------------------

    def onSegmentMany(self) -> None:
        """Starts, or cancels while a queue of ours is going on."""
        if self.queue is not None:
            self.queue.cancel()
            self.services.jobs.cancel()
            self.refresh()
            return
        if not self.services.installer.ensure():
            return
        isPossible, reason = self.canStart()
        try:
            items = self._items() if isPossible else []
        except (DeSAMError, OSError) as error:
            reason = inWords(error)
        if reason:
            self.ui.manyStatusLabel.setText(reason)
        else:
            self._start(items)

    def _items(self) -> list[QueueItem]:
        model, device = self._segment.chosenModel(), self.services.settings.get("device")
        assert model is not None
        output = self.ui.manyOutputEdit.currentPath
        options = self._segment.options()
        return queueItems(self.sources(), model, options, device, Path(output) if output else None)

    def _start(self, items: list[QueueItem]) -> None:
        ui = self.ui
        self.queue = Queue(items)
        ui.manyTable.setRowCount(len(items))
        ui.manyTable.setVisible(True)
        ui.manyProgressBar.setRange(0, len(items))
        ui.manyProgressBar.setVisible(True)
        self._next()

    def _next(self) -> None:
        """Begins the next volume, or ends the queue."""
        queue = self.queue
        assert queue is not None
        run = queue.next()
        self._showItems(queue)
        if run is None:
            self.queue = None
            self.ui.manyProgressBar.setVisible(False)
            self.ui.manyStatusLabel.setText(queue.endText())
            self.refresh()
            return
        if run.isReviewed:
            self.runStarted.emit(run)
        self.services.jobs.run(run.job(self._onEvent, self._onTick, self._onEnd))

    def _onEvent(self, event: Any) -> None:
        run = self.queue.run if self.queue is not None else None
        if isinstance(event, SliceDone) and run is not None and run.isReviewed:
            self.sliceDone.emit(event)

    def _onTick(self) -> None:
        run = self.queue.run if self.queue is not None else None
        if run is not None:
            self.ui.manyStatusLabel.setText(f"{run.title}: {run.progressText()}")
        if run is not None and run.isReviewed:
            self.ticked.emit()

    def _onEnd(self, end: JobEnd) -> None:
        queue = self.queue
        if queue is None or queue.run is None:
            return
        run = queue.run
        queue.ended(end)
        if run.isReviewed:
            self.runEnded.emit(run)
        self._next()

    # ---- a new version of the model -------------------------------------------------------------------------------

    def _adaptProblem(self) -> str:
        problem = self.busy() or self._segment.modelProblem()
        return problem or ("" if self.sources() else _("Check volumes of the scene, or choose a folder."))

    def onAdapt(self) -> None:
        """Starts learning from the volumes; the new version appears in the list."""
        if not self.services.installer.ensure():
            return
        model, services, folder = self._segment.chosenModel(), self.services, self.ui.manyFolderEdit.currentPath
        assert model is not None
        try:
            cases: list[AnyCase] = [UnlabelledCase(node) for node in self.ui.manySelector.checkedNodes()]
            if folder:
                cases += [
                    Case(each.name, each.source) for each in plan(Path(folder), Path(folder, "adapted"), "nii.gz")
                ]
            replay = replayable(model, CaseList(services.parameters).read())
            device = services.settings.get("device")
            run = learningRun(services.registry, model, cases, replay, device, **UNLABELLED)
        except DeSAMError as error:
            self.ui.manyStatusLabel.setText(inWords(error))
            return
        self.adaptWanted.emit(run)

    # ---- what is shown --------------------------------------------------------------------------------------------

    def _showItems(self, queue: Queue) -> None:
        states = {
            "waiting": _("not begun") if queue.isCancelled else _("waiting"), "running": _("running"),
            "done": _("done"), "failed": _("failed"), "stopped": _("stopped"),
        }  # fmt: skip
        table = self.ui.manyTable
        for row, item in enumerate(queue.items):
            for column, text in enumerate((item.title, states[item.state], " ".join(item.text.split()))):
                cell = qt.QTableWidgetItem(text)
                cell.setToolTip(text)
                table.setItem(row, column, cell)
            if item.state == "running":
                table.scrollToItem(table.item(row, 0))
        self.ui.manyProgressBar.setValue(queue.count("done", "failed", "stopped"))

    def refresh(self) -> None:
        tip = _(
            "Make a new version of the model: it learns from slices of these volumes that it is sure of, no labels."
        )
        self.setEnabledWithReason(self.ui.adaptButton, self._adaptProblem(), tip)
        button = self.ui.segmentManyButton
        if self.queue is not None:
            tip = _("Stop after the current slice; what is finished stays.")
            self.showCancel(button, self.queue.isCancelled, tip)
        else:
            button.setText(_("Segment a&ll"))
            tip = _("Segment all of them with the model and the options above.")
            self.setEnabledWithReason(button, self.canStart()[1], tip)
