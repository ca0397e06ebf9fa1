"""Many volumes in one call: what ends one of them, what ends all, and which files are volumes at all."""

from __future__ import annotations

import importlib
import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import dicom_files
import pytest
from conftest import blob, write_nifti
from desam_cli import main
from desam_cli.options import build
from desam_cli.selection import choose_labels
from DeSAMSegmentLib.data.reading import read_volume
from DeSAMSegmentLib.engine.events import CaseDone, CaseFailed
from DeSAMSegmentLib.engine.options import SegmentOptions
from DeSAMSegmentLib.errors import BadInput, BadLabels
from DeSAMSegmentLib.files import probe

segment = importlib.import_module("desam_cli.segment")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("a library says"), ValueError("NaN"), OSError(5, "I/O")])
def test_any_error_costs_one_volume_and_is_reported_with_its_class(error: Exception, monkeypatch) -> None:
    def one(work: object, target: SimpleNamespace) -> dict:
        if target.name == "bad":
            raise error
        return {"millilitres": {}}

    monkeypatch.setattr(segment, "_one", one)
    said: list = []
    targets = [SimpleNamespace(name=name) for name in ("first", "bad", "last")]
    assert segment._all(SimpleNamespace(show=said.append), targets) == 1
    assert [type(event) for event in said[:3]] == [CaseDone, CaseFailed, CaseDone]
    assert said[1].reason.startswith(f"{type(error).__name__}: ")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_ctrl_c_and_a_full_disk_end_all(error: BaseException, monkeypatch) -> None:
    def one(work: object, target: object) -> dict:
        raise error

    monkeypatch.setattr(segment, "_one", one)
    with pytest.raises(type(error)):
        segment._all(SimpleNamespace(show=print), ["one", "two"])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names themselves")
def test_a_name_that_is_not_utf8_is_refused_before_a_library_sees_it(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "plain.nrrd", blob()[0])
    odd = os.fsencode(tmp_path) + b"/caf\xe9.nrrd"
    os.rename(path, odd)
    with pytest.raises(BadInput, match=r"caf\\udce9.nrrd is not valid UTF-8"):
        read_volume(os.fsdecode(odd))
    with pytest.raises(BadInput, match="not valid UTF-8"):
        segment.plan(tmp_path, Path(os.fsdecode(os.fsencode(tmp_path) + b"/out\xe9")), "seg.nrrd")


def test_a_name_that_the_code_page_lacks_is_shown_with_escapes(monkeypatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="cp1252"))
    assert main(["--version"]) == 0
    print("\u05d0.nii", flush=True)
    assert raw.getvalue().endswith(b"\\u05d0.nii\n")


@pytest.mark.parametrize(
    ("files", "volumes"),
    [
        (["a", "b", "c", "x_0000"], ["a", "b", "c", "x"]),
        (["x_0000", "x_0001", "y_0000", "y_0001"], ["x", "y"]),
        (["x", "x_0000"], ["x", "x_0000"]),
        (["scan_0001", "scan_0002"], ["scan_0001", "scan_0002"]),
        (["p_0001", "x_0000", "x_0001"], ["p_0001", "x"]),
    ],
)
def test_a_first_channel_swallows_only_its_own_other_channels(files, volumes, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / f"{name}.nii.gz").write_bytes(b"")
    assert [each.name for each in segment.plan(tmp_path, tmp_path / "out", "seg.nrrd")] == volumes


def test_the_folder_one_stands_in_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its result was a hidden file called .seg.nrrd."""
    folder = dicom_files.series(tmp_path / "scan")
    for inside, given in ((folder, "."), (folder, ""), (folder / "below", "..")):
        inside.mkdir(exist_ok=True)
        monkeypatch.chdir(inside)
        (target,) = segment.plan(Path(given), tmp_path / "out", "nii.gz")
        assert (target.name, target.path.name) == ("scan", "scan.nii.gz")


@pytest.mark.skipif(os.name == "nt", reason="links need privileges there")
def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    volume = tmp_path / "a.nii.gz"
    volume.write_bytes(b"")
    for name in ("circle", "circle.nii.gz"):
        (tmp_path / name).symlink_to(tmp_path / name)
        (target,) = segment.plan(volume, tmp_path / name, "seg.nrrd")
        with pytest.raises(BadInput, match="cannot be written"):
            probe(target.path if name == "circle" else tmp_path / name / "below")


def test_labels_are_found_whatever_their_case_blanks_and_hyphens() -> None:
    known = {1: "Left ventricle", 3: "myocardium"}
    assert choose_labels("MYOCARDIUM, left_ventricle", known) == {3: "myocardium", 1: "Left ventricle"}
    assert choose_labels("3", known) == {3: "myocardium"}
    with pytest.raises(BadLabels, match=r"no label myocardum\. Is myocardum meant to be myocardium\?"):
        choose_labels("myocardum", known)


def test_the_old_word_of_the_acquired_plane_is_accepted() -> None:
    assert build(SegmentOptions, {"slice_axis": "lowest"}).slice_axis == "acquired"


def test_the_series_of_a_folder_are_listed(tmp_path: Path, capsys) -> None:
    dicom_files.series(tmp_path / "a", SeriesDescription="T2 tra")
    dicom_files.series(tmp_path / "b", SeriesDescription="T1", SeriesInstanceUID="1.2.3.2", SeriesNumber=2)
    assert main(["info", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["1", "2"]
    assert "T2 tra" in lines[1]
