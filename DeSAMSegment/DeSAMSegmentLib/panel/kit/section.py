"""What all sections of the panel share: their ``.ui`` file and the collaborators they are given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer

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

    def __init__(self, services: Services) -> None:
        self.services = services
        self.widget: Any = slicer.util.loadUI(str(RESOURCES / "UI" / f"{self.uiName}.ui"))
        self.ui: Any = slicer.util.childWidgetVariables(self.widget)

    def addOptions(self, group: str, names: list[str], row: int = 0) -> dict[str, Any]:
        """Inserts a row per declared option into the section's ``optionsForm``; option name to its widget."""
        texts = [getattr(widget, "text", None) for widget in vars(self.ui).values()]
        taken = [text for text in texts if isinstance(text, str)]
        return self.services.binder.addRows(self.ui.optionsForm, group, names, row, taken)

    def setEnabledWithReason(self, button: Any, reason: str, tip: str) -> None:
        """A button that cannot be pressed says why in its tooltip."""
        button.enabled = not reason
        button.toolTip = reason or tip

    def refresh(self) -> None:
        """After anything it shows may have changed."""

    def cleanup(self) -> None:
        """Before the panel goes away: lets go of the scene."""
