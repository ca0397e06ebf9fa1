"""DICOM Segmentation objects, through highdicom: a label map beside the series that it was drawn on.

The object is BINARY, one frame per slice and segment, which every reader knows (DCMQI, on which 3D Slicer's
QuantitativeReporting builds, reads no LABELMAP). Each frame refers to the instance it lies on and takes its place.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from ..errors import BadInput, BadVolume
from ..files import atomic_path
from .dicom import one_series
from .dicom_stack import Stack
from .writing import GENERIC_TERMINOLOGY, LabelLike

OTHERWISE = "Choose seg.nrrd or nii.gz instead."
EMPTY = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
         "StudyTime")  # fmt: skip
LONGEST = 64  # characters of a text with the representation LO
AFTER = 1000  # series numbers between the images and their segmentation
UPRIGHT = 1e-4  # how far the slices' normal may be from the volume's K axis


@dataclass(frozen=True)
class Algorithm:
    """What drew the labels: a model's name, the version of the program, the SHA-256 of the model's file."""

    model: str
    version: str
    sha256: str


class DicomSegmentation:
    """A segmentation of a series, before it is drawn. Reads headers and no pixels.

    Arguments:
      path, series, files: of the images, as for ``read_volume``.
      labels: one per segment, in this order.

    Raises:
      BadInput: highdicom is not installed, there is no such series, or nothing could refer to its slices, because
      they are not one instance or frame each, with a position.
    """

    def __init__(
        self, path: Path, series: str, labels: Sequence[LabelLike], algorithm: Algorithm, files: Sequence[Path] = ()
    ) -> None:
        try:
            import highdicom  # noqa: F401
        except ImportError as error:
            what = f"DICOM segmentations need the Python package highdicom ({error})."
            raise BadInput(what, "Install it.", kind="no-highdicom") from None
        try:
            stack = one_series(path, BadVolume, series, files)[0].stack
        except BadVolume as problem:
            what = f"A DICOM segmentation needs a DICOM series to refer to. {problem.what}"
            raise BadInput(what, OTHERWISE) from None
        assert stack is not None
        files = list(dict.fromkeys(plane.path for plane in stack.planes))
        self._headers = [_complete(pydicom.dcmread(file, stop_before_pixels=True, force=True)) for file in files]
        frames = [plane.order[1] for plane in stack.planes]
        # which slice each file, or each frame of the one file, is
        self._slices = np.argsort(frames) if len(files) == 1 else np.arange(len(frames))
        self._labels, self._algorithm = labels, algorithm
        why = _unfit(stack, self._headers)
        if not why:
            trial = np.zeros((len(frames), *stack.planes[0].size), np.uint16)
            trial[0, 0, 0] = labels[0].value
            try:  # rather now than after the work
                self._made(trial)
            except Exception as error:  # whatever highdicom raises over attributes that are not as they should be
                why = f"{type(error).__name__}: {error}"
        if why:
            raise BadInput(f"The DICOM series in {path} cannot carry a DICOM segmentation: {why}.", OTHERWISE)

    def write(self, path: str | Path, array: np.ndarray) -> None:
        """One object, a series of its own in the study of the images.

        Arguments:
          array: (K, J, I) label values on the grid of the volume; a label without voxels is an empty segment.

        Raises:
          DiskFull: nothing is left then.
        """
        made = self._made(array)
        with atomic_path(path) as temporary:
            made.save_as(temporary)

    def _made(self, array: np.ndarray) -> Any:
        import highdicom

        segments = np.zeros(array.shape, np.uint16)
        for number, label in enumerate(self._labels, start=1):
            segments[array == label.value] = number
        title = _text(f"DeSAM {self._algorithm.model}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about values of the images that are against the standard
            return highdicom.seg.Segmentation(
                self._headers,
                segments[self._slices],
                "BINARY",
                [_segment(number, label, self._algorithm) for number, label in enumerate(self._labels, start=1)],
                series_instance_uid=highdicom.UID(),
                series_number=int(self._headers[0].get("SeriesNumber") or 0) % AFTER + AFTER,
                sop_instance_uid=highdicom.UID(),
                instance_number=1,
                manufacturer="DeSAM",
                manufacturer_model_name="DeSAM for 3D Slicer",
                software_versions=self._algorithm.version,
                device_serial_number="none",
                omit_empty_frames=bool(segments.any()),
                content_label="SEGMENTATION",
                content_description=title,
                series_description=title,
                specific_character_set="ISO_IR 192",
            )


def _unfit(stack: Stack, headers: list[pydicom.Dataset]) -> str:
    """Why nothing can refer to the slices of a stack; empty when something can."""
    planes, axes = stack.planes, stack.affine[:3, :3] / np.linalg.norm(stack.affine[:3, :3], axis=0)
    if not stack.even:
        return "its slices are not evenly spaced, and the volume has some that are no images"
    if not all(plane.position for plane in planes):
        return "its slices have no positions"
    if np.linalg.norm(np.cross(axes[:, 0], axes[:, 1]) - axes[:, 2]) > UPRIGHT:
        return "its slices are stacked at a slant (gantry tilt), and DCMQI would show it in a wrong place"
    if len({header.get("SOPInstanceUID", "") for header in headers} - {""}) < len(headers):
        return "its files do not each have a SOPInstanceUID of their own"
    frames = [int(header.get("NumberOfFrames") or 1) for header in headers]
    if sum(frames) > len(planes) or (len(headers) > 1 and max(frames) > 1):
        return "its slices are not all the frames of one file"
    if frames[0] > 1 and "PerFrameFunctionalGroupsSequence" not in headers[0]:
        return "its frames have no positions of their own"
    return ""


def _complete(header: pydicom.Dataset) -> pydicom.Dataset:
    """With what a segmentation copies, empty where it is not said; a pixel spacing as the volume has it."""
    for name in EMPTY:
        if name not in header:
            setattr(header, name, "")
    if "PixelSpacing" not in header:
        header.PixelSpacing = header.get("ImagerPixelSpacing") or [1, 1]
    return header


def _segment(number: int, label: LabelLike, algorithm: Algorithm) -> Any:
    """A segment with the codes of Slicer's terminology entry: category, type, and the side as the type's modifier."""
    import highdicom
    from pydicom.sr.codedict import codes

    category, kind, side = [part.split("^") for part in (label.terminology or GENERIC_TERMINOLOGY).split("~")[1:4]]
    drawn_by = highdicom.AlgorithmIdentificationSequence(
        _text(f"DeSAM {algorithm.model}"),
        codes.cid7162.ArtificialIntelligence,
        algorithm.version,
        parameters={"model": algorithm.model, "sha256": algorithm.sha256},
    )
    colour = highdicom.color.CIELabColor.from_rgb(*label.color)
    segment = highdicom.seg.SegmentDescription(
        number, _text(label.name), _code(category), _code(kind), "AUTOMATIC", drawn_by, display_color=colour
    )
    if all(side):
        segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [_code(side)]
    return segment


def _code(parts: Sequence[str]) -> Any:
    import highdicom

    scheme, value, meaning = parts
    return highdicom.sr.CodedConcept(value, scheme, meaning[:LONGEST])


def _text(text: str) -> str:
    """As one value of the representation LO, in which a backslash would begin another."""
    return text.replace("\\", "/")[:LONGEST]
