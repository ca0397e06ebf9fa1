"""What slicer-core lacks of the application: ``slicer.app``, its IO manager and settings, ``slicer.modules``."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import types
from pathlib import Path
from typing import Any

import slicer

from . import qt

_TYPE_OF_SUFFIX = {".csv": "TableFile", ".tsv": "TableFile", ".h5": "TransformFile", ".mrml": "SceneFile"}


class IOManager:
    """Answers what slicer.util.loadVolume, loadSegmentation, loadScene, saveNode and saveScene ask."""

    def __init__(self, scene: Any, logics: dict[str, Any]) -> None:
        self._scene, self._logics = scene, logics

    def fileType(self, path: str) -> str:
        name = os.path.basename(path).lower()
        if ".seg." in name:
            return "SegmentationFile"
        return _TYPE_OF_SUFFIX.get(Path(name).suffix, "VolumeFile")

    def fileWriterFileType(self, node: Any) -> str:
        return str(node.GetClassName())

    def loadNodes(self, fileType: str, properties: dict[str, Any], loaded: Any, messages: Any = None) -> bool:
        path = properties["fileName"]
        name = properties.get("name") or os.path.basename(path).split(".")[0]
        if fileType == "SceneFile":
            self._scene.SetURL(path)
            return bool(self._scene.Connect() if properties.get("clear") else self._scene.Import())
        if fileType == "VolumeFile":
            options = (1 if properties.get("labelmap") else 0) | 8 | (4 if properties.get("singleFile") else 0)
            node = self._logics["volumes"].AddArchetypeVolume(path, name, options)
        elif fileType == "SegmentationFile":
            node = self._logics["segmentations"].LoadSegmentationFromFile(path, True, name)
        else:
            className = {"TableFile": "vtkMRMLTableNode"}.get(fileType, "vtkMRMLTransformNode")
            node = self._loadStorable(className, path, name)
        if node:
            loaded.AddItem(node)
        return node is not None

    def _loadStorable(self, className: str, path: str, name: str) -> Any:
        node = self._scene.AddNewNodeByClass(className, name)
        node.AddDefaultStorageNode(path)
        if node.GetStorageNode().ReadData(node):
            return node
        self._scene.RemoveNode(node)
        return None

    def saveNodes(self, fileType: str, properties: dict[str, Any], messages: Any = None) -> bool:
        if fileType == "SceneFile":
            return self._saveScene(Path(properties["fileName"]))
        return self._saveNode(self._scene.GetNodeByID(properties["nodeID"]), properties["fileName"])

    @staticmethod
    def _saveNode(node: Any, path: str) -> bool:
        if not node.GetStorageNode():
            node.AddDefaultStorageNode(path)
        node.GetStorageNode().SetFileName(path)
        return bool(node.GetStorageNode().WriteData(node))

    def _saveScene(self, path: Path) -> bool:
        """A .mrml file with every storable node's data beside it."""
        self._scene.SetURL(str(path))
        self._scene.SetRootDirectory(str(path.parent))
        for index in range(self._scene.GetNumberOfNodes()):
            node = self._scene.GetNthNode(index)
            if node.IsA("vtkMRMLStorableNode") and node.GetSaveWithScene() and node.GetClassName() in _SUFFIX:
                self._saveNode(node, str(path.parent / f"{node.GetID()}{_SUFFIX[node.GetClassName()]}"))
        return bool(self._scene.Commit())


_SUFFIX = {
    "vtkMRMLScalarVolumeNode": ".nrrd",
    "vtkMRMLLabelMapVolumeNode": ".nrrd",
    "vtkMRMLSegmentationNode": ".seg.nrrd",
    "vtkMRMLTableNode": ".tsv",
    "vtkMRMLLinearTransformNode": ".h5",
    "vtkMRMLTransformNode": ".h5",
}


class Application:
    """``slicer.app``: the few members that slicer.util and the panel use."""

    applicationName = "Slicer"

    def __init__(self, scene: Any, logic: Any, io: IOManager) -> None:
        self.qtApplication = qt.QApplication.instance() or qt.QApplication(["Slicer"])
        self.aboutToQuit = self.qtApplication.aboutToQuit
        self._scene, self._logic, self._io = scene, logic, io
        self.temporaryPath = tempfile.mkdtemp(prefix="host-")
        atexit.register(shutil.rmtree, self.temporaryPath, ignore_errors=True)
        self._settings = qt.QSettings(os.path.join(self.temporaryPath, "Slicer.ini"), qt.QSettings.IniFormat)
        self.layoutWasTouched = False
        self.atStartup: list[Any] = []  # slots of startupCompleted()

    def connect(self, signal: str, slot: Any) -> bool:
        assert signal == "startupCompleted()", signal
        self.atStartup.append(slot)
        return True

    def applicationLogic(self) -> Any:
        return self._logic

    def coreIOManager(self) -> IOManager:
        return self._io

    def ioManager(self) -> IOManager:
        return self._io

    def userSettings(self) -> Any:
        return self._settings

    def mrmlScene(self) -> Any:
        return self._scene

    def processEvents(self, *arguments: Any) -> None:
        self.qtApplication.processEvents()

    def testingEnabled(self) -> bool:
        return True

    def topLevelWidgets(self) -> list[Any]:
        return self.qtApplication.topLevelWidgets()

    def commandOptions(self) -> Any:
        return None

    def startupEnvironment(self) -> dict[str, str]:
        return dict(os.environ)

    def translate(self, context: str, text: str) -> str:
        return text

    def layoutManager(self) -> Any:
        """Nothing of the panel may change the user's layout: the tests look at this flag."""
        self.layoutWasTouched = True
        return None

    def pauseRender(self) -> None:
        pass

    def resumeRender(self) -> None:
        pass


def modulesNamespace(logics: dict[str, Any]) -> types.SimpleNamespace:
    """``slicer.modules.volumes.logic()`` and the like."""

    def module(logic: Any) -> types.SimpleNamespace:
        return types.SimpleNamespace(logic=lambda: logic)

    return types.SimpleNamespace(**{name: module(logic) for name, logic in logics.items()})


LOGICS = {
    "Colors": slicer.vtkMRMLColorLogic,
    "SubjectHierarchy": slicer.vtkSlicerSubjectHierarchyModuleLogic,
    "Segmentations": slicer.vtkSlicerSegmentationsModuleLogic,
    "Volumes": slicer.vtkSlicerVolumesLogic,
    "Plots": slicer.vtkSlicerPlotsLogic,
    "Sequences": slicer.vtkSlicerSequencesLogic,
    "Markups": slicer.vtkSlicerMarkupsLogic,
}
