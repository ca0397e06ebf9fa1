"""A folder of DICOM slices as one image (GDCM through SimpleITK)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .grid import Refusal, quiet

POSITION = "0020|0032"  # Image Position (Patient)
UNEVEN = 0.1  # share of the usual distance by which two slices may be off


def read_series(folder: Path, error: Refusal) -> tuple[sitk.Image, str]:
    """The series with the most files of a folder, and a sentence for the log if there is something to say.

    Raises:
      error: no DICOM images, colour, or images that do not stack to one volume.
    """
    with quiet():
        series = {
            uid: sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid)
            for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        }
    if not series:
        raise error(f"There are no DICOM images in {folder}.", "Give the folder with the slices of one series.")
    files = max(series.values(), key=len)
    notes = []
    if len(series) > 1:
        notes.append(
            f"{folder.name} holds {len(series)} DICOM series; the largest, of {len(files)} files, is read. "
            "For another one, put its files into a folder of their own."
        )
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    reader.MetaDataDictionaryArrayUpdateOn()
    try:
        with quiet():
            image = reader.Execute()
    except RuntimeError as problem:
        raise error(
            f"The DICOM series in {folder} is no single volume ({str(problem).splitlines()[-1][:120]}).",
            "Load it in Slicer and save it as NRRD, or remove the files that do not belong to it.",
        ) from None
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise error(f"The DICOM series in {folder} is in colour.", "Choose a series with grey values.")
    if image.GetDimension() == 4:
        image = image[:, :, :, 0]
    notes += _gaps(_positions(reader, len(files)), folder, error)
    return image, " ".join(notes)


def _positions(reader: sitk.ImageSeriesReader, count: int) -> np.ndarray:
    """(count, 3) positions in reading order, mm; empty when a file does not tell."""
    if not all(reader.HasMetaDataKey(i, POSITION) for i in range(count)):
        return np.zeros((0, 3))
    return np.array([[float(x) for x in reader.GetMetaData(i, POSITION).split("\\")] for i in range(count)])


def _gaps(positions: np.ndarray, folder: Path, error: Refusal) -> list[str]:
    """Whether slices lie on top of one another (refused) or are missing (said)."""
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    if steps.size == 0:
        return []
    if steps.min() < 1e-3:
        raise error(
            f"The DICOM series in {folder} holds several images of the same place (time points, echoes).",
            "Put the files of one of them into a folder of their own.",
        )
    usual = float(np.median(steps))
    odd = np.flatnonzero(np.abs(steps - usual) > UNEVEN * usual)
    if odd.size == 0:
        return []
    return [
        f"The slices of {folder.name} are not evenly spaced: {steps[odd[0]]:.1f} mm instead of {usual:.1f} mm after "
        f"slice {odd[0] + 1}. One may be missing, and places beyond it are not exact."
    ]
