"""What all sections of the panel share: their ``.ui`` file and the collaborators they are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from ..models.registry import Registry
from ..scene.parameters import Parameters
from .background import BackgroundJobs
from .binding import Binder
from .installer import Installer
from .questions import Questions
from .settings import Settings

RESOURCES = Path(__file__).resolve().parents[3] / "Resources"


@dataclass
class Services:
    """The collaborators of the sections; tests give their own."""

    parameters: Parameters
    binder: Binder
    jobs: BackgroundJobs
    registry: Registry
    installer: Installer
    questions: Questions
    settings: Settings


class Section:
    """A collapsible part of the panel, loaded from ``Resources/UI/<uiName>.ui``."""

    uiName = ""
    run: Any = None  # the job of this section that is going on

    def __init__(self, services: Services) -> None:
        self.services = services
        self.widget: Any = slicer.util.loadUI(str(RESOURCES / "UI" / f"{self.uiName}.ui"))
        self.ui: Any = slicer.util.childWidgetVariables(self.widget)

    def addOptions(self, group: str, names: list[str], row: int = 0) -> dict[str, Any]:
        """Inserts a row per declared option into the section's ``optionsForm``; option name to its widget."""
        texts = [getattr(widget, "text", None) for widget in vars(self.ui).values()]
        taken = [text for text in texts if isinstance(text, str)]
        return self.services.binder.addRows(self.ui.optionsForm, group, names, row, taken)

    def busy(self) -> str:
        """Why no job can be started now; empty when one can."""
        return _("Another job is running. Wait for it, or stop it first.") if self.services.jobs.busy else ""

    def canBegin(self, problem: Callable[[], str]) -> tuple[bool, str]:
        """Whether a button would start a job, and if not, why; without the packages it offers them first."""
        reason = self.busy() or (problem() if self.services.installer.ready else "")
        return not reason, reason

    def isCancelled(self) -> bool:
        """Whether there was a job of this section, which is cancelled now."""
        if self.run is not None:
            self.services.jobs.cancel()
            self.refresh()
        return self.run is not None

    def showCancel(self, button: Any, isCancelling: bool, tip: str) -> None:
        """The button that started a segmentation, while it goes on."""
        button.setText(_("Cancelling...") if isCancelling else _("Cancel"))
        self.setEnabledWithReason(button, _("The current slice is being finished.") if isCancelling else "", tip)

    def setEnabledWithReason(self, button: Any, reason: str, tip: str) -> None:
        """A button that cannot be pressed says why in its tooltip."""
        button.enabled = not reason
        button.toolTip = reason or tip

    def refresh(self) -> None:
        """After anything it shows may have changed."""

    def cleanup(self) -> None:
        """Before the panel goes away: lets go of the scene."""
