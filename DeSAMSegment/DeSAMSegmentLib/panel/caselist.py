"""The list of training cases in the parameter node: node references and a little JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .cases import AnyCase, FileCase, SceneCase
from .parameters import Parameters


class CaseList:
    """Stored with the scene; a scene case whose nodes are gone disappears from it."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters

    def read(self) -> list[AnyCase]:
        cases: list[AnyCase] = []
        for number, entry in enumerate(self._parameters.get("trainCases")):
            if "image" in entry:
                names = {int(value): name for value, name in entry["names"].items()}
                image, labels = Path(entry["image"]), Path(entry["labels"])
                cases.append(FileCase(entry["name"], image, labels, names, entry["slices"], entry["domain"]))
                continue
            volume = self._parameters.getNode(f"case{number}Volume")
            segmentation = self._parameters.getNode(f"case{number}Segmentation")
            if volume is not None and segmentation is not None:
                cases.append(SceneCase(volume, segmentation, entry["segment"], entry["slices"]))
        return cases

    def write(self, cases: Sequence[AnyCase]) -> None:
        before = len(self._parameters.get("trainCases"))
        entries: list[dict[str, Any]] = []
        for number, case in enumerate(cases):
            nodes = (case.volumeNode, case.segmentationNode) if isinstance(case, SceneCase) else (None, None)
            self._parameters.setNode(f"case{number}Volume", nodes[0])
            self._parameters.setNode(f"case{number}Segmentation", nodes[1])
            entries.append(_entry(case))
        for number in range(len(cases), before):
            self._parameters.setNode(f"case{number}Volume", None)
            self._parameters.setNode(f"case{number}Segmentation", None)
        self._parameters.set("trainCases", entries)


def _entry(case: AnyCase) -> dict[str, Any]:
    if isinstance(case, SceneCase):
        return {"segment": case.segment, "slices": case.slices}
    return {
        "name": case.name,
        "image": str(case.image),
        "labels": str(case.labels),
        "names": {str(value): name for value, name in case.names.items()},
        "slices": case.slices,
        "domain": case.domain,
    }
