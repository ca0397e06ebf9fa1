"""The Fine-tune section: cases, options, Start, live curves, and the new model in the list."""

from __future__ import annotations

import shutil
from typing import Any

from slicer.i18n import tr as _

from ...engine.declarations import declarations
from ...engine.events import EpochDone, Progress, Started
from ...engine.options import TrainOptions
from ...engine.train.run_folder import stored_options
from ...errors import DeSAMError
from ...jobs.client import JobEnd
from ..kit.remedies import inWords
from ..kit.section import Section, Services
from ..kit.signal import Signal
from ..models.registry import BACKBONE
from ..scene.charts import Curve, CurveChart
from .case_table import CaseAdder, CaseList, CaseTable
from .cases import validateCases
from .run import TrainRun, trainOptions


class FineTuneSection(Section):
    """Signals: ``modelReady(name)`` when a run has put a model into the library, ``said(text)`` of a run's progress."""

    uiName = "FineTune"

    def __init__(self, services: Services) -> None:
        super().__init__(services)
        self.modelReady, self.said = Signal(), Signal()
        self.run: TrainRun | None = None
        self.cases = CaseList(services.parameters)
        self.table = CaseTable(self.ui.caseTable, self.cases)
        self.adder = CaseAdder(self.ui, self.table, services, self.refresh, self.ui.trainStatusLabel.setText)
        curves = [Curve("Loss", (0.84, 0.15, 0.16)), Curve("Validation Dice", (0.17, 0.63, 0.17))]
        self.chart = CurveChart(services.parameters, "training", "Epoch", curves)
        self.chart.place(self.ui.curveFrame)
        self.ui.curveFrame.setVisible(False)
        self.ui.trainProgressBar.setVisible(False)
        names = [each.name for each in declarations(TrainOptions).values() if not each.expert]
        self.optionWidgets = self.addOptions("train", names, row=1)
        self._stylesTip = self.optionWidgets["styles"].toolTip
        self._connect()
        self.fillBases()

    def _connect(self) -> None:
        ui, services = self.ui, self.services
        ui.baseSelector.connect("currentIndexChanged(int)", self._onBase)
        ui.startButton.connect("clicked()", self.onStart)
        ui.resumeButton.connect("clicked()", lambda: self.onStart(resume=True))
        services.parameters.changed.connect(self._onParameter)
        services.registry.changed.connect(self.fillBases)
        services.jobs.stateChanged.connect(self.refresh)

    # ---- what can be chosen ---------------------------------------------------------------------------------------

    def fillBases(self) -> None:
        """Backbones whose weights are here, then the library's models."""
        selector = self.ui.baseSelector
        selector.blockSignals(True)
        selector.clear()
        for status in self.services.registry.weights():
            if status.path is not None:
                title = status.info.title.split(":")[0]
                selector.addItem(_("New, on {title}").format(title=title), BACKBONE + status.info.id)
        for model in self.services.registry.models():
            if model.card is not None:
                selector.addItem(_("Continue from {name}").format(name=model.name), model.name)
        selector.setCurrentIndex(max(0, selector.findData(self.services.parameters.get("trainBase"))))
        selector.blockSignals(False)
        self.refresh()

    def _onBase(self, index: int) -> None:
        self.services.parameters.set("trainBase", self.ui.baseSelector.itemData(index) or "")

    def base(self) -> str:
        selector = self.ui.baseSelector
        return str(selector.itemData(selector.currentIndex) or "")

    def options(self) -> TrainOptions:
        """What was chosen; everything else is as the profile has it."""
        chosen = self.services.parameters.chosen("train")
        chosen["name"] = self.services.parameters.get("train.name").strip()
        chosen["epochs"] = self.services.parameters.get("train.epochs")  # what is shown counts, whatever the profile
        if self._isPaper():
            chosen.pop("styles", None)
        return trainOptions(self.services.registry, self.base(), **chosen)

    def _isPaper(self) -> bool:
        """The published recipe knows no style augmentation."""
        return bool(self.services.parameters.get("train.profile") == "paper")

    def enter(self) -> None:
        """The scene may have changed in other modules: new segments, deleted nodes."""
        self.table.refresh()
        self.adder.fillSegments()

    # ---- Start, Stop, Resume --------------------------------------------------------------------------------------

    def canStart(self) -> tuple[bool, str]:
        """Whether Start would start, and if not, why."""
        return self.canBegin(self._problem)

    def _problem(self) -> str:
        problem = validateCases(self.cases.read())
        if not problem and not self.base():
            return _("No backbone weights are installed. Get them in the Models section.")
        return problem or self.options().is_valid()[1]

    def onStart(self, resume: bool = False) -> None:
        """Start, or Stop while a run of ours is going on."""
        if self.isCancelled() or not self.services.installer.ensure():
            return
        self.fillBases()
        isPossible, reason = self.canStart()
        if not isPossible:
            self.ui.trainStatusLabel.setText(reason)
            return
        folder = self.services.registry.runFolder(self.options().name)
        if not resume and self.services.registry.hasInterruptedRun(self.options().name):
            answer = self._askAboutEarlierRun()
            if answer is None:
                return
            resume = answer == 0
        if not resume:
            shutil.rmtree(folder, ignore_errors=True)
        self._start(resume)

    def _askAboutEarlierRun(self) -> int | None:
        text = _("There is an earlier run of the name {name}. Its models in the list are not touched by either answer.")
        answers = [_("Resume it"), _("Start over")]
        name = self.options().name
        return self.services.questions.choose(_("Resume?"), text.format(name=name), answers)

    def _start(self, resume: bool) -> None:
        settings, options = self.services.settings, self.options()
        folder = self.services.registry.runFolder(options.name)
        if resume:
            try:
                options = stored_options(folder)
            except DeSAMError as error:
                self.ui.trainStatusLabel.setText(inWords(error))
                return
        self.follow(TrainRun(self.cases.read(), options, folder, settings.get("device"), resume), resume)

    def follow(self, run: TrainRun, isResumed: bool = False) -> None:
        """Starts a run and shows how it goes; its model goes into the library."""
        self.run = run
        if not isResumed or not self.chart.rows():
            self.chart.start(_("Training of {name}").format(name=run.options.name))
        self.ui.curveFrame.setVisible(True)
        self.ui.trainProgressBar.setRange(0, 0)
        self.ui.trainProgressBar.setVisible(True)
        self.services.jobs.run(self.run.job(self._onEvent, self._onTick, self._onEnd))

    def _onEvent(self, event: Any) -> None:
        if isinstance(event, Started):
            self.services.settings.set("lastDevice", event.device)
        if isinstance(event, Progress) and self.run is not None and not self.run.epochs:
            self.ui.trainProgressBar.setRange(0, event.total)
            self.ui.trainProgressBar.setValue(event.done)
        if isinstance(event, EpochDone):
            dice = event.validation_dice
            self.chart.append(event.epoch, event.loss, float("nan") if dice is None else dice)
            self.chart.refresh()
            self.ui.trainProgressBar.setRange(0, event.epochs)
            self.ui.trainProgressBar.setValue(event.epoch)

    def _onTick(self) -> None:
        if self.run is not None:
            self._say(self.run.progressText())

    def _onEnd(self, end: JobEnd) -> None:
        run, self.run = self.run, None
        if run is None:
            return
        name, text = "", ""
        if run.best is not None and not end.failed:
            try:
                name = self.services.registry.addTrained(run, isOver=end.how == "finished")
            except (DeSAMError, OSError) as error:  # hours of training are not lost: the file is where it was made
                text = _("{error} The model is in {path}; import it in the Models section.")
                text = text.format(error=inWords(error), path=run.best)
        self.ui.trainProgressBar.setVisible(False)
        self._say("\n".join([text or run.endText(end, name), *run.log]))
        if name:
            self.modelReady.emit(name)
        self.refresh()

    def _say(self, text: str) -> None:
        self.ui.trainStatusLabel.setText(text)
        self.said.emit(text)

    # ---- what is shown --------------------------------------------------------------------------------------------

    def _onParameter(self, name: str) -> None:
        if name == "":
            self.table.refresh()
            self.adder.fillSegments()
            self.fillBases()
            self.ui.curveFrame.setVisible(bool(self.chart.rows()))
            self.chart.show()
        elif name == "trainBase":
            self.fillBases()
        self.refresh()

    def refresh(self) -> None:
        ui = self.ui
        if self.run is not None:
            isStopping = self.services.jobs.cancelling
            ui.startButton.setText(_("Stopping...") if isStopping else _("Stop"))
            reason = _("The current step is being finished.") if isStopping else ""
            self.setEnabledWithReason(ui.startButton, reason, _("Stop now and keep the best model so far."))
        else:
            ui.startButton.setText(_("Start"))
            self.setEnabledWithReason(ui.startButton, self.canStart()[1], _("Fine-tune the model on these cases."))
        name = self.services.parameters.get("train.name")
        isResumable = self.run is None and self.services.registry.hasInterruptedRun(name)
        ui.resumeButton.setVisible(isResumable)
        self.setEnabledWithReason(ui.resumeButton, self.canStart()[1], _("Continue after the last finished epoch."))
        tip = _("Add this volume and segmentation to the table.")
        self.setEnabledWithReason(ui.addCaseButton, self.adder.validate(), tip)
        published = _("The published recipe has no style augmentation.") if self._isPaper() else ""
        self.setEnabledWithReason(self.optionWidgets["styles"], published, self._stylesTip)
        nothing = "" if self.cases.read() else _("There is no case to remove.")
        self.setEnabledWithReason(ui.removeCaseButton, nothing, _("Remove the selected cases from the table."))
