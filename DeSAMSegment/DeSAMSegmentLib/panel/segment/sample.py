"""Slicer's own sample data for the models that come with DeSAM: something to press Apply on at the first click."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import slicer
from slicer.i18n import tr as _

from ...errors import BadInput
from ..models.registry import RegisteredModel

SAMPLES = {"brain-mr": "MRHead"}  # model -> sample of Slicer's SampleData module
CATEGORY = "DeSAM Segment"
MR_HEAD = "cc211f0dfd9a05ca3841ce1141b292898b2dd2d3f08286affadf823a7e58df93"  # SHA-256, as SampleData has it


def register() -> None:
    """Lists the samples in SampleData's own panel too; nothing is downloaded."""
    import SampleData

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName="DeSAMBrainMR",
        uris=f"{slicer.util.TESTING_DATA_URL}SHA256/{MR_HEAD}",
        fileNames="MR-head.nrrd",
        nodeNames="MRHead",
        checksums=f"SHA256:{MR_HEAD}",
    )


def modelWithSample(chosen: RegisteredModel | None, models: Iterable[RegisteredModel]) -> RegisteredModel | None:
    """The chosen model where it has a sample, else the first that has one and can be used."""
    candidates = [chosen, *models] if chosen is not None else models
    return next((m for m in candidates if m.shipped and m.name in SAMPLES and m.card is not None), None)


def sampleVolume(model: RegisteredModel) -> Any:
    """The model's sample: the node of that name if the scene has one, else loaded by SampleData.

    Raises:
      BadInput: it could not be downloaded.
    """
    import SampleData

    name = SAMPLES[model.name]
    node = slicer.mrmlScene.GetFirstNodeByName(name)
    if node is not None and node.IsA("vtkMRMLScalarVolumeNode"):
        return node
    try:
        with slicer.util.WaitCursor():
            nodes = SampleData.SampleDataLogic().downloadSamples(name)
    except (OSError, ValueError):
        nodes = []
    if not nodes or not hasattr(nodes[0], "GetID"):
        raise BadInput(
            _("Slicer could not download its sample data {name}.").format(name=name),
            _("Check the network connection, or choose a volume of your own."),
        )
    return nodes[0]
