"""The Advanced section: options that most runs do not need, and what belongs to this computer."""

from __future__ import annotations

from typing import Any

import ctk
from slicer.i18n import tr as _

from ..engine.declarations import declarations
from ..engine.options import SegmentOptions
from ..errors import DeSAMError
from .kit import words
from .kit.remedies import inWords
from .kit.section import Section, Services
from .scene.geometry import validateVolume

ELSEWHERE = ("mode",)  # segment options with a row in the Segment section


class AdvancedSection(Section):
    uiName = "Advanced"

    def __init__(self, services: Services) -> None:
        super().__init__(services)
        ui = self.ui
        names = [each.name for each in declarations(SegmentOptions).values() if not each.expert]
        names = [name for name in names if name not in ELSEWHERE]
        self.options = self.addOptions("segment", names)
        self._bindSettings()
        ui.clearCacheButton.connect("clicked()", self.onClearCache)
        ui.packagesButton.connect("clicked()", self.onPackages)
        ui.wheelsEdit.filters = ctk.ctkPathLineEdit.Dirs  # the button then asks for a folder
        self.widget.connect("contentsCollapsed(bool)", self._onCollapsed)
        services.parameters.changed.connect(self._onParameter)
        services.installer.changed.connect(self.refresh)
        services.jobs.stateChanged.connect(self._refreshButtons)

    def _bindSettings(self) -> None:
        """Device, cache and wheels belong to this computer, not to the scene."""
        ui, settings = self.ui, self.services.settings
        devices = [(_("Automatic"), "auto"), (_("NVIDIA GPU (CUDA)"), "cuda"), (_("Apple GPU (MPS)"), "mps")]
        for text, value in [*devices, (_("Processor (CPU)"), "cpu"), (_("Another computer (ssh)"), "ssh")]:
            ui.deviceSelector.addItem(text, value)
        word = settings.get("device").partition(" ")[0]  # of "ssh user@host" too
        ui.deviceSelector.setCurrentIndex(max(0, ui.deviceSelector.findData(word)))
        ui.hostEdit.setText(settings.get("sshHost"))
        ui.hostEdit.setEnabled(word == "ssh")
        ui.deviceSelector.connect("currentIndexChanged(int)", lambda index: self._onDevice())
        ui.hostEdit.connect("textChanged(QString)", lambda text: self._onDevice())
        self._showCacheLimit()
        ui.cacheSpinBox.connect("valueChanged(double)", self._onCacheLimit)
        ui.wheelsEdit.setCurrentPath(settings.get("wheelsFolder"))
        ui.wheelsEdit.connect("currentPathChanged(QString)", lambda path: settings.set("wheelsFolder", path))

    def _onDevice(self) -> None:
        word, host = self.ui.deviceSelector.itemData(self.ui.deviceSelector.currentIndex), self.ui.hostEdit.text.strip()
        self.ui.hostEdit.setEnabled(word == "ssh")
        self.services.settings.set("sshHost", host)
        self.services.settings.set("device", f"ssh {host}" if word == "ssh" else word)
        self.services.settings.set("lastDevice", "")
        self.services.jobs.stateChanged.emit()

    def _onCacheLimit(self, gigabytes: float) -> None:
        try:
            self.services.registry.setCacheLimit(gigabytes * 1e9)
        except (DeSAMError, OSError) as error:
            self.ui.cacheLabel.setText(inWords(error))

    def _onCollapsed(self, isCollapsed: bool) -> None:
        if not isCollapsed:
            self.refresh()

    def onClearCache(self) -> None:
        self.services.registry.clearCache()
        self.refresh()

    def onPackages(self) -> None:
        """Installs what is missing, after asking."""
        self.services.installer.ensure()
        self.services.installer.changed.emit()

    def refresh(self) -> None:
        """Looks at disk and packages; called when the section is opened, not before."""
        self._showCacheLimit()
        self.ui.cacheLabel.setText(_("{size} used").format(size=words.size(self.services.registry.cacheBytes())))
        missing = ", ".join(package.name for package in self.services.installer.missing)
        self.ui.packagesLabel.setText(_("Missing: {names}").format(names=missing) if missing else _("Complete"))
        self._refreshButtons()

    def _showCacheLimit(self) -> None:
        """The command line may have set another one meanwhile."""
        box = self.ui.cacheSpinBox
        box.blockSignals(True)
        box.setValue(self.services.registry.cacheLimit() / 1e9)
        box.blockSignals(False)

    def _refreshButtons(self) -> None:
        reason = _("Another job is running.") if self.services.jobs.busy else ""
        self.setEnabledWithReason(self.ui.clearCacheButton, reason, _("Delete the cached features."))
        tip = _("Install or complete the Python packages DeSAM needs, after asking.")
        self.setEnabledWithReason(self.ui.packagesButton, reason, tip)

    def _onParameter(self, name: str) -> None:
        if name in ("", "volume"):
            self._limitRange(self.services.parameters.getNode("volume"))

    def _limitRange(self, volumeNode: Any) -> None:
        if not validateVolume(volumeNode):
            last = max(volumeNode.GetImageData().GetDimensions()) - 1
            for box in self.services.binder.pairs["segment.slice_range"][1:]:
                box.setRange(0, last)
