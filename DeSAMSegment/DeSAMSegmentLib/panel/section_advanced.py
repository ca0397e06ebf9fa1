"""The section Advanced: settings that most runs do not need."""

from __future__ import annotations

from typing import Any

import ctk

from . import words
from .geometry import volumeProblem
from .i18n import _
from .section import Section, Services


class AdvancedSection(Section):
    uiName = "Advanced"

    def __init__(self, services: Services) -> None:
        super().__init__(services)
        self._bindParameters()
        self._bindSettings()
        ui = self.ui
        ui.clearCacheButton.connect("clicked()", self.onClearCache)
        ui.packagesButton.connect("clicked()", self.onPackages)
        ui.wheelsEdit.filters = ctk.ctkPathLineEdit.Dirs  # the button then asks for a folder
        self.widget.connect("contentsCollapsed(bool)", self._onCollapsed)
        services.parameters.changed.connect(self._onParameter)
        services.installer.changed.connect(self.refresh)
        services.jobs.stateChanged.connect(self._refreshButtons)
        self._refreshEnabled()

    def _bindParameters(self) -> None:
        ui, binder = self.ui, self.services.binder
        binder.bind("spin", ui.pointsSpinBox, "points")
        binder.bind("double", ui.iouThresholdSlider, "iouThreshold")
        binder.bind("double", ui.minimumAreaSpinBox, "minimumArea")
        binder.bind("check", ui.limitRangeCheckBox, "limitRange")
        binder.bind("spin", ui.firstSliceSpinBox, "firstSlice")
        binder.bind("spin", ui.lastSliceSpinBox, "lastSlice")
        binder.bind("double", ui.windowLowerSpinBox, "windowLower")
        binder.bind("double", ui.windowUpperSpinBox, "windowUpper")
        component = [(_("As the model recommends"), ""), (_("Keep only the largest"), "yes"), (_("Keep all"), "no")]
        binder.bindChoice(ui.largestComponentSelector, "largestComponent", component)
        axes = [
            (_("As the model was trained"), "auto"), (_("Axial"), "axial"), (_("Coronal"), "coronal"),
            (_("Sagittal"), "sagittal"), (_("The volume's coarsest axis"), "lowest"),
        ]  # fmt: skip
        binder.bindChoice(ui.sliceAxisSelector, "sliceAxis", axes)
        intensities = [
            (_("As the model was trained"), "auto"), (_("Percentiles"), "percentile"), (_("Window"), "window"),
        ]  # fmt: skip
        binder.bindChoice(ui.intensitySelector, "intensity", intensities)

    def _bindSettings(self) -> None:
        """Device, cache and wheels belong to this computer, not to the scene."""
        ui, settings = self.ui, self.services.settings
        devices = [(_("Automatic"), "auto"), (_("NVIDIA GPU (CUDA)"), "cuda"), (_("Apple GPU (MPS)"), "mps")]
        for text, value in [*devices, (_("Processor (CPU)"), "cpu")]:
            ui.deviceSelector.addItem(text, value)
        ui.deviceSelector.setCurrentIndex(max(0, ui.deviceSelector.findData(settings.get("device"))))
        ui.deviceSelector.connect("currentIndexChanged(int)", self._onDevice)
        ui.cacheSpinBox.setValue(settings.get("cacheGigabytes"))
        ui.cacheSpinBox.connect("valueChanged(double)", lambda value: settings.set("cacheGigabytes", value))
        ui.wheelsEdit.setCurrentPath(settings.get("wheelsFolder"))
        ui.wheelsEdit.connect("currentPathChanged(QString)", lambda path: settings.set("wheelsFolder", path))

    def _onDevice(self, index: int) -> None:
        self.services.settings.set("device", self.ui.deviceSelector.itemData(index))
        self.services.settings.set("lastDevice", "")
        self.services.jobs.stateChanged.emit()

    def _onCollapsed(self, isCollapsed: bool) -> None:
        if not isCollapsed:
            self.refresh()

    def onClearCache(self) -> None:
        self.services.shelf.clearCache()
        self.refresh()

    def onPackages(self) -> None:
        """Installs what is missing, after asking."""
        self.services.installer.ensure()
        self.services.installer.changed.emit()

    def refresh(self) -> None:
        """Looks at disk and packages; called when the section is opened, not before."""
        self.ui.cacheLabel.setText(_("{size} used").format(size=words.size(self.services.shelf.cacheBytes())))
        missing = ", ".join(package.name for package in self.services.installer.missing)
        self.ui.packagesLabel.setText(_("Missing: {names}").format(names=missing) if missing else _("Complete"))
        self._refreshButtons()

    def _refreshButtons(self) -> None:
        reason = _("Another job is running.") if self.services.jobs.busy else ""
        self.setEnabledWithReason(self.ui.clearCacheButton, reason, _("Delete the cached features."))
        tip = _("Install or complete the Python packages DeSAM needs, after asking.")
        self.setEnabledWithReason(self.ui.packagesButton, reason, tip)

    def _onParameter(self, name: str) -> None:
        if name in ("", "volume", "sliceAxis"):
            self._limitRange(self.services.parameters.getNode("volume"))
        self._refreshEnabled()

    def _limitRange(self, volumeNode: Any) -> None:
        if not volumeProblem(volumeNode):
            last = max(volumeNode.GetImageData().GetDimensions()) - 1
            for box in (self.ui.firstSliceSpinBox, self.ui.lastSliceSpinBox):
                box.setMaximum(last)

    def _refreshEnabled(self) -> None:
        get = self.services.parameters.get
        for box in (self.ui.firstSliceSpinBox, self.ui.lastSliceSpinBox):
            box.enabled = get("limitRange")
        for box in (self.ui.windowLowerSpinBox, self.ui.windowUpperSpinBox):
            box.enabled = get("intensity") == "window"
