"""The base classes a scripted module inherits, and loading a module file as Slicer's module factory does."""

from __future__ import annotations

import importlib.util
import sys
import types
import unittest
from pathlib import Path
from typing import Any

import slicer

from . import qt
from .binding import QtWidgets
from .qmrml import qMRMLWidget


class ScriptedLoadableModule:
    def __init__(self, parent: Any) -> None:
        self.parent = parent
        self.moduleName = type(self).__name__

    def resourcePath(self, name: str) -> str:
        return str(Path(str(sys.modules[self.moduleName].__file__)).parent / "Resources" / name)


class ScriptedLoadableModuleWidget:
    def __init__(self, parent: Any = None) -> None:
        self.parent = parent
        self.layout = parent.layout()
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = False

    def setup(self) -> None:
        pass

    def resourcePath(self, name: str) -> str:
        return str(Path(str(sys.modules[self.moduleName].__file__)).parent / "Resources" / name)

    def cleanup(self) -> None:
        pass

    def onReload(self) -> None:
        self.cleanup()


class ScriptedLoadableModuleLogic:
    def __init__(self, parent: Any = None) -> None:
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self) -> Any:
        """The one vtkMRMLScriptedModuleNode of this module in the scene, created when missing."""
        scene = slicer.mrmlScene
        node = scene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.vtkMRMLScriptedModuleNode()
            node.SetSingletonTag(self.moduleName)
            node.SetModuleName(self.moduleName)
            node.SetAttribute("ModuleName", self.moduleName)
            node.SetName(self.moduleName)
            node = scene.AddNode(node)
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    messageDelay = 0

    def delayDisplay(self, message: str, msec: int = 0) -> None:
        slicer.app.processEvents()


BASES = types.ModuleType("slicer.ScriptedLoadableModule")
for _class in (
    ScriptedLoadableModule,
    ScriptedLoadableModuleWidget,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
):
    setattr(BASES, _class.__name__, _class)


class LoadedModule:
    """One scripted module: its file imported, its module object made, its panel opened on demand."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        specification = importlib.util.spec_from_file_location(self.name, path)
        assert specification is not None
        assert specification.loader is not None
        self.file = importlib.util.module_from_spec(specification)
        sys.modules[self.name] = self.file
        specification.loader.exec_module(self.file)
        self.information = types.SimpleNamespace()
        self.module = getattr(self.file, self.name)(self.information)
        self.widget: Any = None
        self.panel: Any = None
        setattr(slicer.modules, self.name.lower(), self)

    def openPanel(self, width: int = 460) -> Any:
        """What Slicer does when the user selects the module the first time, then every time."""
        if self.widget is None:
            self.panel = qMRMLWidget()
            self.panel.setMRMLScene(slicer.mrmlScene)
            qt.QVBoxLayout(self.panel).setContentsMargins(0, 0, 0, 0)
            self.panel.resize(width, 900)
            self.widget = getattr(self.file, self.name + "Widget")(self.panel)
            self.widget.setup()
            self.panel.show()
        if hasattr(self.widget, "enter"):
            self.widget.enter()
        return self.widget

    def closePanel(self) -> None:
        if self.widget is not None:
            self.widget.cleanup()
            for child in self.panel.findChildren(QtWidgets.QWidget):
                child.blockSignals(True)  # being destroyed, a widget tells nobody that its scene is gone
            self.panel.setMRMLScene(None)
            self.panel.hide()
            self.panel.deleteLater()
        self.widget = self.panel = None
