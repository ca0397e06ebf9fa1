"""What a killed process leaves under a temporary name goes at the next start, and nothing that is still in use."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from DeSAMSegmentLib import files
from DeSAMSegmentLib.errors import BadInput
from DeSAMSegmentLib.store import weights

HOLD = """
import sys, time
from pathlib import Path
from DeSAMSegmentLib.files import atomic_path, make_scratch_folder
folder = make_scratch_folder("training", Path(sys.argv[1]))
(folder / "features").write_bytes(b"large")
with atomic_path(Path(sys.argv[1], "result.nii.gz")) as temporary:
    temporary.write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(60)
"""


def writer(folder: Path) -> subprocess.Popen[str]:
    """A process in the middle of writing a file beside its scratch folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def test_what_a_killed_process_left_goes_and_what_a_running_one_holds_stays(tmp_path: Path) -> None:
    killed, running = writer(tmp_path), writer(tmp_path)
    try:
        killed.kill()
        killed.wait()
        assert len(list(tmp_path.iterdir())) == 4
        files.probe(tmp_path / "another.nii.gz")  # a job begins here
        left = list(tmp_path.iterdir())
        assert len(left) == 2
        assert all(f"-{running.pid}-" in path.name for path in left)
    finally:
        running.kill()
        running.wait()
    files._sweep_once.cache_clear()  # the next start
    files.write_text(tmp_path / "another.txt", "")
    assert [path.name for path in tmp_path.iterdir()] == ["another.txt"]


def test_a_session_sweeps_the_scratch_folders_of_killed_trainings(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("torch")
    from DeSAMSegmentLib.engine.runtime.session import Session

    monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path))
    killed = writer(tmp_path)
    killed.kill()
    killed.wait()
    mine = files.make_scratch_folder("training")
    Session("cpu")
    assert list(tmp_path.iterdir()) == [mine]


def test_of_another_machine_only_files_that_lay_for_a_day_go_and_names_of_others_never(tmp_path: Path) -> None:
    old = time.time() - files.ABANDONED - 60
    names = {
        ".desam-00000000-1-abcd.new.nii.gz": False,
        ".desam-00000000-1-abcd.old.nii.gz": True,
        "desam-00000000-1-abcd-training-x": False,  # a folder: its training may take days
        ".0a1b2c3d.new.seg.nrrd": False,
        ".0a1b2c3d.old.seg.nrrd": True,  # as versions before the mark called them
        ".0a1b2c3d.notes": False,
        ".550e8400-1234-41d4-a716-446655440000": False,
        f".desam-{files._machine()}-{os.getpid()}-abcd.mine": False,
    }
    for name in names:
        path = tmp_path / name
        path.mkdir() if name.startswith("desam") else path.touch()
        if "new" not in name:
            os.utime(path, (old, old))
    files.sweep(tmp_path)
    assert {name: not (tmp_path / name).exists() for name in names} == names


def test_a_temporary_file_that_cannot_be_removed_does_not_hide_why_writing_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows removes no file that something still has open."""

    def held(*arguments: object, **keywords: object) -> None:
        raise PermissionError("in use")

    monkeypatch.setattr(Path, "unlink", held)
    with pytest.raises(ValueError, match="why"), files.atomic_path(tmp_path / "result.txt"):
        raise ValueError("why")


def test_a_file_that_another_program_holds_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows neither replaces nor deletes weights that 3D Slicer has mapped."""

    def held(*arguments: object, **keywords: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setenv("DESAM_HOME", str(tmp_path))
    kept = weights.folder() / weights.info_of("vit_b").file
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"mapped")
    monkeypatch.setattr(files.os, "replace", held)
    with pytest.raises(BadInput, match=r"cannot be replaced.* Close what has it open"):
        files.write_text(kept, "newer")
    assert list(kept.parent.iterdir()) == [kept]
    monkeypatch.setattr(Path, "unlink", held)
    with pytest.raises(BadInput, match=r"cannot be deleted.* Close what has it open"):
        weights.remove("vit_b")
    assert kept.read_bytes() == b"mapped"
