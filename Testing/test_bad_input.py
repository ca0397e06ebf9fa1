"""Every bad input gets one line that says what to do, exit code 2, no traceback, and leaves no half-written
file.
"""

from __future__ import annotations

import errno
import gzip
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import blob, write_nifti
from desam_cli import main
from DeSAMSegmentLib.engine.runtime.session import Session
from DeSAMSegmentLib.errors import BadInput
from DeSAMSegmentLib.files import probe

LIBRARY = Path(__file__).resolve().parents[1] / "DeSAMSegment"
LOADING = Session.begin  # as it is without the quick encoder
pytestmark = pytest.mark.usefixtures("quick_encoder")


def refused(arguments: list[str], capfd: pytest.CaptureFixture[str], *words: str) -> str:
    """Runs the command; asserts a single line on stderr that holds the words, exit code 2; returns the line."""
    capfd.readouterr()
    code = main(arguments)
    captured = capfd.readouterr()
    lines = captured.err.splitlines()
    assert code == 2, captured
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("desam: ")
    assert "Traceback" not in captured.out + captured.err
    for word in words:
        assert word in lines[0]
    # what happened and what to do: two sentences
    assert lines[0].rstrip().endswith((".", "'"))
    return lines[0]


def everything(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


# ---- volumes
# -----------------------------------------------------------------------------------------------------


def missing(path: Path) -> None:
    pass


def text(path: Path) -> None:
    path.write_text("Dear reader, this is a letter and no image.")


def zipped_text(path: Path) -> None:
    path.write_bytes(gzip.compress(b"a letter in an envelope"))


def truncated(path: Path) -> None:
    write_nifti(path, blob()[0])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def with_value(value: float) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        array = blob()[0].astype(np.float32)
        array[1, 5, 5] = value
        write_nifti(path, array)

    return write


def constant(path: Path) -> None:
    write_nifti(path, np.full((4, 16, 16), 7, np.int16))


def colour(path: Path) -> None:
    write_nifti(path, np.zeros((4, 16, 16, 3), np.uint8))


def series(path: Path) -> None:
    sitk.WriteImage(sitk.JoinSeries([sitk.GetImageFromArray(blob()[0])] * 2), str(path))


BAD_VOLUMES = [
    pytest.param(missing, ["There is no file"], id="a missing file"),
    pytest.param(text, ["is not a gzip file"], id="text named .nii.gz"),
    pytest.param(zipped_text, ["is not a NIfTI file"], id="zipped text"),
    pytest.param(truncated, ["cut short"], id="a truncated gzip"),
    pytest.param(empty, [], id="an empty file"),
    pytest.param(with_value(np.nan), ["NaN or infinite"], id="NaN voxels"),
    pytest.param(with_value(np.inf), ["NaN or infinite"], id="Inf voxels"),
    pytest.param(constant, ["7"], id="a constant volume"),
    pytest.param(colour, ["colour"], id="an RGB volume"),
    pytest.param(series, ["frames"], id="a 4-D volume"),
]


@pytest.mark.parametrize(("spoil", "words"), BAD_VOLUMES)
def test_a_bad_volume_is_refused(spoil, words, untrained_model: Path, tmp_path: Path, capfd) -> None:
    path = tmp_path / "volume.nii.gz"
    spoil(path)
    before = everything(tmp_path)
    line = refused(["segment", str(path), str(tmp_path / "out.seg.nrrd"), "-m", str(untrained_model)], capfd, *words)
    assert "volume.nii.gz" in line
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    ("target", "word"), [("out.png", "not a type of file"), ("volume.nii.gz", "is the volume itself")]
)
def test_a_bad_output_is_refused_before_the_work(
    target: str, word: str, volume_file: Path, tmp_path: Path, capfd
) -> None:
    volume = shutil.copy(volume_file, tmp_path / "volume.nii.gz")
    before = volume.read_bytes()
    refused(["segment", str(volume), str(tmp_path / target), "--model", "none"], capfd, word)
    assert volume.read_bytes() == before


def test_an_empty_folder_holds_no_volume(tmp_path: Path, capfd) -> None:
    (tmp_path / "in").mkdir()
    refused(["segment", str(tmp_path / "in"), str(tmp_path / "out"), "--model", "none"], capfd, "holds no volume")


# ---- models
# ------------------------------------------------------------------------------------------------------


def segmenting(volume: Path, model: Path | str, output: Path) -> list[str]:
    return ["segment", str(volume), str(output), "--model", str(model)]


def test_an_unknown_model_is_refused(volume_file: Path, tmp_path: Path, capfd) -> None:
    refused(segmenting(volume_file, "nobody", tmp_path / "o.nii.gz"), capfd, "nobody")


def test_a_model_file_cut_in_half_is_refused(volume_file: Path, untrained_model: Path, tmp_path: Path, capfd) -> None:
    half = tmp_path / "half.desam"
    whole = untrained_model.read_bytes()
    half.write_bytes(whole[: len(whole) // 2])
    refused(segmenting(volume_file, half, tmp_path / "o.nii.gz"), capfd, "half.desam")
    refused(["models", "add", str(half)], capfd, "half.desam")


class Bomb:
    """Unpickling this would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_named_desam_is_refused_and_not_opened(volume_file: Path, tmp_path: Path, capfd) -> None:
    (tmp_path / "trap.desam").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    refused(segmenting(volume_file, tmp_path / "trap.desam", tmp_path / "o.nii.gz"), capfd, "trap.desam")
    assert not (tmp_path / "exploded").exists()


def test_a_pickle_is_no_published_checkpoint_and_not_opened(tmp_path: Path, capfd) -> None:
    (tmp_path / "trap.pth").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    refused(["models", "import-reference", str(tmp_path / "trap.pth")], capfd, "trap.pth")
    assert not (tmp_path / "exploded").exists()


def test_a_model_for_an_unknown_backbone_is_refused(volume_file: Path, untrained_model, tmp_path, capfd) -> None:
    other = with_backbone(untrained_model, tmp_path / "other.desam", "vit_z")
    refused(segmenting(volume_file, other, tmp_path / "o.nii.gz"), capfd, "vit_z")


def with_backbone(model: Path, target: Path, backbone: str) -> Path:
    """The same tensors under a card that names another backbone."""
    from dataclasses import replace

    from DeSAMSegmentLib.store.model_file import read_model, write_model

    tensors, card = read_model(model)
    write_model(target, tensors, replace(card, backbone=backbone))
    return target


def test_missing_weights_name_the_two_commands(
    volume_file: Path, untrained_model: Path, tmp_path: Path, capfd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "begin", LOADING)
    other = with_backbone(untrained_model, tmp_path / "other.desam", "vit_h")
    arguments = segmenting(volume_file, other, tmp_path / "o.nii.gz")
    refused(arguments, capfd, "desam weights get vit_h", "desam weights add FILE")


# ---- data sets
# ---------------------------------------------------------------------------------------------------


def test_an_empty_data_set_is_refused(tmp_path: Path, capfd) -> None:
    empty_folder = tmp_path / "Dataset000_Empty"
    (empty_folder / "imagesTr").mkdir(parents=True)
    output = tmp_path / "run"
    refused(["train", str(empty_folder), str(output)], capfd, "dataset.json")
    (empty_folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "a": 1}}))
    refused(["train", str(empty_folder), str(output)], capfd, "no images")
    refused(["evaluate", str(empty_folder), str(output), "--predictions", str(tmp_path)], capfd, "no images")
    assert not output.exists()


def test_a_label_map_of_another_geometry_is_refused(dataset: Path, tmp_path: Path, capfd) -> None:
    label = dataset / "labelsTr" / "north_1.nii.gz"
    image = sitk.ReadImage(str(label))
    image.SetOrigin((5000.0, 0.0, 0.0))
    sitk.WriteImage(image, str(label))
    refused(["train", str(dataset), str(tmp_path / "run"), "--epochs", "1"], capfd, "north_1", "in another place")


@pytest.mark.parametrize("label", ["7", "spleen"])
def test_an_absent_label_is_refused(label: str, dataset: Path, tmp_path: Path, capfd) -> None:
    refused(["train", str(dataset), str(tmp_path / "run"), "--labels", label], capfd, f"no label {label}", "1 (blob)")


def test_a_label_without_a_voxel_is_refused(dataset: Path, tmp_path: Path, capfd) -> None:
    (dataset / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "blob": 1, "tail": 9}}))
    refused(["train", str(dataset), str(tmp_path / "run"), "--labels", "tail", "--epochs", "1"], capfd, "label")


def test_unknown_cases_are_refused(dataset: Path, tmp_path: Path, capfd) -> None:
    refused(["train", str(dataset), str(tmp_path / "run"), "--cases", "east"], capfd, "north_1")
    refused(["train", str(dataset), str(tmp_path / "run"), "--cases", "("], capfd, "regular expression")


# ---- options
# -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["segment", "a", "b"], ["--model"]),
        (["segment", "a", "b", "-m", "x", "--points", "many"], ["--points", "integer"]),
        (["segment", "a", "b", "-m", "x", "--points", "0"], ["between 1 and 64"]),
        (["segment", "a", "b", "-m", "x", "--no-such-option"], ["--no-such-option", "--help"]),
        (["train", "a", "b", "--profile", "fast"], ["Profile"]),
        (["weights", "get", "vit_x"], ["vit_x"]),
        (["weights", "get", "lite_medsam_2"], ["lite_medsam_2"]),
        (["nonsense"], ["nonsense"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_bad_option_is_one_line(arguments: list[str], words: list[str], capfd) -> None:
    refused(arguments, capfd, *words)


# ---- a full disk
# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out.seg.nrrd", "out.nii.gz"])
def test_a_disk_that_fills_up_while_flushing_leaves_nothing(
    name: str, volume_file: Path, untrained_model: Path, tmp_path: Path, capfd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("DeSAMSegmentLib.files.os.fsync", full)
    out = tmp_path / "out"
    refused([*segmenting(volume_file, untrained_model, out / name), "--no-cache"], capfd, "disk is full")
    assert everything(out) == set()


def test_a_disk_that_is_really_full_leaves_nothing(volume_file: Path, untrained_model: Path, tmp_path: Path) -> None:
    """A file system of 4 KB in a mount namespace of its own; skipped where the system does not allow one."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("this system lets no one make a mount namespace (unshare -rm)")
    small = tmp_path / "small"
    small.mkdir()
    command = " ".join(
        [
            f"mount -t tmpfs -o size=4k none '{small}' && head -c 4096 /dev/zero > '{small}/filler' &&",
            f"'{sys.executable}' -m desam_cli segment '{volume_file}' '{small}/out.seg.nrrd'",
            f"--model '{untrained_model}' --no-cache; code=$?; ls -A '{small}' >&2; exit $code",
        ]
    )
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command], cwd=LIBRARY, capture_output=True, text=True, check=False
    )
    lines = done.stderr.splitlines()
    assert done.returncode == 2, done.stderr
    assert "disk is full" in lines[0]
    assert lines[1:] == ["filler"]


def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    dataset: Path,
    volume_file: Path,
    untrained_model: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was found after the last slice, which was then lost, and the message showed a temporary name."""
    monkeypatch.setattr(Session, "encode", lambda *_: pytest.fail("slices were encoded"))
    occupied, long = tmp_path / "occupied", tmp_path / f"{'n' * 243}.nii.gz"
    occupied.write_text("a file")
    before = sorted(tmp_path.iterdir())
    segmenting = ["segment", str(volume_file), "--model", str(untrained_model)]
    is_file = "occupied is a file: there can be no"
    refused([*segmenting[:2], str(occupied / "deep" / "a.nii.gz"), *segmenting[2:]], capfd, is_file)
    line = refused(
        [*segmenting[:2], str(long), *segmenting[2:]], capfd, f"{long} cannot be written: file name too long"
    )
    assert "Choose another output" in line
    refused(["train", str(dataset), str(occupied), "--epochs", "1"], capfd, is_file)
    refused(["evaluate", str(dataset), str(occupied), "--model", str(untrained_model)], capfd, is_file)
    assert sorted(tmp_path.iterdir()) == before


def test_asking_for_an_output_leaves_nothing_behind(tmp_path: Path) -> None:
    probe(tmp_path / "new" / "deep" / "a.nii.gz")
    assert not list(tmp_path.iterdir())
    (tmp_path / "a.nii.gz").mkdir()
    with pytest.raises(BadInput, match=r"a\.nii\.gz cannot be written: is a directory"):
        probe(tmp_path / "a.nii.gz")
