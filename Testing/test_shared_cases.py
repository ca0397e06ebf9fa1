"""Every odd image that was tried on the program: what it is, and the right answer, in one table.

Each is made here by code. Where the folder ``shared/cases`` lies beside the checkout, the originals are asked too.
"""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from conftest import blob
from data_samples import SHARED, message
from DeSAMSegmentLib.data.reading import read_labels, read_volume
from DeSAMSegmentLib.data.volume import Volume
from DeSAMSegmentLib.data.writing import write_labelmap
from DeSAMSegmentLib.errors import BadVolume
from dicom_files import CORONAL, multi_frame, series

CASES = SHARED.parent / "cases"
Build = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """How it is made, and the right answer: slices, the step from one to the next in mm RAS, words of the note; or the
    words of the refusal."""

    build: Build
    slices: int = 10
    step: tuple[float, float, float] = (0, 0, 3)
    note: str = ""
    refused: str = ""


def coronal(folder: Path, count: int, uid: str) -> None:
    places = [(0, 5 * k, 0) for k in range(count)]
    series(folder, places=places, ImageOrientationPatient=list(CORONAL), SeriesInstanceUID=uid, prefix="S")


def several(*builds: Build) -> Build:
    return lambda folder: [build(folder) for build in builds]


def ten(folder: Path, **tags: Any) -> Path:
    return series(folder, 10, **tags)


def tilted(folder: Path) -> object:
    turn = np.radians(20)
    axes = [1, 0, 0, 0, float(f"{np.cos(turn):.8g}"), float(f"{np.sin(turn):.8g}")]
    return ten(folder, Modality="CT", ImageOrientationPatient=axes)


def copied_twice(folder: Path) -> object:
    return [shutil.copy(path, path.with_name(f"{path.stem} (1).dcm")) for path in sorted(ten(folder).iterdir())]


def study(folder: Path) -> object:
    (folder / "P1/ST1/SE1").mkdir(parents=True)
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    return ten(folder / "P1/ST1/SE1")


SAME_PLACE = "more than one image at a position ({0} images, 10 positions)"
THREE_EACH = [3 * (k // 3) for k in range(30)]
DICOM = {
    "plain": Case(ten),
    "enhanced": Case(lambda folder: multi_frame(folder / "a.dcm", [3 * k for k in range(10)])),
    "enhanced_reversed": Case(lambda folder: multi_frame(folder / "a.dcm", [27 - 3 * k for k in range(10)])),
    "localizer_same_uid": Case(several(ten, lambda folder: coronal(folder, 1, "1.2.3.1")), note="Left out of series 1"),
    "two_stacks": Case(
        several(lambda folder: series(folder, 5), lambda folder: coronal(folder, 5, "1.2.3.1")), refused="2 stacks of 5"
    ),
    "scout_bigger": Case(
        several(ten, lambda folder: coronal(folder, 15, "1.2.3.2")), note="left out: series 1 (MR, 15"
    ),
    "enh_plus_loc": Case(
        several(
            lambda folder: multi_frame(folder / "a.dcm", [3 * k for k in range(10)]),
            lambda folder: coronal(folder, 3, "1.2.3.2"),
        ),
        note="(MR, 10 slices) is read; left out: series 1 (MR, 3 slices)",
    ),
    "two_equal": Case(
        several(
            lambda folder: ten(folder, SeriesDescription="t2_tse_tra"),
            lambda folder: ten(folder, SeriesDescription="ADC", SeriesInstanceUID="1.2.3.2", prefix="A"),
        ),
        refused="(t2_tse_tra, MR, 10 slices), series 1 (ADC, MR, 10 slices)",
    ),
    "tilt": Case(tilted, note="20.0 degrees (gantry tilt)"),
    "missing": Case(
        lambda folder: series(folder, places=[0, 3, 6, 9, 18, 21, 24, 27]), note="9.0 mm instead of 3.0 mm"
    ),
    "variable": Case(
        lambda folder: series(folder, places=[0, 1, 2, 3, 4, 9, 14, 19, 24, 29]), 30, (0, 0, 1), "not evenly spaced"
    ),
    "dynamic": Case(
        lambda folder: series(folder, places=[3 * k for k in range(10)] * 3), refused=SAME_PLACE.format(30)
    ),
    "two_echoes": Case(
        lambda folder: series(folder, places=[3 * k for k in range(10)] * 2), refused=SAME_PLACE.format(20)
    ),
    "dwi_pos_major": Case(
        lambda folder: series(folder, places=THREE_EACH), refused="more than one image at a position"
    ),
    "no_ipp": Case(lambda folder: ten(folder, ImagePositionPatient=None), note="3.0 mm apart (SliceThickness)"),
    "single": Case(lambda folder: series(folder, 1), 1, note="its thickness, 3.0 mm, is used"),
    "deep": Case(study),
    "study_root": Case(
        several(lambda folder: ten(folder / "s1"), lambda folder: ten(folder / "s2", SeriesInstanceUID="1.2.3.2")),
        refused="with the UID 1.2.3.1 in s1, series 1 (MR, 10 slices) with the UID 1.2.3.2 in s2",
    ),
    "copied_twice": Case(copied_twice),
}


def nifti(change: Callable[[nibabel.Nifti1Header], object] | None = None, sform: object = None) -> Build:
    """Twelve slices; the qform is plain, the sform another where one is given."""

    def build(path: Path) -> None:
        array, _ = blob((12, 40, 48))
        image = nibabel.Nifti1Image(array.T, PLAIN)
        image.set_qform(PLAIN, code=1)
        image.set_sform(PLAIN if sform is None else sform, code=2)
        if change is not None:
            change(image.header)
        # by hand: nibabel would write a sform of its own
        image.header["vox_offset"] = 352
        path.write_bytes(image.header.binaryblock + bytes(4) + array.tobytes())

    return build


def offset_nan(path: Path) -> None:
    """ITK wrote a line of its own about it, in the middle of a batch."""
    nifti()(path)
    raw = bytearray(path.read_bytes())
    raw[108:112] = np.array(np.nan, "<f4").tobytes()
    path.write_bytes(raw)


def put(**fields: object) -> Callable[[nibabel.Nifti1Header], object]:
    return lambda header: [header.__setitem__(name, value) for name, value in fields.items()]


PLAIN = np.array([[-0.8, 0, 0, 20], [0, 0.9, 0, -30], [0, 0, 3, 5], [0, 0, 0, 1.0]])


def leaning(row: int, column: int, by: float) -> np.ndarray:
    affine = PLAIN.copy()
    affine[row, column] += by
    return affine


NIFTI = {
    "plain": Case(nifti(), 12),
    "sform_ne_qform": Case(nifti(sform=leaning(0, 3, 14)), 12, note="the sform counts, not the qform"),
    "zero_pixdim_sform": Case(nifti(put(pixdim=[1, 0, 0, 0, 0, 0, 0, 0])), 12),
    "tilt18_q_ok": Case(nifti(sform=leaning(1, 2, 0.975)), 12, (0, 0.975, 3), "the sform counts, not the qform"),
    "shear3": Case(nifti(put(qform_code=0), leaning(0, 1, -0.042)), 12),
    "nan_srow": Case(nifti(put(srow_z=[np.nan] * 4)), refused="a position (sform) that is not a number"),
    "slope0_inter": Case(nifti(put(scl_slope=0, scl_inter=-1000)), 12),
}


def voxel_bytes(*shape: int) -> bytes:
    return np.random.default_rng(0).integers(0, 1000, shape).astype("<i2").tobytes()


def detached(sizes: str, directions: str, *shape: int, kinds: str = "") -> Build:
    text = (
        f"NRRD0004\ntype: short\ndimension: {len(sizes.split())}\nspace: left-posterior-superior\nsizes: {sizes}\n"
        f"space directions: {directions}\n{kinds}endian: little\nencoding: raw\nspace origin: (1,2,3)\n\n"
    )
    return lambda path: path.write_bytes(text.encode() + voxel_bytes(*shape))


def sheared_mha(path: Path) -> None:
    text = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        "TransformMatrix = 1 0 0 0 1 0 0 0.34 0.94\nElementSpacing = 0.8 0.9 3\nDimSize = 9 7 8\n"
        "ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    )
    path.write_bytes(text.encode() + voxel_bytes(8, 7, 9))


AXES = "(0.8,0,0) (0,0.9,0) (0,0,3)"
OTHER = {
    "sheared.nrrd": Case(detached("9 7 8", "(0.8,0,0) (0,0.9,0) (0,1.0,2.82)", 8, 7, 9), 8, (0, -1.0, 2.82)),
    "shear.mha": Case(sheared_mha, 8, (0, -1.02, 2.82)),
    "list4d.nrrd": Case(
        detached("3 9 7 8", f"none {AXES}", 8, 7, 9, 3, kinds="kinds: list domain domain domain\n"),
        refused="a series of 3 frames",
    ),
    "time_last.nrrd": Case(
        detached("9 7 8 2", f"{AXES} none", 2, 8, 7, 9, kinds="kinds: domain domain domain list\n"),
        refused="a series of 2 frames",
    ),
}
NRRD = {"type": "short", "dimension": "3", "space": "left-posterior-superior", "sizes": "9 7 8"}
NRRD |= {"space directions": AXES, "endian": "little", "encoding": "raw", "space origin": "(1,2,3)"}
META = {"NDims": "3", "ElementSpacing": "0.8 0.9 3", "DimSize": "9 7 8", "ElementType": "MET_SHORT"}
NO_SPACE = {"space": None, "space directions": None, "space origin": None}
FOUR = {"dimension": "4", "space directions": None, "space origin": None, "space": None, "spacings": "nan 0.8 0.9 3"}


def nrrd_with(values: int = 1, **changes: Any) -> Build:
    """A plain NRRD with other fields (blanks as underscores); None leaves one out."""
    fields = NRRD | {name.replace("_", " "): text for name, text in changes.items()}
    text = "NRRD0004\n" + "".join(f"{name}: {given}\n" for name, given in fields.items() if given) + "\n"
    return lambda path: path.write_bytes(text.encode() + voxel_bytes(8, 7, 9, values))


def meta_with(data: bytes = voxel_bytes(8, 7, 9), **changes: Any) -> Build:
    fields = META | changes
    text = "".join(f"{name} = {given}\n" for name, given in fields.items() if given)
    return lambda path: path.write_bytes(text.encode() + b"ElementDataFile = LOCAL\n" + data)


def spaced(changes: dict[str, Any]) -> dict[str, Any]:
    return {name.replace(" ", "_"): text for name, text in changes.items()}


QFORM = {"sform_code": 0, "pixdim": [1, -0.8, 0.9, 3, 0, 0, 0, 0]}
ONE_MM = "gives no voxel size: 1 mm is assumed"
HERE = {  # members of the same kinds of which no file lies in the shared cases
    "nifti/negative_pixdim.nii": Case(nifti(put(**QFORM)), 12, (0, 0, -3)),
    "nifti/qfac_0.nii": Case(nifti(put(sform_code=0, pixdim=[0, 0.8, 0.9, 3, 0, 0, 0, 0])), 12, (0, 0, -3)),
    "nifti/qfac_-1.nii": Case(nifti(put(sform_code=0)), 12),
    "nifti/quaternion_nan.nii": Case(nifti(put(sform_code=0, quatern_b=np.nan)), refused="a position (qform)"),
    "nifti/no_rotation.nii": Case(nifti(put(sform_code=0, quatern_b=1, quatern_c=1)), refused="a position (qform)"),
    "more/sform_flat.nii": Case(nifti(put(srow_z=[0, 0, 0, 5])), 12, note="cannot be used (axes in one plane)"),
    "nifti/only_zeros.nii": Case(
        nifti(put(srow_x=[0] * 4, srow_y=[0] * 4, srow_z=[0] * 4, qform_code=0)), refused="a position (sform)"
    ),
    "more/metres.nii": Case(nifti(put(xyzt_units=1)), 12, (0, 0, 3000), "The unit of metres.nii is metres"),
    "more/microns.nii": Case(nifti(put(xyzt_units=3)), 12, (0, 0, 0.003), "is micrometres"),
    "nifti/offset_nan.nii": Case(offset_nan, refused="a damaged header"),
    "nifti/bits.nii": Case(nifti(put(datatype=1, bitpix=1)), refused="an unknown type (datatype 1)"),
    "nifti/intercept_nan.nii": Case(nifti(put(scl_slope=2, scl_inter=np.nan)), refused="a damaged header"),
    "other/ras_time.nrrd": Case(nrrd_with(space="right-anterior-superior-time"), 8),
    "other/rast.nrrd": Case(nrrd_with(space="RAST", space_directions="(-0.8,0,0) (0,0.9,0) (0,0,-3)"), 8, (0, 0, -3)),
    "other/scanner.nrrd": Case(nrrd_with(space="scanner-xyz"), 8),
    "other/space.nrrd": Case(nrrd_with(space="up-down-sideways"), refused="the space 'up-down-sideways', which is"),
    "other/mins.nrrd": Case(
        nrrd_with(**spaced(NO_SPACE), spacings="0.8 0.9 3", axis_mins="5 6 7"), refused="by axis mins and maxs"
    ),
    "other/nothing.nrrd": Case(nrrd_with(**spaced(NO_SPACE)), 8, (0, 0, 1), ONE_MM),
    "other/one_frame.nrrd": Case(nrrd_with(**spaced(FOUR), sizes="1 9 7 8", kinds="list domain domain domain"), 8),
    "other/three_frames.nrrd": Case(
        nrrd_with(3, **spaced(FOUR), sizes="3 9 7 8", kinds="list domain domain domain"), refused="a series of 3 frames"
    ),
    "other/flat_in_space.nrrd": Case(
        nrrd_with(dimension="2", sizes="9 56", space_directions="(0.8,0,0) (0,0.9,0)"), refused="do not fit"
    ),
    "other/cm.nrrd": Case(nrrd_with(space_units='"cm" "cm" "cm"'), 8, note="in mm, not in cm"),
    "other/tail.nrrd": Case(nrrd_with(2), refused="longer than announced"),
    "other/no_spacing.mha": Case(meta_with(ElementSpacing=None), 8, (0, 0, 1), ONE_MM),
    "other/one_spacing.mha": Case(meta_with(ElementSpacing="0.8"), refused="a damaged header"),
    "other/three_of_four.mha": Case(meta_with(NDims="4"), refused="a damaged header"),
    "other/negative.mha": Case(meta_with(DimSize="-9 7 8"), refused="a damaged header"),
    "other/singular.mha": Case(meta_with(TransformMatrix="1 0 0 1 0 0 0 0 1"), refused="axes that lie in one plane"),
    "other/bool.mha": Case(meta_with(ElementType="MET_BOOL"), refused="voxels of type MET_BOOL"),
    "other/ascii.mha": Case(meta_with(b"1 2 3 " * 168, BinaryData="False"), 8),
    "other/foreign.mha": Case(meta_with(BinaryDataByteOrderMSB="True"), 8),
    "other/at_the_end.mha": Case(meta_with(b"some words" + voxel_bytes(8, 7, 9), HeaderSize="-1"), 8),
}
TABLE = {
    **{f"dicom/{name}": case for name, case in DICOM.items()},
    **{f"nifti/{name}.nii.gz": case for name, case in NIFTI.items()},
    **{f"other/{name}": case for name, case in OTHER.items()},
}


def made(name: str, case: Case, folder: Path) -> Path:
    target = folder / Path(name).name
    if name.startswith("dicom/"):
        target.mkdir()
    if name.endswith(".gz"):  # the builder writes it plainly
        plain = folder / "plain.nii"
        case.build(plain)
        target.write_bytes(gzip.compress(plain.read_bytes()))
    else:
        case.build(target)
    return target


@pytest.mark.parametrize(
    ("name", "origin"),
    [*((name, "made here") for name in TABLE | HERE), *((name, "shared") for name in TABLE)],
)
def test_every_case_has_its_right_answer(name: str, origin: str, tmp_path: Path, capfd) -> None:
    case = (TABLE | HERE)[name]
    if origin == "shared" and not CASES.is_dir():
        pytest.skip("the shared cases are not on this machine")
    path = made(name, case, tmp_path) if origin == "made here" else CASES / name
    if case.refused:
        with pytest.raises(BadVolume) as error:
            read_volume(path)
        assert case.refused in message(error)
        assert not "".join(capfd.readouterr()), "a library said something besides"
        return
    volume = read_volume(path)
    assert len(volume.array) == case.slices
    np.testing.assert_allclose(volume.ijk_to_ras[:3, 2], case.step, atol=2e-3)
    assert case.note in volume.note
    assert bool(case.note) == bool(volume.note), volume.note
    if name.startswith("nifti/"):
        np.testing.assert_allclose(volume.ijk_to_ras, nibabel.Nifti1Image.from_filename(path).affine, atol=1e-5)
    written_as_read(volume, tmp_path)


def written_as_read(volume: Volume, folder: Path) -> None:
    """A label map of the volume lies where the volume does, in every format."""
    labels = (volume.array > np.median(volume.array)).astype(np.uint8)
    for suffix in (".nii.gz", ".nrrd", ".mha"):
        path = folder / f"out{suffix}"
        write_labelmap(path, labels, volume)
        again = read_labels(path)
        np.testing.assert_allclose(again.ijk_to_ras, volume.ijk_to_ras, atol=1e-4, err_msg=suffix)
        np.testing.assert_array_equal(again.array, labels)


def test_the_table_holds_every_image_of_the_shared_cases() -> None:
    if not CASES.is_dir():
        pytest.skip("the shared cases are not on this machine")
    there = {f"{kind}/{path.name}" for kind in ("dicom", "nifti", "other") for path in (CASES / kind).iterdir()}
    assert there == set(TABLE)
