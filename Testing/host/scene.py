"""A MRML scene with the logics that Slicer attaches to it."""

from __future__ import annotations

from typing import Any

import slicer
import vtk

from .application import LOGICS


def createScene() -> tuple[Any, Any, dict[str, Any]]:
    """The scene, the application logic and the module logics by lower-case name."""
    window = vtk.vtkOutputWindow()
    window.SetDisplayModeToAlwaysStdErr()
    vtk.vtkOutputWindow.SetInstance(window)
    scene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    application.GetColorLogic().SetMRMLScene(scene)
    application.GetColorLogic().AddDefaultColorNodes()
    logics = {}
    for name, cls in LOGICS.items():
        logic = cls()
        logic.SetMRMLApplicationLogic(application)  # before the scene: logics look for it when the scene is set
        logic.SetMRMLScene(scene)
        application.SetModuleLogic(name, logic)
        logics[name.lower()] = logic
    _keepSubjectHierarchy(scene)
    _addSliceViews(scene)
    return scene, application, logics


def _keepSubjectHierarchy(scene: Any) -> None:
    """In Slicer, Qt plugins give every data node its item; here two observers do."""

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def added(caller: Any, event: str, node: Any) -> None:
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        isData = node.IsA("vtkMRMLDisplayableNode") or node.IsA("vtkMRMLTableNode")
        isNew = not scene.IsImporting()  # a loaded scene brings its hierarchy along
        if hierarchy and isData and isNew and not node.GetHideFromEditors() and not hierarchy.GetItemByDataNode(node):
            hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def removed(caller: Any, event: str, node: Any) -> None:
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        item = hierarchy.GetItemByDataNode(node) if hierarchy else 0
        if item:
            hierarchy.RemoveItem(item, False)

    def closed(caller: Any, event: str) -> None:
        """A hierarchy that was emptied keeps an item from before, over which a scene loaded later stumbles."""
        hierarchy = scene.GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode")
        if hierarchy:
            scene.RemoveNode(hierarchy)

    scene.AddObserver(slicer.vtkMRMLScene.EndCloseEvent, closed)
    scene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, added)
    scene.AddObserver(slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, removed)


def _addSliceViews(scene: Any) -> None:
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
    for name, orientation in (("Red", "Axial"), ("Yellow", "Sagittal"), ("Green", "Coronal")):
        view = scene.CreateNodeByClass("vtkMRMLSliceNode")  # with the orientation presets of the default node
        view.UnRegister(None)
        view.SetName(name)
        view.SetLayoutName(name)
        view.SetSingletonTag(name)
        scene.AddNode(view)
        view.SetOrientation(orientation)
