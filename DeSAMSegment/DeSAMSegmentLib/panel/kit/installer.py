"""The Python packages: which are missing, one question before anything is installed, and the installation itself.

torch comes through Slicer's PyTorch extension, which finds the right build for the graphics card. The rest comes
through ``slicer.packaging`` (Slicer 5.12), before that through ``slicer.util.pip_install``. With a folder of wheels
everything comes from that folder and no network is used.
"""

from __future__ import annotations

import importlib
import importlib.util
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from . import words
from .questions import Questions
from .settings import Settings, temporaryFolder
from .signal import Signal

REQUIREMENTS = Path(__file__).resolve().parents[3] / "Resources" / "requirements.txt"
LINE = re.compile(r"(?P<name>[\w.-]+)(?P<floor>>=[\d.]+)?\s*#\s*(?P<megabytes>\d+) MB(?P<alone>, no dependencies)?")


@dataclass(frozen=True)
class Package:
    """One line of requirements.txt."""

    name: str
    floor: str  # ">=2.1" or empty
    megabytes: int
    withoutDependencies: bool

    @property
    def requirement(self) -> str:
        return self.name + self.floor


def readRequirements(path: Path = REQUIREMENTS) -> list[Package]:
    """The packages of requirements.txt, in order."""
    matches = [LINE.fullmatch(line.strip()) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Package(m["name"], m["floor"] or "", int(m["megabytes"]), m["alone"] is not None) for m in matches if m]


def isInstalled(package: Package) -> bool:
    """Whether the package is here in a version that is new enough; nothing is imported."""
    try:
        version = metadata.version(package.name)
    except metadata.PackageNotFoundError:
        return False
    return _numbers(version) >= _numbers(package.floor.lstrip(">="))


def validatePlatform() -> str:
    """Why no PyTorch exists for this Slicer; empty when one does.

    PyTorch for Intel Macs ended with 2.2, which knows neither Slicer's numpy 2 nor safe reading of weight files.
    """
    if sys.platform == "darwin" and platform.machine() == "x86_64":
        return _(
            "This Slicer is built for Intel Macs, for which PyTorch is no longer made. Use a Slicer built for Apple "
            "silicon, or run DeSAM on another computer, for example with its command line."
        )
    return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


class Installer:
    """Asks once, then installs everything that is missing.

    Arguments:
      pip: installs (requirements, without their dependencies?, folder of wheels or ""); default: Slicer's pip.
      torch: installs torch; default: the PyTorch extension. Returns False when Slicer has to restart first.
    """

    def __init__(
        self,
        questions: Questions,
        settings: Settings,
        pip: Callable[[list[str], bool, str], None] | None = None,
        torch: Callable[[], bool] | None = None,
        check: Callable[[Package], bool] = isInstalled,
        restart: Callable[[], None] | None = None,
    ) -> None:
        self._questions, self._settings, self._check = questions, settings, check
        self._pip, self._torch = pip or installWithPip, torch or self._installTorch
        self._restart = restart or slicer.util.restart
        self._missing: list[Package] | None = None
        self.changed = Signal()

    @property
    def missing(self) -> list[Package]:
        """Looked up once and again after an installation; ``forget`` looks again."""
        if self._missing is None:
            self._missing = [package for package in readRequirements() if not self._check(package)]
        return self._missing

    @property
    def ready(self) -> bool:
        return not self.missing

    def forget(self) -> None:
        """The next look is at the disk again, also for imports: pip may have been at work."""
        importlib.invalidate_caches()
        self._missing = None

    def ensure(self) -> bool:
        """True when everything is here, perhaps after asking and installing. Call when the user pressed something."""
        self.forget()
        if self.ready:
            return True
        problem = validatePlatform()
        if problem and any(package.name == "torch" for package in self.missing):
            self._questions.tell(_("PyTorch cannot be installed here"), problem)
            return False
        return self._consent() and self.install()

    def install(self) -> bool:
        """Installs what is missing; the user has agreed. False when it failed or a restart comes first."""
        offline = self._settings.get("wheelsFolder")
        try:
            if not offline and any(package.name == "torch" for package in self.missing) and not self._torch():
                return False
            self.forget()  # the extension may have brought more than torch
            self._settings.set("continueInstallation", False)
            for alone in (True, False):
                wanted = [p.requirement for p in self.missing if p.withoutDependencies == alone]
                if wanted:
                    self._pip(wanted, alone, offline)
        except (subprocess.CalledProcessError, RuntimeError, OSError) as error:
            self._settings.set("continueInstallation", False)
            self._questions.tell(_("Installation failed"), self._failureText(error))
        self.forget()
        self.changed.emit()
        return self.ready

    def continueAfterRestart(self) -> bool:
        """Called when the user opens the panel: goes on with an installation the user agreed to before a restart."""
        if not self._settings.get("continueInstallation"):
            return False
        self._settings.set("continueInstallation", False)
        return self.install()

    def consentText(self) -> str:
        """What would be installed: names, sizes, disk."""
        lines = "\n".join(
            f"  •  {package.requirement}  ({words.size(package.megabytes * 1e6)})" for package in self.missing
        )
        total = words.size(sum(package.megabytes for package in self.missing) * 1e6)
        offline = self._settings.get("wheelsFolder")
        source = _("from the folder {folder}").format(folder=offline) if offline else _("from the internet")
        text = _("{lines}\n\nTogether about {total} on disk, {source}. They go into Slicer's own Python.")
        if any(package.name == "torch" for package in self.missing) and not offline:
            text += _(" torch brings torchvision and light-the-torch with it, through the PyTorch extension.")
        if importlib.util.find_spec("slicer.packaging") is None:
            text += _(" Slicer does not answer while they are being installed, which can take many minutes.")
        if sys.platform != "darwin" and any(package.name == "torch" for package in self.missing):
            text += _(" With an NVIDIA card, torch alone takes several GB.")
        return text.format(lines=lines, total=total, source=source)

    def _consent(self) -> bool:
        title, question = _("Install Python packages?"), _("DeSAM needs Python packages that are not installed yet.")
        return self._questions.confirm(title, question, _("Install"), self.consentText())

    def _failureText(self, error: Exception) -> str:
        names = ", ".join(package.name for package in self.missing)
        text = _("Not installed: {names}.\n{error}\n\nCheck the network, or choose a folder of wheels in Advanced.")
        return text.format(names=names, error=error)

    def _installTorch(self) -> bool:
        """Through the PyTorch extension; without it, the extension is installed first, which needs a restart."""
        try:
            import PyTorchUtils
        except ImportError:
            return self._installPyTorchExtension()
        logic = PyTorchUtils.PyTorchUtilsLogic()
        floor = next((package.floor for package in readRequirements() if package.name == "torch"), "")
        try:
            torch = logic.installTorch(askConfirmation=False, torchVersionRequirement=floor)
        except ImportError as error:  # of the extension's own helper, or of a torch that does not load
            raise RuntimeError(str(error)) from error
        if torch is None:
            raise RuntimeError(_("The PyTorch extension could not install torch."))
        return True

    def _installPyTorchExtension(self) -> bool:
        model = slicer.app.extensionsManagerModel()
        if not model.isExtensionInstalled("PyTorch") and not _installQuietly(model, "PyTorch"):
            raise RuntimeError(_("The PyTorch extension could not be installed with the Extensions Manager."))
        if importlib.util.find_spec("PyTorchUtils") is None and not model.isExtensionInstalled("PyTorch"):
            raise RuntimeError(_("The PyTorch extension could not be downloaded."))
        self._settings.set("continueInstallation", True)  # before the restart, so that it goes on by itself
        text = _("The PyTorch extension is installed. Slicer has to restart; the installation then continues.")
        if self._questions.confirm(_("Restart Slicer?"), text, _("Restart")):
            self._restart()
        else:
            self._settings.set("continueInstallation", False)  # asked once; the next Apply asks again
        return False


def _installQuietly(model: Any, extension: str) -> bool:
    """Installs an extension without Slicer's own questions: the user has been asked, and the restart is ours to ask."""
    wasInteractive = model.interactive
    model.interactive = False
    try:
        return bool(model.installExtensionFromServer(extension, False))  # False: does not restart
    finally:
        model.interactive = wasInteractive


def installWithPip(requirements: list[str], withoutDependencies: bool, wheelsFolder: str) -> None:
    """Slicer's pip: from 5.12 with a progress window, before that Slicer waits.

    Raises:
      CalledProcessError: when pip failed.
    """
    source = ["--no-index", "--find-links", wheelsFolder] if wheelsFolder else []
    extra = ["--no-deps"] if withoutDependencies else []
    file = temporaryFolder() / "DeSAM-constraints.txt"
    file.write_text("".join(f"{line}\n" for line in installedVersions()), encoding="utf-8")
    arguments = [*source, *extra, "--constraint", str(file), *requirements]
    try:
        from slicer.packaging import pip_install
    except ImportError:
        with slicer.util.WaitCursor():
            slicer.util.pip_install(arguments)
        return
    keyword: dict[str, Any] = {"requester": "DeSAM"}
    pip_install(arguments, **keyword)


def installedVersions(names: tuple[str, ...] = ("torch", "torchvision", "numpy", "SimpleITK")) -> list[str]:
    """What pip may not replace, as constraints: a build for the graphics card, and what came with Slicer."""
    lines = []
    floors = {package.name: package for package in readRequirements()}
    for name in names:
        try:
            if name not in floors or isInstalled(floors[name]):
                lines.append(f"{name}=={metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return lines
