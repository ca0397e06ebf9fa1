"""Inside Slicer: the module loads without torch, its panel opens, and Apply says what is missing."""

import sys
import unittest

import slicer


class DeSAMSegmentLoadTest(unittest.TestCase):
    def setUp(self):
        slicer.mrmlScene.Clear()

    def test_panelOpensWithoutTorchAndSaysWhyApplyIsDisabled(self):
        wasImported = "torch" in sys.modules
        slicer.util.selectModule("DeSAMSegment")
        widget = slicer.modules.desamsegment.widgetRepresentation().self()
        apply = widget.panel.segment.ui.applyButton
        assert wasImported or "torch" not in sys.modules
        assert apply.enabled or apply.toolTip

    def test_parametersAreSavedWithTheScene(self):
        widget = slicer.modules.desamsegment.widgetRepresentation().self()
        widget.panel.services.parameters.set("segment.points", 7)
        node = widget.logic.getParameterNode()
        assert node.GetSaveWithScene()
        assert node.GetParameter("DeSAM.segment.points") == "7"
