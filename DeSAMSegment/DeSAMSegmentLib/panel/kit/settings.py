"""What belongs to this computer's Slicer and not to a scene: device, wheels folder, an installation to continue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import slicer

DEFAULTS: dict[str, Any] = {
    "device": "auto",
    "sshHost": "",  # of the device "ssh HOST", remembered while another one is chosen
    "lastDevice": "",  # in words, as the last job reported it
    "wheelsFolder": "",
    "continueInstallation": False,
}


def temporaryFolder() -> Path:
    """Slicer's folder for temporary files, made again where a cleaner of /tmp has removed it meanwhile."""
    folder = Path(slicer.app.temporaryPath)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Settings:
    """Slicer's user settings under the group DeSAM."""

    def get(self, name: str) -> Any:
        raw = slicer.app.userSettings().value(f"DeSAM/{name}")
        try:
            value = json.loads(raw)
        except (TypeError, ValueError):
            return DEFAULTS[name]
        return value if isinstance(value, type(DEFAULTS[name])) else DEFAULTS[name]

    def set(self, name: str, value: Any) -> None:
        settings = slicer.app.userSettings()
        settings.setValue(f"DeSAM/{name}", json.dumps(type(DEFAULTS[name])(value)))
        settings.sync()
