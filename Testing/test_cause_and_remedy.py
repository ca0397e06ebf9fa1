"""What is wrong with a file is said by its true cause, and the remedy that is advised works: each is tried."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from data_samples import message
from DeSAMSegmentLib.data.reading import read_labels, read_volume
from DeSAMSegmentLib.errors import BadLabels, BadVolume

ARRAY = np.random.default_rng(0).integers(0, 1000, (5, 9, 7)).astype(np.int16)
IMAGE = sitk.GetImageFromArray(ARRAY)
IMAGE.SetSpacing((0.8, 0.9, 3.0))
Step = Callable[[Path], Path | None]


@dataclass(frozen=True)
class Fault:
    """A file under ``name``, the words of cause and remedy, and the remedy as it would be carried out.

    repair: makes the file readable again, or returns another that is.
    """

    name: str
    spoil: Step
    cause: str
    remedy: str
    repair: Step


def put(content: bytes | Callable[[bytes], bytes]) -> Step:
    """Other bytes instead of the file's, or made of the file's."""

    def spoil(path: Path) -> None:
        if not callable(content):
            path.write_bytes(content)
            return
        plain = path.with_name(f"plain{''.join(path.suffixes).lower()}")  # ITK writes no suffix in capitals
        sitk.WriteImage(IMAGE, str(plain))
        path.write_bytes(content(plain.read_bytes()))

    return spoil


def compressed(path: Path) -> None:
    sitk.WriteImage(IMAGE, str(path), True)


def again(path: Path) -> None:
    """Copied or exported again."""
    sitk.WriteImage(IMAGE, str(path))


def renamed(suffix: str) -> Step:
    return lambda path: path.rename(path.with_name(f"renamed{suffix}"))


def advised(path: Path, remedy: str) -> Path:
    """The command in a remedy, carried out as a user would."""
    target = path.with_name("one.nii.gz")
    command = remedy.partition("SimpleITK: ")[2].rstrip(".").replace("'one.nii.gz'", repr(str(target)))
    assert command, remedy
    exec(command, {**vars(sitk), "file": str(path)})
    return target


def without(partner: str, made: Step | None = None) -> Step:
    """An image of two files without one of them, which waits as ``kept``."""

    def spoil(path: Path) -> None:
        (made or again)(path)
        path.with_name(partner).rename(path.with_name("kept"))

    return spoil


def brought(partner: str) -> Step:
    def repair(path: Path) -> None:
        path.with_name("kept").rename(path.with_name(partner))

    return repair


def pair(path: Path) -> None:
    nibabel.Nifti1Pair(ARRAY.T, np.diag([0.8, 0.9, 3, 1])).to_filename(path.with_suffix(".hdr"))


def encoded(encoding: str, change: Callable[[bytes], bytes]) -> Step:
    def spoil(path: Path) -> None:
        nrrd.write(str(path), ARRAY.T, {"encoding": encoding})
        path.write_bytes(change(path.read_bytes()))

    return spoil


def flipped(data: bytes) -> bytes:
    return data[:-60] + bytes([data[-60] ^ 255]) + data[-59:]


def spaced(path: Path) -> None:
    """Its spacing set, and saved again."""
    text, mark, voxels = path.read_bytes().partition(b"ElementDataFile" if path.suffix == ".mha" else b"\n\n")
    for wrong in (b" 0\n", b" nan\n", b",0)\n"):
        text = text.replace(b"0.90000000000000002" + wrong, b"0.90000000000000002" + wrong[:1] + b"3\n")
    path.write_bytes(text.replace(b"(0,0,0)\nkinds", b"(0,0,3)\nkinds") + mark + voxels)


def slices_listed(path: Path) -> None:
    """A header over one raw file per slice, of which the third is missing."""
    names = [f"s{k}.raw" for k in range(5)]
    for name, plane in zip(names, ARRAY, strict=True):
        path.with_name(name).write_bytes(plane.tobytes())
    fields = "ObjectType = Image\nNDims = 3\nDimSize = 7 9 5\nElementType = MET_SHORT\nElementDataFile = LIST\n"
    path.write_text(fields + "\n".join(names) + "\n")
    path.with_name("s2.raw").rename(path.with_name("kept"))


COPY = "Copy or export it again"
FRAME = "Extract one frame first"
THICK = b"ElementSpacing = 0.80000000000000004 0.90000000000000002 "
FAULTS = [
    *(
        Fault(name, put(b""), "is empty: it has 0 bytes", COPY, again)
        for name in ("a.nii", "a.nii.gz", "a.nrrd", "a.mha", "A.NRRD")
    ),
    Fault("a.nii", put(gzip.compress), "is compressed", "rename it to .nii.gz", renamed(".nii.gz")),
    Fault("a.nii.gz", put(gzip.decompress), "is not a gzip file", "rename it to .nii", renamed(".nii")),
    Fault("A.NII.GZ", put(gzip.decompress), "is not a gzip file", "rename it to .nii", renamed(".NII")),
    Fault("a.nii.gz", put(bz2.compress), "nor a NIfTI file", "Export or download", again),
    Fault("a.nii.gz", put(b"<html>Please log in</html>" * 99), "nor a NIfTI file", "Export or download", again),
    Fault("a.mha", put(lambda b: b.replace(THICK + b"3", THICK + b"0")), "voxel size that is zero", "spacing", spaced),
    Fault("a.mha", put(lambda b: b.replace(THICK + b"3", THICK + b"nan")), "is zero or no number", "spacing", spaced),
    Fault("a.nrrd", put(lambda b: b.replace(b"(0,0,3)", b"(0,0,0)")), "a spacing of zero", "spacing", spaced),
    Fault("a.mhd", without("a.raw"), "its voxels in a.raw, which is not beside it", "Copy both", brought("a.raw")),
    Fault(
        "a.mhd",
        without("a.zraw", compressed),
        "in a.zraw, which is not",
        "Copy both",
        brought("a.zraw"),
    ),
    Fault("a.mhd", slices_listed, "lists s2.raw, which is not beside it", "Copy all of its files", brought("s2.raw")),
    Fault("a.nhdr", without("a.raw"), "a.raw, which is missing", "Copy both", brought("a.raw")),
    Fault("a.hdr", without("a.img", pair), "one file of two, and a.img is not", "Copy both files", brought("a.img")),
    Fault("a.img", without("a.hdr", pair), "one file of two, and a.hdr is not", "Copy both files", brought("a.hdr")),
    Fault("a.nrrd", encoded("bzip2", lambda b: b[:-20]), "is cut short", COPY, again),
    Fault("a.nrrd", encoded("bzip2", flipped), "is damaged inside", COPY, again),
    Fault("a.nrrd", encoded("raw", lambda b: b.replace(b"raw", b"hex")), "is encoded as hex", "Save it again", again),
]


def checked(error: pytest.ExceptionInfo, fault: Fault) -> str:
    text = message(error)
    assert fault.cause in text
    assert fault.remedy in error.value.do
    assert "0x" not in text, "an address in memory helps nobody"
    return error.value.do


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.name}: {fault.cause}")
def test_the_cause_is_named_and_the_remedy_works(fault: Fault, tmp_path: Path, capfd) -> None:
    path = tmp_path / fault.name
    fault.spoil(path)
    with pytest.raises(BadVolume) as error:
        read_volume(path)
    checked(error, fault)
    assert capfd.readouterr() == ("", ""), "C++ libraries say nothing past the program"
    found = read_volume(fault.repair(path) or path)
    np.testing.assert_array_equal(found.array, ARRAY)


FRAMES = {
    "time.nii.gz": lambda: sitk.JoinSeries([IMAGE, IMAGE + 1, IMAGE + 2]),
    "time.mha": lambda: sitk.JoinSeries([IMAGE, IMAGE + 1, IMAGE + 2]),
    "time.nrrd": lambda: sitk.JoinSeries([IMAGE, IMAGE + 1, IMAGE + 2, IMAGE + 3]),
    "two.mha": lambda: sitk.Compose([IMAGE, IMAGE + 1]),
    "two.nrrd": lambda: sitk.Compose([IMAGE, IMAGE + 1]),
    "six.mha": lambda: sitk.Compose([IMAGE] * 6),
}


@pytest.mark.parametrize("name", FRAMES)
def test_several_frames_are_no_colours_and_the_first_can_be_had(name: str, tmp_path: Path) -> None:
    path, made = tmp_path / name, FRAMES[name]()
    sitk.WriteImage(made, str(path))
    frames = made.GetNumberOfComponentsPerPixel() * (made.GetSize()[3] if made.GetDimension() == 4 else 1)
    with pytest.raises(BadVolume) as error:
        read_volume(path)
    remedy = checked(error, Fault(name, again, f"a series of {frames} frames", FRAME, again))
    np.testing.assert_array_equal(read_volume(advised(path, remedy)).array, ARRAY)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha", ""])
def test_a_companion_file_of_macos_names_the_file_itself(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"._scan{suffix}"
    path.write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X" + bytes(200))
    with pytest.raises(BadVolume) as error:
        read_volume(path)
    assert "macOS keeps attributes" in message(error)
    assert f"Use scan{suffix}, the file itself" in error.value.do


@pytest.mark.parametrize("factor", [1.0000001, 0.9999999, 1.0004])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_labels_a_hair_off_a_whole_number_are_labels(factor: float, dtype: type, tmp_path: Path) -> None:
    drawn = (ARRAY > 500).astype(np.uint8)
    path = tmp_path / "a.nii.gz"
    nibabel.Nifti1Image((drawn * factor).astype(dtype).T, np.eye(4)).to_filename(path)
    np.testing.assert_array_equal(read_labels(path).array, drawn)
    nibabel.Nifti1Image((drawn * 0.7).astype(dtype).T, np.eye(4)).to_filename(path)
    with pytest.raises(BadLabels, match="probability map"):
        read_labels(path)
