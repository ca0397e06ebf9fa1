"""DICOM files for tests: tiny slices, each with a value that tells which one it is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

ROWS, COLUMNS = 8, 6
AXIAL = (1, 0, 0, 0, 1, 0)
CORONAL = (1, 0, 0, 0, 0, -1)
OBLIQUE = (0.8, 0.6, 0, -0.48, 0.64, 0.6)
MR, ENHANCED, NUCLEAR = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.20"
SAGITTAL = (0, 1, 0, 0, 0, -1)


def pixels(value: int) -> np.ndarray:
    """A slice that tells by its brightest value which one it is."""
    image = np.full((ROWS, COLUMNS), 100, np.int16)
    image[2:5, 2:4] = value
    return image


def header(value: int = 1000, **tags: Any) -> Dataset:
    """A slice in memory: axial, 3 mm thick, pixels of 0.9 mm (along a row) x 0.8 mm. A tag of None is left out."""
    data = Dataset()
    defaults: dict[str, Any] = {
        "SOPClassUID": MR, "SOPInstanceUID": generate_uid(), "Modality": "MR", "PatientID": "P",
        "StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.1", "SeriesNumber": 1, "FrameOfReferenceUID": "1.2.9",
        "SliceThickness": 3, "ImageOrientationPatient": list(AXIAL), "PixelSpacing": [0.8, 0.9], "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2", "Rows": ROWS, "Columns": COLUMNS, "BitsAllocated": 16,
        "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1, "PixelData": pixels(value).tobytes(),
    }  # fmt: skip
    for name, given in (defaults | tags).items():
        if name.isdecimal():  # a private tag, of sequences
            data.add_new(int(name, 16), "SQ", given)
        elif given is not None:
            setattr(data, name, given)
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return data


def written(path: Path, data: Dataset) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def series(folder: Path, count: int = 4, places: Iterable[Any] = (), prefix: str = "I", **tags: Any) -> Path:
    """Slices at ``places`` (LPS mm, or mm along z), or ``count`` of them 3 mm apart; slice k shows 1000 + 10 k."""
    for k, place in enumerate(places or [3 * k for k in range(count)]):
        position = [0, 0, place] if np.isscalar(place) else [float(f"{x:.8g}") for x in place]
        data = header(1000 + 10 * k, **{"InstanceNumber": k + 1, "ImagePositionPatient": position} | tags)
        written(folder / f"{prefix}{k}.dcm", data)
    return folder


def changed(folder: Path, **tags: Any) -> Path:
    """The same files with other tags; None removes one."""
    for path in sorted(folder.iterdir()):
        data = pydicom.dcmread(path)
        for name, value in tags.items():
            delattr(data, name) if value is None else setattr(data, name, value)
        data.save_as(path)
    return folder


def multi_frame(path: Path, places: list[float], slopes: tuple[float, ...] = ()) -> Path:
    """One enhanced MR file whose frames lie at ``places`` mm along z, in that order; the value tells the place."""

    def sequence(**tags: Any) -> list[Dataset]:
        item = Dataset()
        for name, value in tags.items():
            setattr(item, name, value)
        return [item]

    frames = []
    for k, place in enumerate(places):
        frame = Dataset()
        frame.PlanePositionSequence = sequence(ImagePositionPatient=[0, 0, place])
        if slopes:
            frame.PixelValueTransformationSequence = sequence(RescaleSlope=slopes[k], RescaleIntercept=0)
        frames.append(frame)
    shared = Dataset()
    shared.PlaneOrientationSequence = sequence(ImageOrientationPatient=list(AXIAL))
    shared.PixelMeasuresSequence = sequence(PixelSpacing=[0.8, 0.9], SliceThickness=3)
    data = header(SOPClassUID=ENHANCED, ImageOrientationPatient=None, PixelSpacing=None, NumberOfFrames=len(places))
    data.PixelData = b"".join(pixels(1000 + round(10 * place / 3)).tobytes() for place in places)
    data.SharedFunctionalGroupsSequence, data.PerFrameFunctionalGroupsSequence = [shared], frames
    return written(path, data)
