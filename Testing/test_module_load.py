"""Loading the module: quick, silent, without torch; and what the panel looks like before packages are installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
SCRIPT = """
import json, sys, time
sys.path.insert(0, {testing!r})
import host
slicer = host.start()
import vtk.util.numpy_support
sys.path.insert(0, {module!r})
before = set(sys.modules)
start = time.process_time()
module = host.loadModule({module!r} + "/DeSAMSegment.py")
loaded = time.process_time() - start
imported = sorted(set(sys.modules) - before)
nodes = slicer.mrmlScene.GetNumberOfNodes()
widget = module.openPanel()
slicer.app.processEvents()
print(json.dumps({{
    "seconds": loaded, "imported": imported, "torch": "torch" in sys.modules,
    "monai": "monai" in sys.modules, "children": len(module.panel.children()),
    "newNodes": slicer.mrmlScene.GetNumberOfNodes() - nodes, "layout": slicer.app.layoutWasTouched,
    "dialogs": len([w for w in slicer.app.topLevelWidgets() if w.isVisible() and w.isModal()]),
    "failures": len(host.failures), "running": widget.panel.services.jobs._client._process.running(),
}}))
module.closePanel()
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict:
    script = SCRIPT.format(testing=str(HERE), module=str(HERE.parent / "DeSAMSegment"))
    environment = {**os.environ, "DESAM_HOME": str(tmp_path_factory.mktemp("home")), "QT_QPA_PLATFORM": "offscreen"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment, timeout=300
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_the_module_loads_in_less_than_a_third_of_a_second_of_the_processor(report: dict) -> None:
    assert report["seconds"] < 0.3


def test_neither_loading_nor_opening_the_panel_imports_torch(report: dict) -> None:
    assert not report["torch"]
    assert not report["monai"]
    assert [name for name in report["imported"] if name.startswith(("numpy", "scipy", "SimpleITK"))] == []


def test_nothing_happens_at_load_no_dialog_no_process_no_change_of_the_scene(report: dict) -> None:
    assert report["dialogs"] == 0
    assert not report["running"]
    assert report["newNodes"] <= 1  # the parameter node
    assert not report["layout"]
    assert report["failures"] == 0
