"""Slicer's SampleData module: known samples are phantoms, and nothing comes when there is no network."""

from __future__ import annotations

from typing import Any

from . import phantom

KNOWN = ("MRHead", "CTChest")
state = {"online": True}
registered: dict[str, list[dict[str, Any]]] = {}


class SampleDataLogic:
    @staticmethod
    def registerCustomSampleDataSource(
        category: str = "Custom",
        sampleName: Any = None,
        uris: Any = None,
        fileNames: Any = None,
        nodeNames: Any = None,
        customDownloader: Any = None,
        thumbnailFileName: Any = None,
        loadFileType: Any = "VolumeFile",
        loadFiles: Any = None,
        loadFileProperties: Any = None,
        checksums: Any = None,
    ) -> None:
        source = {"name": sampleName, "uris": uris, "file": fileNames, "node": nodeNames, "checksum": checksums}
        if source not in registered.setdefault(category, []):
            registered[category].append(source)

    def downloadSamples(self, sampleName: str) -> list[Any]:
        """The loaded nodes; none where every attempt failed, as in Slicer."""
        if sampleName not in KNOWN or not state["online"]:
            return []
        return [phantom.addVolume(sampleName, seed=3)]


def downloadSample(sampleName: str) -> Any:
    return SampleDataLogic().downloadSamples(sampleName)[0]
