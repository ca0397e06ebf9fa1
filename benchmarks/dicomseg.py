"""DICOM segmentations of series in every orientation: read back, placed by positions, and looked at by dciodvfy.

    python benchmarks/dicomseg.py [SERIES_FOLDER ...] [--output benchmarks/results/dicomseg.md]

Small series are made (Testing/dicom_files.py); folders of real ones may be added. Nothing is segmented: three labels
are drawn at random. "Voxels" compares every voxel of the label map with what pydicom reads, each frame put into the
volume by its own ImagePositionPatient and ImageOrientationPatient, nothing taken from the order of frames or files.
dciodvfy is in Debian's dicom3tools.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from DeSAMSegmentLib.data.dicom_seg import Algorithm, DicomSegmentation
from DeSAMSegmentLib.data.reading import read_volume
from DeSAMSegmentLib.data.volume import LPS_FROM_RAS, Volume
from DeSAMSegmentLib.errors import BadInput
from DeSAMSegmentLib.files import write_text
from DeSAMSegmentLib.store.terminology import default_labels

sys.path.append(str(Path(__file__).resolve().parents[1] / "Testing"))
import dicom_files as made

LABELS = default_labels({1: "prostate", 4: "kidney_left", 7: "Läsion \\ 病灶"})
ALGORITHM = Algorithm("prostate-mr", "1.0", "0" * 64)
SLANT = np.array([0.0, 0.9, 3.0])
MODULES: dict[str, Any] = {  # what an MR image must have, beyond dicom_files' own
    "PatientName": "Müller^A", "PatientBirthDate": "19700101", "PatientSex": "O", "StudyDate": "20260101",
    "StudyTime": "120000", "StudyID": "1", "AccessionNumber": "", "SpecificCharacterSet": "ISO_IR 100",
    "Manufacturer": "M", "ReferringPhysicianName": "",
}  # fmt: skip


def series(folder: Path) -> dict[str, Path]:
    """Orientation -> folder of a small series."""
    normals = {name: np.cross(axes[:3], axes[3:]) for name, axes in AXES.items()}
    places = {name: [3.0 * k * normals[name] + (5, -7, 11) for k in range(5)] for name in AXES}
    found = {
        name: made.series(folder / name, places=places[name], ImageOrientationPatient=list(axes), **MODULES)
        for name, axes in AXES.items()
    }
    found["axial, stored from the top"] = made.series(folder / "down", places=[12, 9, 6, 3, 0], **MODULES)
    tilted = [k * SLANT for k in range(5)]
    found["axial, gantry tilt"] = made.series(folder / "tilt", places=tilted, **MODULES)
    frames = made.multi_frame(folder / "frames" / "f.dcm", [6, 0, 3, 9, 12])
    found["axial, frames of one file"] = made.changed(frames.parent, **MODULES)
    return found


AXES: dict[str, tuple[float, ...]] = {
    "axial": made.AXIAL, "axial, feet up": (1, 0, 0, 0, -1, 0), "sagittal": made.SAGITTAL, "coronal": made.CORONAL,
    "oblique": made.OBLIQUE,
}  # fmt: skip


def random_labels(volume: Volume, seed: int = 0) -> np.ndarray:
    """(K, J, I) label values in blocks, one slice empty."""
    labels = np.random.default_rng(seed).choice([0, 1, 4, 7], volume.array.shape).astype(np.uint8)
    labels[len(labels) // 2] = 0
    return labels


def placed(path: Path, volume: Volume) -> np.ndarray:
    """(K, J, I) label values of a written object, every frame where it says that it lies."""
    data = pydicom.dcmread(path)
    labels = np.zeros(volume.array.shape, np.uint8)
    to_ijk = np.linalg.inv(volume.ijk_to_ras)
    (shared,) = data.SharedFunctionalGroupsSequence
    frames = data.pixel_array.reshape(-1, data.Rows, data.Columns)
    for frame, own in zip(frames, data.PerFrameFunctionalGroupsSequence, strict=True):

        def group(name: str, own: Any = own) -> Any:
            return (own.get(name) or shared.get(name))[0]

        axes = np.array(group("PlaneOrientationSequence").ImageOrientationPatient, float).reshape(2, 3)
        rows, columns = map(float, group("PixelMeasuresSequence").PixelSpacing)
        corner = np.array(group("PlanePositionSequence").ImagePositionPatient, float)
        number = group("SegmentIdentificationSequence").ReferencedSegmentNumber
        r, c = np.nonzero(frame)
        lps = corner + np.outer(c * columns, axes[0]) + np.outer(r * rows, axes[1])
        ijk = np.column_stack((lps @ LPS_FROM_RAS, np.ones(len(lps)))) @ to_ijk.T
        near = np.rint(ijk[:, :3])
        assert not len(near) or np.abs(ijk[:, :3] - near).max() < 0.05, "a voxel between voxels"
        i, j, k = near.astype(int).T
        labels[k, j, i] = LABELS[number - 1].value
    return labels


def complaints(path: Path) -> tuple[list[str], list[str]]:
    """Errors and warnings of dciodvfy."""
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    return [line for line in lines if line.startswith("Error")], [line for line in lines if line.startswith("Warning")]


def row(name: str, source: Path, folder: Path) -> tuple[str, set[str]]:
    """A line of the table, and the warnings."""
    volume = read_volume(source)
    shape = " x ".join(map(str, volume.array.shape[::-1]))
    path = folder / "out.seg.dcm"
    try:
        DicomSegmentation(source, "", LABELS, ALGORITHM).write(path, labels := random_labels(volume))
    except BadInput as problem:
        return f"| {name} | {shape} | refused: {problem.what.partition(': ')[2]} | | |", set()
    equal = "all equal" if np.array_equal(placed(path, volume), labels) else "DIFFERENT"
    if not shutil.which("dciodvfy"):
        return f"| {name} | {shape} | {equal} | not installed | |", set()
    errors, warnings = complaints(path)
    return f"| {name} | {shape} | {equal} | {len(errors)} | {len(warnings)} |", {*errors, *warnings}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="Real DICOM series.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "dicomseg.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = series(folder) | {each.name: each for each in arguments.folders}
        rows = [row(name, source, folder) for name, source in sources.items()]
    said = sorted({text for _, texts in rows for text in texts})
    lines = ["# DICOM segmentations", "", "    python benchmarks/dicomseg.py SERIES_FOLDER ...", ""]
    lines += ["| Series | Voxels (i x j x k) | Read back | dciodvfy errors | warnings |", "|---|---|---|---|---|"]
    lines += [line for line, _ in rows]
    lines += ["", "What dciodvfy said:", "", *(f"- {text}" for text in said)] if said else []
    write_text(arguments.output, "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
