"""The panel: its sections around one set of collaborators, and the scene's comings and goings."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import qt

from ..jobs.client import Client
from .advanced import AdvancedSection
from .kit.background import BackgroundJobs
from .kit.binding import Binder
from .kit.installer import Installer
from .kit.process import QtProcess
from .kit.questions import Questions
from .kit.section import Services
from .kit.settings import Settings
from .measure.section import MeasureSection
from .models.registry import Registry
from .models.section import ModelsSection
from .scene.parameters import Parameters
from .segment.many import SegmentManySection
from .segment.review import ReviewSection
from .segment.section import SegmentSection
from .train.section import FineTuneSection


def makeServices(getParameterNode: Callable[[], Any]) -> Services:
    """The collaborators as Slicer's users get them."""
    parameters, questions, settings = Parameters(getParameterNode), Questions(), Settings()
    client = Client(QtProcess())
    client.on_log = lambda text: logging.info("DeSAM: %s", text)
    return Services(
        parameters=parameters,
        binder=Binder(parameters),
        jobs=BackgroundJobs(client),
        registry=Registry(),
        installer=Installer(questions, settings),
        questions=questions,
        settings=settings,
    )


class Panel:
    """Builds the sections into a layout and connects them to each other.

    Arguments:
      layout: of the module's panel. services: the collaborators.
    """

    def __init__(self, layout: Any, services: Services) -> None:
        self.services = services
        self._isClosed = self._isPending = False
        self.segment = SegmentSection(services)
        self.segmentMany = SegmentManySection(services, self.segment)
        self.review = ReviewSection(services)
        self.fineTune = FineTuneSection(services)
        self.measure = MeasureSection(services, self.segment)
        self.models = ModelsSection(services)
        self.advanced = AdvancedSection(services)
        for section in self.sections:
            if section is not self.segmentMany:  # it has its place inside the Segment section
                layout.addWidget(section.widget)
        layout.addStretch(1)
        self._connectSections()
        services.binder.show()
        services.parameters.reload()

    @property
    def sections(self) -> tuple[Any, ...]:
        return (self.segment, self.segmentMany, self.review, self.fineTune, self.measure, self.models, self.advanced)

    def _connectSections(self) -> None:
        review = self.review
        for segment in (self.segment, self.segmentMany):
            segment.runStarted.connect(review.begin)
            segment.sliceDone.connect(review.add)
            segment.ticked.connect(review.tick)
            segment.runEnded.connect(review.end)
        review.restWanted.connect(self.segment.applyToRest)
        review.learnWanted.connect(self.fineTune.follow)
        self.segmentMany.adaptWanted.connect(self.fineTune.follow)
        review.modelWanted.connect(self.chooseModel)
        self.fineTune.said.connect(review.say)
        self.fineTune.modelReady.connect(self.chooseModel)
        self.models.modelImported.connect(self.chooseModel)
        self.services.installer.changed.connect(self.services.registry.changed.emit)

    def chooseModel(self, name: str) -> None:
        """A new model is selected at once."""
        self.services.parameters.set("model", name)
        self.segment.fillModels()

    def enter(self) -> None:
        """The user opened the panel: the disk and the installed packages may have changed meanwhile."""
        self.services.installer.forget()
        self.services.installer.continueAfterRestart()
        self.services.registry.changed.emit()
        self.fineTune.enter()
        self.review.enter()

    def nodeRemoved(self) -> None:
        """A node is about to leave the scene; when it has, its training case leaves the table."""
        if not self.services.binder.isPaused and not self._isPending:
            self._isPending = True  # many nodes may leave at once: the table is drawn once
            qt.QTimer.singleShot(0, self._showCases)

    def _showCases(self) -> None:
        self._isPending = False
        if not self._isClosed:
            self.fineTune.enter()
            self.review.refresh()

    def sceneStartsToChange(self, isClosing: bool) -> None:
        """A scene is about to be imported or closed. Closing ends the running job; its result goes with the scene."""
        self.services.binder.isPaused = True
        if isClosing:
            self.services.jobs.stop()

    def sceneChanged(self) -> None:
        """A scene was closed or imported: as soon as all widgets have noticed, show what its parameter node says."""
        qt.QTimer.singleShot(0, self._showScene)

    def _showScene(self) -> None:
        if not self._isClosed:
            self.services.binder.isPaused = False
            self.services.parameters.reload()

    def cleanup(self) -> None:
        """Module reload or application exit: no process of ours outlives the panel."""
        self._isClosed = True
        self.services.binder.isPaused = True  # hidden widgets of before a reload would go on writing
        self.services.jobs.stop()
        for section in self.sections:
            section.cleanup()
            section.widget.deleteLater()
