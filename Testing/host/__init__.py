"""A headless Slicer: the real MRML scene of slicer-core, real Qt (PySide6 or PyQt5, offscreen) behind a ``qt`` facade.

    import host
    slicer = host.start()
    module = host.loadModule(".../DeSAMSegment.py")
    widget = module.openPanel()

What is real: scene, volumes, segmentations, transforms, plots, tables, storage, slicer.util, Qt's event loop and
processes. What stands in: the widgets of CTK and MRML (``ctk.py``, ``qmrml.py``, ``plot.py``), ``slicer.app``
(``application.py``) and the base classes of scripted modules (``modules.py``).
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
failures: list[BaseException] = []  # exceptions raised in Qt slots: Slicer prints them, tests must see them


def start() -> Any:
    """Boots once per process and returns the ``slicer`` package, with everything a module expects of it."""
    import slicer

    if hasattr(slicer, "mrmlScene"):
        return slicer
    from . import application, ctk, modules, plot, qmrml, qt, scene

    slicer.mrmlScene, logic, logics = scene.createScene()
    slicer.app = application.Application(slicer.mrmlScene, logic, application.IOManager(slicer.mrmlScene, logics))
    slicer.modules = application.modulesNamespace(logics)
    sys.modules.update({"qt": qt, "ctk": ctk, "slicer.ScriptedLoadableModule": modules.BASES})
    slicer.ScriptedLoadableModule = modules.BASES
    slicer.i18n = types.ModuleType("slicer.i18n")
    slicer.i18n.tr = lambda text: slicer.app.translate("", text)
    sys.modules["slicer.i18n"] = slicer.i18n
    sys.modules["SampleData"] = importlib.import_module("host.sampledata")
    for cls in (qmrml.qMRMLWidget, qmrml.qMRMLNodeComboBox, qmrml.qMRMLCheckableNodeComboBox, plot.qMRMLPlotView):
        setattr(slicer, cls.__name__, cls)
    sys.excepthook = _remember
    return slicer


def _remember(kind: type, error: BaseException, trace: Any) -> None:
    failures.append(error)
    sys.__excepthook__(kind, error, trace)


def loadModule(path: str | Path) -> Any:
    """Imports a scripted module's file and makes its module object, as Slicer does at start-up."""
    from .modules import LoadedModule

    return LoadedModule(Path(path))


def dress(look: str) -> None:
    """Gives the application Slicer's light or dark look: the Fusion style with a palette."""
    from .qt import QApplication, QColor, QPalette

    start()
    QApplication.setStyle("Fusion")
    window, base, text, shade = ("#353535", "#2a2a2a", "#f0f0f0", "#7f7f7f") if look == "dark" else (
        "#efefef", "#ffffff", "#101010", "#a0a0a0"
    )  # fmt: skip
    palette = QPalette()
    for role, color in (
        (QPalette.Window, window), (QPalette.Button, window), (QPalette.Base, base), (QPalette.AlternateBase, window),
        (QPalette.Text, text), (QPalette.WindowText, text), (QPalette.ButtonText, text), (QPalette.ToolTipText, text),
        (QPalette.ToolTipBase, base), (QPalette.PlaceholderText, shade), (QPalette.Highlight, "#308cc6"),
    ):  # fmt: skip
        palette.setColor(role, QColor(color))
    for role in (QPalette.Text, QPalette.WindowText, QPalette.ButtonText):
        palette.setColor(QPalette.Disabled, role, QColor(shade))
    QApplication.setPalette(palette)
