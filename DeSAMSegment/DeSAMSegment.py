"""DeSAM for 3D Slicer: segment every slice of a volume without a click, and fine-tune on labels of one's own.

The four classes Slicer looks for. Everything else is in DeSAMSegmentLib: ``panel`` knows Slicer, the rest does not.
Importing this file imports no torch and installs nothing.
"""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


class DeSAMSegment(ScriptedLoadableModule):
    """What the module list shows."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("DeSAM Segment")
        self.parent.categories = [_("Segmentation")]
        self.parent.dependencies = []
        self.parent.contributors = ["The DeSAM for 3D Slicer contributors"]
        self.parent.helpText = _(
            "Segments every slice of a volume with DeSAM, without a click, and fine-tunes the model on labelled "
            "volumes of a new site. Choose a volume and a model, then press Apply."
        )
        self.parent.acknowledgementText = _(
            "DeSAM: Gao, Xia, Hu, Gao, 'DeSAM: Decoupled Segment Anything Model for Generalizable Medical Image "
            "Segmentation', MICCAI 2024. Encoder weights: LiteMedSAM, MedSAM and Segment Anything, Apache-2.0."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)  # when SampleData is there


def registerSampleData() -> None:
    """Lists what the shipped models can be tried on in Slicer's Sample Data; downloads nothing."""
    from DeSAMSegmentLib.panel.segment.sample import register

    register()


class DeSAMSegmentWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel; its parts are in DeSAMSegmentLib/panel."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: DeSAMSegmentLogic | None = None
        self.panel: Any = None

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        from DeSAMSegmentLib.panel.widget import Panel, makeServices

        self.logic = DeSAMSegmentLogic()
        panel = self.panel = Panel(self.layout, makeServices(self.logic.getParameterNode))
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, lambda *_: panel.sceneStartsToChange(isClosing=True))
        self.addObserver(scene, scene.StartImportEvent, lambda *_: panel.sceneStartsToChange(isClosing=False))
        self.addObserver(scene, scene.NodeRemovedEvent, lambda *_: panel.nodeRemoved())
        self.addObserver(scene, scene.EndCloseEvent, lambda *_: panel.sceneChanged())
        self.addObserver(scene, scene.EndImportEvent, lambda *_: panel.sceneChanged())
        slicer.app.aboutToQuit.connect(self.cleanup)

    def enter(self) -> None:
        if self.panel is not None:
            self.panel.enter()

    def cleanup(self) -> None:
        """Before a reload and when the application exits."""
        self.removeObservers()
        panel, self.panel = self.panel, None
        if panel is not None:
            panel.cleanup()

    def onReload(self) -> None:
        """Developer's Reload button: the library is loaded afresh along with this file."""
        import sys

        for name in [name for name in sys.modules if name.split(".")[0] == "DeSAMSegmentLib"]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)


class DeSAMSegmentLogic(ScriptedLoadableModuleLogic):
    """Everything the panel does, for the Python console: in this process, returning results.

    The packages must be installed (in the panel's Advanced section). Every method takes ``progress``, a function that
    is called with each event of the engine and cancels the job by returning False; ``cancel()`` does the same.

    Example, with a volume and its segmentation loaded::

        logic = slicer.modules.desamsegment.widgetRepresentation().self().logic
        volume = slicer.util.getNode("MRHead")
        tuned = logic.fineTune([(volume, slicer.util.getNode("Segmentation"))], name="my organ", epochs=5)
        result = logic.segment(volume, model=tuned.model, progress=print)
        print(result.text)
    """

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self._console: Any = None

    @property
    def _jobs(self) -> Any:
        """Made with the first call: nothing of the engine is imported before."""
        if self._console is None:
            from DeSAMSegmentLib.panel.console import Console

            self._console = Console()
        return self._console

    def models(self) -> list[Any]:
        """The models of the library, each with ``name``, ``path`` and ``card``.

        Example::

            for model in DeSAMSegmentLogic().models():
                print(model.name, [label.name for label in model.card.labels])
        """
        return list(self._jobs.models())

    def segment(
        self,
        volumeNode: Any,
        model: str,
        mode: str | None = None,
        points: int | None = None,
        segmentationNode: Any = None,
        device: str = "auto",
        progress: Any = None,
        **options: Any,
    ) -> Any:
        """Segments every slice of a volume; slices appear in the scene as they are finished.

        Arguments:
          volumeNode: a scalar volume; it is only read.
          model: a name from ``models()``, or the path of a .desam file.
          mode: "grid" (points), "box" (whole slice), or None for what the model recommends.
          points: grid points per side, or None for what the model recommends.
          segmentationNode: where the segments go; None makes a new node.
          device: "auto", "cpu", "cuda", "cuda:1", "mps".
          progress: called with each event; returning False cancels, finished slices stay.
          options: further fields of SegmentOptions, such as iou_threshold=0.6 or slice_range=(10, 20).

        Returns:
          An object with segmentationNode, segmentIDs, confidence and agreement per slice, text, cancelled.

        Raises:
          DeSAMError: with one line that says what to do.

        Example::

            result = DeSAMSegmentLogic().segment(slicer.util.getNode("MRHead"), model="my organ", mode="box")
        """
        chosen = {"mode": mode, "points": points, **options}
        return self._jobs.on(device, progress).segment(volumeNode, model, segmentationNode, chosen)

    def segmentMany(
        self,
        volumes: Any,
        model: str,
        folder: Any = None,
        format: str = "seg.nrrd",
        device: str = "auto",
        progress: Any = None,
        **options: Any,
    ) -> Any:
        """Segments many volumes one after the other; one that fails does not stop the others.

        Arguments:
          volumes: a volume node, a sequence node (all its frames), the path of a file or of a folder of volumes, or a
            list of these.
          model, device, options: as in ``segment``.
          folder: where the results of files go, as files of the type ``format`` ("seg.nrrd", "nii.gz").
          progress: called with each event, and with CaseDone or CaseFailed after each volume; returning False cancels,
            what is finished stays.

        Returns:
          An object with items, one per volume with title, state ("done", "failed", "stopped", "waiting"), text and
          result (segmentation node, sequence node or path); isCancelled; endText().

        Example::

            queue = DeSAMSegmentLogic().segmentMany(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"), "my organ")
            for item in queue.items:
                print(item.title, item.state, item.text)
        """
        return self._jobs.on(device, progress).segmentMany(volumes, model, folder, format, options)

    def fineTune(
        self,
        cases: Any,
        labels: str = "",
        base: str | None = None,
        name: str = "model",
        mode: str = "grid",
        slices: str = "all",
        folder: Any = None,
        device: str = "auto",
        resume: bool = False,
        progress: Any = None,
        **options: Any,
    ) -> Any:
        """Fine-tunes a model on labelled volumes and puts it into the library.

        Arguments:
          cases: list of (volume node, segmentation node).
          labels: name of the segment to learn; empty learns all segments.
          base: None starts from LiteMedSAM's own decoder, "backbone:vit_b" from another backbone's, a model's name
            continues from that model.
          name: of the new model. mode: what it is trained for, "grid" or "box".
          slices: "all" slices carry ground truth, or only the "labelled" ones.
          folder: for the run's files; None takes one under DeSAM's own folder.
          resume: continue the run in ``folder``.
          progress: called with each event; returning False stops and keeps the best model so far.
          options: further fields of TrainOptions, such as epochs=10 or profile="paper".

        Returns:
          An object with model (its name), folder, bestDice, epochs, text, cancelled.

        Example::

            pairs = [(slicer.util.getNode("MR1"), slicer.util.getNode("Seg1")),
                     (slicer.util.getNode("MR2"), slicer.util.getNode("Seg2"))]
            tuned = DeSAMSegmentLogic().fineTune(pairs, labels="prostate", name="prostate here", epochs=20)
        """
        chosen = {"name": name, "mode": mode, **options}
        start = base or "backbone:lite_medsam"
        return self._jobs.on(device, progress).fineTune(cases, labels, slices, start, chosen, folder, resume)

    def learn(
        self,
        segmentations: Any,
        volumes: Any,
        slices: Any = None,
        model: str = "",
        replay: Any = None,
        device: str = "auto",
        progress: Any = None,
        **options: Any,
    ) -> Any:
        """Makes a new version of a model from corrected slices of its results, and puts it into the library.

        Arguments:
          segmentations, volumes: a node each, or a list of nodes each. Segments are matched to labels by name.
          slices: for a single result its corrected slices, counted along the axis that the model cuts across; for
            several a list of such lists; None takes all slices. One without a segment says that nothing is there.
          model: what to start from, a name from ``models()``; its next version is named "... (v2)".
          replay: (volume node, segmentation node) pairs that the model was trained on, mixed in so that it does not
            forget them; without them a penalty holds the new version near the model.
          device, progress: as in ``fineTune``. options: further fields of TrainOptions, such as name="prostate here".

        Returns:
          As ``fineTune``.

        Example::

            volume = slicer.util.getNode("MRHead")
            result = logic.segment(volume, model="my organ").segmentationNode
            # ... correct slices 12, 40 and 41 ...
            better = logic.learn(result, volume, slices=[12, 40, 41], model="my organ").model
        """
        if not isinstance(volumes, (list, tuple)):
            segmentations, volumes, slices = [segmentations], [volumes], [slices]
        results = list(zip(volumes, segmentations, slices or [None] * len(volumes), strict=True))
        return self._jobs.on(device, progress).learn(results, model, replay, options)

    def adapt(
        self, volumes: Any, model: str, replay: Any = None, device: str = "auto", progress: Any = None, **options: Any
    ) -> Any:
        """As ``learn``, from volumes (a node or a list) of a new site without labels: slices it is sure of teach."""
        return self._jobs.on(device, progress).adapt(volumes, model, replay, options)

    def evaluate(
        self,
        cases: Any,
        model: str,
        folder: Any,
        labels: str = "",
        device: str = "auto",
        progress: Any = None,
        **options: Any,
    ) -> Any:
        """Segments labelled volumes with a model and compares; writes a report with one picture per case.

        Arguments:
          cases, labels: as in ``fineTune``. model, device, progress, options: as in ``segment``.
          folder: where metrics.csv, summary.json, report.md and pictures go.

        Returns:
          An object with folder, summary, cases, cancelled.

        Example::

            pairs = [(slicer.util.getNode("MR3"), slicer.util.getNode("Seg3"))]
            print(DeSAMSegmentLogic().evaluate(pairs, "prostate here", slicer.app.temporaryPath + "/report").summary)
        """
        return self._jobs.on(device, progress).evaluate(cases, labels, model, folder, options)

    def cancel(self) -> None:
        """Stops the running job after its current slice or step; what is finished stays."""
        self._jobs.cancel()


class DeSAMSegmentTest(ScriptedLoadableModuleTest):
    """Runs in Slicer: ``slicer.modules.desamsegment`` must be loaded. Needs the packages and, once, the network."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        try:
            import monai  # noqa: F401
            import torch  # noqa: F401
        except ImportError:
            self.skipTest("The packages are not installed; the Advanced section installs them.")
        self.setUp()
        self.test_brainIsLearnedFromOneVolumeAndFoundAgain()

    def test_brainIsLearnedFromOneVolumeAndFoundAgain(self) -> None:
        """Sample data in, threshold as label, two short epochs, segment: the result overlaps the label."""
        import tempfile

        import numpy as np
        import SampleData

        volume = SampleData.downloadSample("MRHead")
        head = (slicer.util.arrayFromVolume(volume) > 30).astype(np.uint8)
        truth = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "truth")
        truth.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        identifier = truth.GetSegmentation().AddEmptySegment("head", "head")
        slicer.util.updateSegmentBinaryLabelmapFromArray(head, truth, identifier, volume)
        logic = DeSAMSegmentLogic()
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            tuned = logic.fineTune([(volume, truth)], name="self test", mode="box", folder=folder, epochs=2)
            self.delayDisplay(tuned.text)
            result = logic.segment(volume, model=tuned.model, mode="box")
        self.delayDisplay(result.text)
        found = slicer.util.arrayFromSegmentBinaryLabelmap(result.segmentationNode, result.segmentIDs[1], volume)
        logic._jobs.registry.delete(tuned.model)
        dice = 2 * (found * head).sum() / (found.sum() + head.sum())
        assert dice > 0.5, f"Dice is only {dice:.2f}"
