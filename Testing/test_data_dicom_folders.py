"""DICOM folders as they are found: deep, with other files, damaged, cut, with a DICOMDIR that lists too much."""

from __future__ import annotations

import os

import pydicom
import pytest
from DeSAMSegmentLib.data.reading import read_volume
from DeSAMSegmentLib.errors import BadVolume
from dicom_files import header, series, written
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet
from test_data_dicom import refusal, values


def test_folders_are_searched_to_the_bottom_with_what_else_lies_there(tmp_path):
    deep = series(tmp_path / "patient" / "study" / "1")
    for path in sorted(deep.iterdir()):
        path.rename(path.with_suffix(""))
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + b"\xff" * 50)  # broken
    (deep / "._I0").write_bytes(b"\x00\x05\x16\x07" * 100)
    (deep / "notes.txt").write_text("x")
    if os.name != "nt":
        (deep / "round").symlink_to(tmp_path)
    written(deep / "rs.dcm", header(Modality="RTSTRUCT", Rows=None, Columns=None, PixelData=None, SeriesInstanceUID="9",
                                    SOPClassUID="1.2.840.10008.5.1.4.1.1.481.3"))  # fmt: skip
    if hasattr(os, "mkfifo"):
        os.mkfifo(deep / "pipe.dcm")
    for path in (tmp_path, tmp_path / "DICOMDIR"):
        volume = read_volume(path)
        assert values(volume) == [1000, 1010, 1020, 1030]
        assert volume.note == ""


def test_a_file_without_preamble_is_read(tmp_path):
    for path in sorted(series(tmp_path).iterdir()):
        data = Dataset()
        data.update(pydicom.dcmread(path))
        pydicom.dcmwrite(path, data, implicit_vr=True, little_endian=True, enforce_file_format=False)
        assert path.read_bytes()[:2] == b"\x08\x00"
        path.rename(path.with_suffix(""))
    assert values(read_volume(tmp_path)) == [1000, 1010, 1020, 1030]


def test_a_slice_that_is_cut_anywhere_is_refused_or_named(tmp_path):
    path = series(tmp_path, 3) / "I1.dcm"
    whole = path.read_bytes()
    for length in range(0, len(whole), 23):
        path.write_bytes(whole[:length])
        try:
            note = read_volume(tmp_path).note
        except BadVolume as error:
            note = str(error)
        assert "I1.dcm" in note, length


def test_files_that_cannot_be_read_are_named(tmp_path):
    series(tmp_path)
    (tmp_path / "empty.dcm").touch()
    if os.name != "nt":
        (tmp_path / "gone.dcm").symlink_to(tmp_path / "nowhere")
        assert "cannot be read: empty.dcm, gone.dcm." in read_volume(tmp_path).note
    assert "cannot be read: empty.dcm" in read_volume(tmp_path).note
    for path in sorted(tmp_path.iterdir()):
        path.unlink()
        path.write_bytes(b"")
    assert "No DICOM file" in refusal(tmp_path)
    for path in sorted(tmp_path.iterdir()):
        path.unlink()
    assert "no DICOM images" in refusal(tmp_path)


@pytest.mark.parametrize("given", ["", "DICOMDIR"])
def test_what_a_dicomdir_lists_and_is_not_there_is_named(tmp_path, given):
    """One absent at an end of the stack leaves no gap that could tell."""
    series(tmp_path / "raw", StudyDate="20200101", StudyTime="010101", StudyID="1", PatientName="P", AccessionNumber="")
    listed = FileSet()
    for path in sorted((tmp_path / "raw").iterdir()):
        listed.add(path)
    listed.write(tmp_path / "disc")
    last = tmp_path / "disc/PT000000/ST000000/SE000000/IM000003"
    assert not read_volume(tmp_path / "disc" / given).note
    last.rename(last.with_name("im000003.;1"))  # as some systems show a disc
    assert not read_volume(tmp_path / "disc" / given).note
    last.with_name("im000003.;1").unlink()
    assert "missing or cannot be read: IM000003." in read_volume(tmp_path / "disc" / given).note


def test_a_folder_without_dicom_is_refused_quietly(tmp_path, capfd):
    (tmp_path / "readme.txt").write_text("nothing here")
    assert "no DICOM images" in refusal(tmp_path)
    assert capfd.readouterr().err == ""
