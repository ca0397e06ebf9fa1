"""The Segment section: choose a volume, choose a model, Apply."""

from __future__ import annotations

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ...engine.events import SliceDone, Started
from ...engine.options import SegmentOptions
from ...errors import DeSAMError
from ...jobs.client import JobEnd
from ...jobs.remote import host_of
from ..kit import words
from ..kit.remedies import inWords
from ..kit.section import Section, Services
from ..kit.signal import Signal
from ..models.registry import RegisteredModel
from ..scene.geometry import validateVolume
from ..scene.nodewatch import NodeWatch
from ..scene.results import Undo, validateOutput
from . import sample
from .reviewed import Reviewed
from .run import SegmentRun


class SegmentSection(Section):
    """Signals: ``runStarted(run)``, ``sliceDone(event)``, ``ticked()``, ``runEnded(run)``."""

    uiName = "Segment"

    def __init__(self, services: Services) -> None:
        super().__init__(services)
        self.runStarted, self.sliceDone, self.ticked, self.runEnded = Signal(), Signal(), Signal(), Signal()
        self.run: SegmentRun | None = None
        self._undo: Undo | None = None
        self._isFilling = False
        self._volumeWatch = NodeWatch(self.refresh)
        for selector in (self.ui.volumeSelector, self.ui.outputSelector):
            selector.setMRMLScene(slicer.mrmlScene)
        binder = services.binder
        binder.bindNode(self.ui.volumeSelector, "volume")
        binder.bindNode(self.ui.outputSelector, "segmentation")
        self.modeSelector = self.addOptions("segment", ["mode"], row=3)["mode"]
        self.ui.modelSearch.connect("textChanged(QString)", lambda *_: self.fillModels())
        self.ui.modelList.connect("currentRowChanged(int)", self._onModelRow)
        self.ui.applyButton.connect("clicked()", self.onApply)
        self.ui.undoButton.connect("clicked()", self.onUndo)
        self.ui.sampleButton.connect("clicked()", self.onSample)
        self.ui.progressBar.setVisible(False)
        services.parameters.changed.connect(self._onParameter)
        services.registry.changed.connect(self.fillModels)
        services.jobs.stateChanged.connect(self.refresh)
        self.fillModels()

    # ---- the model list -------------------------------------------------------------------------------------------

    def fillModels(self) -> None:
        """The library's models that fit the search, the chosen one selected."""
        models = [m for m in self.services.registry.models() if m.matches(self.ui.modelSearch.text)]
        self._isFilling = True
        self.ui.modelList.clear()
        for model in models:
            self.ui.modelList.addItem(self._item(model))
        names = [model.name for model in models]
        chosen = self.services.parameters.get("model")
        self.ui.modelList.setCurrentRow(names.index(chosen) if chosen in names else -1)
        if not self.services.registry.models():
            self.ui.modelList.addItem(self._hint())
        self._isFilling = False
        if not chosen and len(names) == 1 and not self.ui.modelSearch.text:
            self.ui.modelList.setCurrentRow(0)
        self.refresh()

    @staticmethod
    def _item(model: RegisteredModel) -> Any:
        if model.card is None:
            item = qt.QListWidgetItem(_("{name} (cannot be used)").format(name=model.name))
            item.setToolTip(model.problem)
        else:
            item = qt.QListWidgetItem(f"{model.name}   ({words.modelFinds(model.card)})")
            item.setToolTip(words.cardText(model.name, model.card))
        item.setData(qt.Qt.UserRole, model.name)
        return item

    @staticmethod
    def _hint() -> Any:
        item = qt.QListWidgetItem(_("No model yet: fine-tune one, or import one, below."))
        item.setFlags(qt.Qt.NoItemFlags)
        return item

    def _onModelRow(self, row: int) -> None:
        if not self._isFilling and row >= 0:
            self.services.parameters.set("model", self.ui.modelList.item(row).data(qt.Qt.UserRole))

    def chosenModel(self) -> RegisteredModel | None:
        return self.services.registry.find(self.services.parameters.get("model"))

    def onSample(self) -> None:
        """A volume of Slicer's sample data and a model for it are chosen: what is left is Apply."""
        model = sample.modelWithSample(self.chosenModel(), self.services.registry.models())
        if model is None:
            return
        try:
            volume = sample.sampleVolume(model)
        except DeSAMError as error:
            self.ui.statusLabel.setText(inWords(error))
            return
        self.services.parameters.setNode("volume", volume)
        self.services.parameters.set("model", model.name)
        text = _("{volume} and the model {model} are chosen: press Apply.")
        self.ui.statusLabel.setText(text.format(volume=volume.GetName(), model=model.name))

    # ---- Apply, Cancel, Undo --------------------------------------------------------------------------------------

    def canApply(self) -> tuple[bool, str]:
        """Whether Apply would start, and if not, why."""
        return self.canBegin(self._problem)

    def _problem(self) -> str:
        parameters = self.services.parameters
        return (
            validateVolume(parameters.getNode("volume"))
            or self.modelProblem()
            or validateOutput(parameters.getNode("segmentation"))
            or self.options().is_valid()[1]
        )

    def modelProblem(self) -> str:
        """Why the chosen model cannot be used; empty when it can."""
        model = self.chosenModel()
        if model is None:
            if self.services.registry.models():
                return _("Choose a model.")
            return _("There is no model yet. Make one in the Fine-tune section, or import one in the Models section.")
        if model.card is None:
            return model.problem
        if host_of(self.services.settings.get("device")) is not None:
            return ""  # the other computer has weights of its own
        present = {status.info.id: status.path for status in self.services.registry.weights()}
        if present.get(model.card.backbone) is None:
            text = _("The weights of the backbone {name} are not installed. Get them in the Models section.")
            return text.format(name=model.card.backbone)
        return ""

    def options(self) -> SegmentOptions:
        """What the panel shows, as the engine takes it."""
        return SegmentOptions(**self.services.parameters.chosen("segment"), keep_points=True)

    def onApply(self) -> None:
        """Apply, or Cancel while a run of ours is going on."""
        if self.isCancelled() or not self.services.installer.ensure():
            return
        self.fillModels()
        isPossible, reason = self.canApply()
        if isPossible:
            self._start()
        else:
            self.ui.statusLabel.setText(reason)

    def applyToRest(self, result: Reviewed) -> None:
        """Segments a reviewed result's volume again; slices that were edited or accepted keep their voxels."""
        problem = self.modelProblem() or self.options().is_valid()[1]
        if problem:
            self.ui.statusLabel.setText(problem)
        else:
            self._start(result)

    def _start(self, rest: Reviewed | None = None) -> None:
        parameters, settings = self.services.parameters, self.services.settings
        volume, output = parameters.getNode("volume"), parameters.getNode("segmentation")
        if rest is not None:
            volume, output = rest.volumeNode, rest.segmentationNode
        model = self.chosenModel()
        assert model is not None
        self.run = SegmentRun(volume, output, model, self.options(), settings.get("device"), rest)
        self._undo = None
        self.ui.progressBar.setRange(0, 0)
        self.ui.progressBar.setVisible(True)
        self.runStarted.emit(self.run)
        self.services.jobs.run(self.run.job(self._onEvent, self._onTick, self._onEnd))

    def _onEvent(self, event: Any) -> None:
        if isinstance(event, Started):
            self.services.settings.set("lastDevice", event.device)
            self.ui.progressBar.setRange(0, event.total)
            self.refresh()
        elif isinstance(event, SliceDone):
            self.sliceDone.emit(event)

    def _onTick(self) -> None:
        if self.run is not None:
            self.ui.progressBar.setValue(self.run.done)
            self.ui.statusLabel.setText(self.run.progressText())
            self.ticked.emit()

    def _onEnd(self, end: JobEnd) -> None:
        run, self.run = self.run, None
        if run is None:
            return
        self.ui.progressBar.setVisible(False)
        self.ui.statusLabel.setText("\n".join([run.endText(end), *run.log]))
        self._undo = run.undo
        if run.writer is not None and run.writer.segmentationNode is not None:
            self.services.parameters.setNode("segmentation", run.writer.segmentationNode)
        self.runEnded.emit(run)
        self.refresh()

    def onUndo(self) -> None:
        """Undoes the last run."""
        undo, self._undo = self._undo, None
        if undo is not None and undo.restore():
            self.ui.statusLabel.setText(_("The last run was undone."))
        self.refresh()

    def cleanup(self) -> None:
        self._volumeWatch.watch(None)

    # ---- what is shown --------------------------------------------------------------------------------------------

    def _onParameter(self, name: str) -> None:
        if name in ("", "volume"):
            self._volumeWatch.watch(self.services.parameters.getNode("volume"))
        if name == "":
            self._undo = None
        if name in ("", "model"):
            self.fillModels()
        self.refresh()

    def refresh(self) -> None:
        button = self.ui.applyButton
        if self.run is not None:
            tip = _("Stop after the current slice; finished slices stay.")
            self.showCancel(button, self.services.jobs.cancelling, tip)
        else:
            button.setText(_("Apply"))
            tip = _("Segment every slice of the volume.")
            if not self.services.installer.ready:
                tip = _("Offers to install the Python packages first, then segments.")
            self.setEnabledWithReason(button, self.canApply()[1], tip)
        reason = "" if self.run is None else _("The volume is being segmented.")
        if sample.modelWithSample(None, self.services.registry.models()) is None:
            reason = _("No model that comes with DeSAM is installed.")
        tip = _("Loads a volume of Slicer's sample data (from the network, once) and chooses a model for it.")
        self.setEnabledWithReason(self.ui.sampleButton, reason, tip)
        nothing = "" if self._undo and self.run is None else _("Nothing to undo.")
        self.setEnabledWithReason(self.ui.undoButton, nothing, _("Undo the last run, in one step."))
        self.ui.deviceLabel.setText(self._deviceText())

    def _deviceText(self) -> str:
        chosen, last = self.services.settings.get("device"), self.services.settings.get("lastDevice")
        names = {"auto": _("chosen automatically"), "cpu": _("processor (CPU)"), "mps": _("Apple GPU")}
        name = names.get(chosen, chosen)
        return _("Device: {name}").format(name=last or name)
