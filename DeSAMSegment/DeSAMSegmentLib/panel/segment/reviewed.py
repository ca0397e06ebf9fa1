"""A result under review: what the run wrote into each slice, and what the user has made of it since."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import slicer

from ...engine.events import PointScore
from ..scene.geometry import voxels
from ..scene.results import ResultWriter
from ..scene.segments import segmentMask

PREDICTED, EDITED, ACCEPTED = "predicted", "edited", "accepted"


class Reviewed:
    """One result in the scene.

    Arguments:
      run: that wrote it, over.
      rows: confidence and agreement of each slice. points: the grid's points of each slice.
    """

    def __init__(
        self,
        run: Any,
        axis: int,
        rows: dict[int, tuple[float, float]],
        points: dict[int, tuple[PointScore, ...]],
    ) -> None:
        self.volumeNode, self.segmentationNode = run.volumeNode, run.writer.segmentationNode
        self.segmentIDs: dict[int, str] = run.writer.segmentIDs
        self.model, self.axis, self.rows, self.points = run.model, axis, rows, points
        self.accepted: set[int] = set()
        self._written = self._digests()
        self.states: dict[int, str] = {}
        self.compare()

    @property
    def exists(self) -> bool:
        """Whether its nodes and segments are still in the scene."""
        nodes = (self.volumeNode, self.segmentationNode)
        if not all(node is not None and slicer.mrmlScene.IsNodePresent(node) for node in nodes):
            return False
        segmentation = self.segmentationNode.GetSegmentation()
        return all(segmentation.GetSegment(identifier) for identifier in self.segmentIDs.values())

    def compare(self) -> None:
        """Looks at the voxels again: what differs from what the run wrote was edited."""
        now = self._digests()
        self.states = {
            index: ACCEPTED if index in self.accepted else PREDICTED if now[index] == self._written[index] else EDITED
            for index in self.rows
        }

    def marked(self) -> list[int]:
        """Slices that somebody has edited or accepted, as far as it was noticed, ascending."""
        return sorted(index for index, state in self.states.items() if state != PREDICTED)

    def corrected(self) -> list[int]:
        """The same, after another look at the voxels."""
        self.compare()
        return self.marked()

    def labels(self) -> dict[str, str]:
        """Segment ID to label."""
        return {self.segmentIDs[label.value]: label.name for label in self.model.card.labels}

    def accept(self, index: int) -> None:
        self.accepted.add(index)
        self.states[index] = ACCEPTED

    def clear(self, index: int) -> None:
        """Nothing is there: empties the slice in the result's own segments, and accepts that."""
        writer = ResultWriter(
            self.volumeNode, self.segmentationNode, self.model.card.labels, self.model.name, self.segmentIDs
        )
        shape = np.delete(voxels(self.volumeNode).shape, self.axis)
        writer.writeSlice(self.axis, index, np.zeros(shape, np.uint8))
        writer.close()
        self.accept(index)

    def renewed(
        self, run: Any, rows: dict[int, tuple[float, float]], points: dict[int, tuple[PointScore, ...]]
    ) -> None:
        """A later run has written all slices but the corrected ones."""
        kept = self.marked()
        now = self._digests()
        self._written = [self._written[i] if i in kept else digest for i, digest in enumerate(now)]
        self.model, self.rows, self.points = run.model, self.rows | rows, self.points | points
        self.compare()

    def _digests(self) -> list[int]:
        """A checksum per slice over the masks of all labels."""
        sums = [0] * voxels(self.volumeNode).shape[self.axis]
        for value, identifier in self.segmentIDs.items():
            mask = segmentMask(self.segmentationNode, identifier, self.volumeNode)
            for index, plane in enumerate(np.moveaxis(mask, self.axis, 0)):
                if plane.any():
                    sums[index] = zlib.crc32(np.packbits(plane).tobytes(), sums[index] + value)
        return sums
