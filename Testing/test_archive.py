"""An archive in one call: a tree of volumes and DICOM series, cut short, resumed, in parts, on several processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import dicom_files
import numpy as np
import psutil
import pytest
from conftest import blob, write_nifti
from desam_cli import cluster, main
from desam_cli.archive import archive, summary
from desam_cli.archive.manifest import Manifest, Record, read_manifests
from desam_cli.archive.tree import in_part, plan_tree
from DeSAMSegmentLib.data.reading import read_labels
from DeSAMSegmentLib.errors import BadInput


@pytest.fixture(scope="module")
def quick_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has no encoder, for processes that no stand-in reaches: the benchmark's U-Net, untrained."""
    from archive import make_model

    return make_model(tmp_path_factory.mktemp("quick") / "quick.desam")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    for k, name in enumerate(("a/x", "a/y", "b/c/x")):
        write_nifti(root / f"{name}.nii.gz", blob(shape=(2, 40, 36), seed=k)[0])
    return root


def run(root: Path, model: Path, *options: str) -> int:
    out = root.parent / "out"
    return main(
        ["segment", str(root), str(out), "-m", str(model), "--recursive", "--device", "cpu", "--no-cache", *options]
    )


def written(out: Path) -> list[str]:
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*.nrrd"))


def names(root: Path, *choice: str) -> list[str]:
    return sorted(case.output for case in plan_tree(root, root.parent / "out", "seg.nrrd", *choice)[0])


# ---- what a tree holds ----------------------------------------------------------------------------------------------


def test_outputs_mirror_the_tree_and_no_two_are_one_file(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for name in (
        "a/x.nii.gz",
        "a/x.nrrd",
        "a/X.mha",
        "x.nii.gz",
        "a/.hidden.nii.gz",
        ".trash/x.nii.gz",
        "a/old.seg.nrrd",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    for k, text in enumerate(("T2 tra", "T2 tra", "T1/cor")):
        uid = f"1.2.3.{k}"
        dicom_files.series(root / "p" / "s", prefix=uid, SeriesInstanceUID=uid, SeriesDescription=text)
    dicom_files.series(root / "p" / "s2" / "one", 2, SeriesInstanceUID="1.2.4", SeriesDescription="", SeriesNumber=9)
    dicom_files.series(root / "p" / "s2" / "two", places=[6, 9], SeriesInstanceUID="1.2.4", SeriesDescription="",
                       SeriesNumber=9)  # fmt: skip
    found = names(root)
    assert len({name.casefold() for name in found}) == len(found) == 8
    assert "x.seg.nrrd" in found
    assert "p/s/1_T1_cor.seg.nrrd" in found
    assert "p/s2/9.seg.nrrd" in found, "a series in two folders is one volume, in the folder of both"
    assert sum(name.startswith("p/s/1_T2_tra_") for name in found) == 2
    assert sum(name.casefold().startswith("a/x_") for name in found) == 3
    assert names(root) == found


def test_series_are_chosen_by_modality_and_description(tmp_path: Path) -> None:
    root = tmp_path / "in"
    kinds = {"1": ("MR", "T2 tra"), "2": ("MR", "localizer"), "3": ("CT", "t2-like"), "4": ("SEG", "T2 mask")}
    for number, (modality, text) in kinds.items():
        tags = {"SeriesInstanceUID": number, "SeriesNumber": number, "Modality": modality, "SeriesDescription": text}
        dicom_files.series(root / number, 2, **tags)
    assert names(root) == ["1/1_T2_tra.seg.nrrd", "2/2_localizer.seg.nrrd", "3/3_t2-like.seg.nrrd"]
    assert names(root, "mr") == ["1/1_T2_tra.seg.nrrd", "2/2_localizer.seg.nrrd"]
    assert names(root, "", "^t2") == ["1/1_T2_tra.seg.nrrd", "3/3_t2-like.seg.nrrd"]
    assert plan_tree(root, tmp_path / "out", "seg.nrrd")[1] == ["DICOM series left out: 1 of modality SEG."]
    with pytest.raises(BadInput, match="no volume in and below"):
        plan_tree(root, tmp_path / "out", "seg.nrrd", "PT")
    with pytest.raises(BadInput, match="not a regular expression"):
        plan_tree(root, tmp_path / "out", "seg.nrrd", "", "(")


def test_what_is_written_below_the_tree_is_no_volume_of_it(tree: Path) -> None:
    write_nifti(tree / "out" / "a" / "x.nii.gz", blob()[1])
    assert len(plan_tree(tree, tree / "out", "nii.gz")[0]) == 3
    with pytest.raises(BadInput, match="the folder of the volumes itself"):
        plan_tree(tree, tree, "nii.gz")


def test_parts_share_the_cases_without_asking_each_other(tree: Path) -> None:
    for k in range(40):
        write_nifti(tree / "many" / f"{k}.nii.gz", np.zeros((1, 2, 2), np.int16))
    cases, _ = plan_tree(tree, tree.parent / "out", "seg.nrrd")
    shares = [in_part(cases, f"{i}/4")[0] for i in (1, 2, 3, 4)]
    assert sorted(case.output for share in shares for case in share) == sorted(case.output for case in cases)
    assert all(3 < len(share) < 20 for share in shares)
    for wrong in ("0/4", "5/4", "1/0", "1", "a/b"):
        with pytest.raises(BadInput, match="no part of a whole"):
            in_part(cases, wrong)


# ---- the manifest ---------------------------------------------------------------------------------------------------


def test_manifests_of_all_parts_are_one_and_a_torn_line_costs_itself(tmp_path: Path) -> None:
    first, second = Manifest(tmp_path, (1, 2)), Manifest(tmp_path, (2, 2))
    first.append(Record("a", error="once", written="1"))
    with first.path.open("ab") as file:
        file.write(b'{"output": "torn", "inp')
    second.append(Record("a", written="2"))
    first.append(Record("b\udce9", confidence=1, written="3"))
    first.path.write_bytes(first.path.read_bytes() + b'[]\n{"output": 5}\nnull\n{"output": "c", "seconds": NaN}\n')
    assert {name: each.error for name, each in read_manifests(tmp_path).items()} == {"a": "", "b\udce9": ""}
    assert [path.name for path in (first.path, second.path)] == ["manifest.1-of-2.jsonl", "manifest.2-of-2.jsonl"]


def test_one_process_a_part(tmp_path: Path) -> None:
    with (
        Manifest(tmp_path, (1, 2)).locked(),
        Manifest(tmp_path, (2, 2)).locked(),
        pytest.raises(BadInput, match="Another process is writing"),
        Manifest(tmp_path, (2, 2)).locked(),
    ):
        pass


# ---- a run ----------------------------------------------------------------------------------------------------------


def test_a_line_and_a_page_say_what_became_of_each_case(tree: Path, quick_model: Path, capsys) -> None:
    (tree / "a" / "<img src=x>.nii.gz").write_text("no image")
    dicom_files.series(tree / "p", 2, SeriesInstanceUID="1.2.3.4", Modality="CT", places=[0, 0, 3])
    assert run(tree, quick_model, "--confidence") == 1
    out = tree.parent / "out"
    assert written(out) == ["a/x.seg.nrrd", "a/y.seg.nrrd", "b/c/x.seg.nrrd"]
    assert (out / "a" / "x.confidence.csv").is_file()
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    by_name = {line["output"]: line for line in lines}
    assert len(by_name) == len(lines) == 5
    good, bad = by_name["a/x.seg.nrrd"], by_name["a/<img src=x>.seg.nrrd"]
    labels = read_labels(out / "a" / "x.seg.nrrd").array
    assert good["millilitres"]["blob"] == pytest.approx(float((labels == 1).sum()) * 0.8 * 0.9 * 3 / 1000, abs=1e-3)
    assert good["error"] == good["remedy"] == ""
    assert len(good["input_digest"]) == len(good["output_digest"]) == 64
    assert 0 <= good["confidence"] <= 1
    assert good["slices"] == 2
    assert good["versions"]["desam-segment"]
    assert "is not a gzip file" in bad["error"]
    assert bad["remedy"] == "Export or download it again."
    assert by_name["p/1.seg.nrrd"]["series"] == "1.2.3.4"
    assert "more than one image at a position" in by_name["p/1.seg.nrrd"]["error"]
    page = (out / "summary.html").read_text(encoding="utf-8")
    assert "5 volumes: 3 segmented" in page
    assert "2 failed, 0 not begun" in page
    assert "<img src=x" not in page
    assert "a/&lt;img src=x&gt;.nii.gz" in page
    assert page.count('src="data:image/png;base64,') == 3
    said = capsys.readouterr().out
    assert "5 volumes: 0 were finished and verified, 3 segmented, 2 failed." in said


def test_resume_does_what_is_not_finished_and_verified(tree: Path, quick_model: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(summary, "SHOWN", 0)
    broken = tree / "b" / "broken.nii.gz"
    broken.write_text("no image")
    out = tree.parent / "out"
    assert run(tree, quick_model) == 1
    done: list[str] = []
    real = archive.decode

    def decode(case, *rest):
        done.append(case.output)
        return real(case, *rest)

    monkeypatch.setattr(archive, "decode", decode)

    def again(*options: str) -> list[str]:
        done.clear()
        run(tree, quick_model, "--resume", *options)
        return sorted(done)

    assert again() == []
    assert "4 volumes: 3 were finished and verified, 0 segmented, 1 failed." in capsys.readouterr().out
    write_nifti(broken, blob(shape=(2, 40, 36), seed=8)[0])
    assert again() == ["b/broken.seg.nrrd"], "what failed is tried again"
    write_nifti(tree / "a" / "x.nii.gz", blob(shape=(2, 40, 36), seed=9)[0])
    assert again() == ["a/x.seg.nrrd"], "another input"
    (out / "a" / "y.seg.nrrd").unlink()
    assert again() == ["a/y.seg.nrrd"], "no output"
    whole = (out / "a" / "y.seg.nrrd").read_bytes()
    (out / "a" / "y.seg.nrrd").write_bytes(whole[:-1] + b"?")
    assert again() == ["a/y.seg.nrrd"], "an output that is not what was written"
    assert (out / "a" / "y.seg.nrrd").read_bytes() == whole
    assert len(again("--mask-threshold", "0.4")) == 4, "other options"
    assert len(again()) == 4
    with (out / "manifest.jsonl").open("a") as file:
        file.write('{"output": "a/x.seg.nr')
    assert again() == []


def test_errors_of_reading_and_writing_cost_their_case_and_a_full_disk_all(
    tree: Path, quick_model: Path, monkeypatch, capsys
) -> None:
    reading, writing = archive.read, archive.write_result

    def read(case, job):
        if case.output == "a/x.seg.nrrd":
            raise MemoryError
        return reading(case, job)

    def write(target, *rest):
        if target.output == "a/y.seg.nrrd":
            raise RuntimeError("a library says")
        return writing(target, *rest)

    monkeypatch.setattr(archive, "read", read)
    monkeypatch.setattr(archive, "write_result", write)
    assert run(tree, quick_model) == 1
    out = tree.parent / "out"
    errors = {name: each.error for name, each in read_manifests(out).items()}
    assert errors == {"a/x.seg.nrrd": "MemoryError: no more is known", "a/y.seg.nrrd": "RuntimeError: a library says",
                      "b/c/x.seg.nrrd": ""}  # fmt: skip
    assert written(out) == ["b/c/x.seg.nrrd"]

    def full(*rest):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive, "write_result", full)
    assert run(tree, quick_model) == 2
    assert "The disk is full" in capsys.readouterr().err
    assert len(read_manifests(out)) == 3, "what was recorded stays"


def test_options_of_a_tree_need_a_tree(tree: Path, capsys) -> None:
    assert main(["segment", str(tree), "out", "-m", "x", "--resume"]) == 2
    assert main(["segment", str(tree), "out", "-m", "x", "--recursive", "--series", "1"]) == 2
    assert "--recursive" in capsys.readouterr().err


# ---- several processes ----------------------------------------------------------------------------------------------


def test_a_killed_process_leaves_nothing_half_and_parts_finish_what_it_left(tree: Path, quick_model: Path) -> None:
    for k in range(6):
        write_nifti(tree / "more" / f"{k}.nii.gz", blob(shape=(3, 40, 36), seed=20 + k)[0])
    out = tree.parent / "out"
    command = [sys.executable, "-m", "desam_cli", "segment", tree, out, "-m", quick_model, "--recursive", "--json"]
    process = subprocess.Popen([*map(str, command), "--no-cache"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "CaseDone":
            process.send_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
            break
    process.wait()
    process.stdout.close()
    assert 1 <= len(written(out)) < 9
    for part in ("1/2", "2/2"):
        assert run(tree, quick_model, "--resume", "--part", part) == 0
    assert len(written(out)) == 9
    lines = [line for path in out.glob("manifest*.jsonl") for line in path.read_text().splitlines()]
    counts = Counter(json.loads(line)["output"] for line in lines if line.endswith("}"))
    assert len(counts) == 9
    assert all(each == 1 for each in counts.values())
    assert not [path for path in out.rglob(".*") if path.is_file() and "desam" not in path.name]


def test_a_worker_that_dies_costs_a_case_that_another_takes(tree: Path, quick_model: Path, monkeypatch, capsys) -> None:
    pytest.importorskip("distributed", reason="the extra [cluster] is not installed")
    for k in range(4):
        write_nifti(tree / "more" / f"{k}.nii.gz", blob(shape=(3, 40, 36), seed=20 + k)[0])
    (tree / "a" / "bad.nii.gz").write_text("no image")
    real, killed = cluster._outcome, set[int]()

    def kill_one(*rest):
        if not killed:
            workers = [each for each in psutil.Process().children() if "spawn_main" in " ".join(each.cmdline())]
            killed.add(workers[-1].pid)
            os.kill(workers[-1].pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
        return real(*rest)

    monkeypatch.setattr(cluster, "_outcome", kill_one)
    assert run(tree, quick_model, "--workers", "2") == 1
    assert killed
    out = tree.parent / "out"
    assert len(written(out)) == 7
    records = read_manifests(out)
    assert [each.output for each in records.values() if each.error] == ["a/bad.seg.nrrd"]
    assert "8 volumes: 0 were finished and verified, 7 segmented, 1 failed." in capsys.readouterr().out


def test_without_the_option_nothing_of_dask_is_loaded() -> None:
    code = "import sys, desam_cli.app; sys.exit('dask' in sys.modules or 'distributed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
