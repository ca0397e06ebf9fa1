"""The desam command as a user types it: segment, train, evaluate, help, JSON, Ctrl-C."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import blob, write_nifti
from desam_cli import bars, main
from desam_cli.options import build
from DeSAMSegmentLib.data.reading import read_labels
from DeSAMSegmentLib.engine.declarations import declarations
from DeSAMSegmentLib.engine.events import Finished, Started
from DeSAMSegmentLib.engine.options import SegmentOptions, TrainOptions
from DeSAMSegmentLib.errors import BadInput, DiskFull

COMMAND = [sys.executable, "-m", "desam_cli"]
LIBRARY = Path(__file__).resolve().parents[1] / "DeSAMSegment"
COMMANDS = [
    [],
    ["adapt"],
    ["segment"],
    ["train"],
    ["evaluate"],
    ["weights"],
    ["weights", "list"],
    ["weights", "get"],
    ["weights", "add"],
    ["models"],
    ["models", "list"],
    ["models", "show"],
    ["models", "add"],
    ["models", "export"],
    ["models", "rename"],
    ["models", "delete"],
    ["models", "import-reference"],
    ["info"],
    ["worker"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Usage:")
    assert "--help" in out


def test_help_loads_no_torch() -> None:
    code = "import sys; from desam_cli import main; main(['train', '--help']); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=LIBRARY, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(("command", "kind"), [("segment", SegmentOptions), ("train", TrainOptions)])
def test_every_option_of_an_engine_is_an_option_of_its_command(command, kind, capsys) -> None:
    main([command, "--help"])
    out = capsys.readouterr().out
    in_one_piece = "".join(out.split())  # help is broken into lines at blanks and hyphens
    declared = declarations(kind)
    names = [field.name for field in fields(kind)]
    for name in names:
        assert f"--{name.replace('_', '-')}" in out
        assert declared[name].tip, f"{name} has no help text"
        assert "".join(declared[name].tip.split()) in in_one_piece
    assert list(declared) == names


# ---- segment
# -----------------------------------------------------------------------------------------------------


def test_one_volume_becomes_a_segmentation_with_its_geometry_and_names(
    volume_file: Path,
    untrained_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bars, "EVERY", float("inf"))  # seconds: a busy machine takes long enough for a line
    output = tmp_path / "out" / "blob.seg.nrrd"
    assert main(["segment", str(volume_file), str(output), "--model", str(untrained_model), "--device", "cpu"]) == 0
    written, image = sitk.ReadImage(str(output)), sitk.ReadImage(str(volume_file))
    assert written.GetSpacing() == pytest.approx(image.GetSpacing())
    assert written.GetMetaData("Segment0_Name") == "blob"
    captured = capsys.readouterr()
    assert "blob: Untrained, whole box" in captured.out
    assert f"segmentation: {output}" in captured.out
    assert captured.err == ""


@pytest.mark.usefixtures("quick_encoder")
def test_two_volumes_never_become_one_file(tmp_path: Path) -> None:
    from desam_cli.segment import plan

    for name in ("a.mha", "a.nii.gz"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(BadInput, match=r"a\.mha and a\.nii\.gz would both become a\.seg\.nrrd"):
        plan(tmp_path, tmp_path / "out", "seg.nrrd")
    (tmp_path / "a.mha").rename(tmp_path / "b.mha")
    assert sorted(target.path.name for target in plan(tmp_path, tmp_path / "out", "seg.nrrd")) == [
        "a.seg.nrrd", "b.seg.nrrd",
    ]  # fmt: skip


def test_names_that_differ_only_in_case_are_refused_and_results_of_an_earlier_call_skipped(tmp_path: Path) -> None:
    from desam_cli.segment import plan

    for name in ("a.nrrd", "a.seg.nrrd"):
        (tmp_path / name).write_bytes(b"")
    assert [target.source.name for target in plan(tmp_path, tmp_path / "out", "seg.nrrd")] == ["a.nrrd"]
    (tmp_path / "A.mha").write_bytes(b"")
    with pytest.raises(BadInput, match=r"A\.mha and a\.nrrd would both become"):
        plan(tmp_path, tmp_path / "out", "seg.nrrd")


def test_a_full_disk_ends_a_folder_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command = importlib.import_module("desam_cli.segment")
    tried = []

    def full(work: object, target: object) -> None:
        tried.append(target)
        raise DiskFull("The disk is full.")

    monkeypatch.setattr(command, "_one", full)
    with pytest.raises(DiskFull):
        command._all(SimpleNamespace(show=print), ["one", "two"])
    assert tried == ["one"]


def test_a_folder_goes_on_when_a_volume_fails(
    volume_file: Path, untrained_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = volume_file.parent
    (folder / "broken.nii.gz").write_text("this is no image")
    write_nifti(folder / "second.nrrd", blob(seed=2)[0])
    out = tmp_path / "out"
    code = main(["segment", str(folder), str(out), "-m", str(untrained_model), "--format", "nii.gz", "--confidence"])
    assert code == 1
    names = {path.name for path in out.iterdir()}
    assert names == {"blob.nii.gz", "second.nii.gz", "blob.confidence.csv", "second.confidence.csv"}
    captured = capsys.readouterr().out
    assert "broken failed: broken.nii.gz is not a gzip file" in captured
    assert "2 of 3 volumes segmented, 1 failed." in captured
    assert (out / "blob.confidence.csv").read_text(encoding="utf-8").splitlines()[0] == "slice,confidence,agreement"


@pytest.mark.usefixtures("quick_encoder")
def test_json_is_one_event_per_line_and_nothing_else(
    volume_file: Path, untrained_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.nii.gz"
    assert main(["segment", str(volume_file), str(output), "-m", str(untrained_model), "--json"]) == 0
    captured = capsys.readouterr()
    events = [json.loads(line) for line in captured.out.splitlines()]
    assert [event["event"] for event in events] == ["Started", *["SliceDone"] * 4, "Saved", "Finished"]
    labels = read_labels(output).array
    for event in events[1:5]:
        assert event["pixels"].get("1", 0) == int((labels[event["index"]] == 1).sum())
    assert captured.err == ""


@pytest.mark.usefixtures("quick_encoder")
def test_options_reach_the_engine(volume_file: Path, untrained_model: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "out.nii.gz"
    arguments = ["segment", str(volume_file), str(output), "-m", str(untrained_model), "--json"]
    assert main([*arguments, "--slice-range", "1", "2", "--slice-axis", "axial", "--no-largest-component"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["index"] for event in events if event["event"] == "SliceDone"] == [1, 2]


def test_ctrl_c_keeps_the_finished_slices(untrained_model: Path, tmp_path: Path) -> None:
    volume = write_nifti(tmp_path / "long.nii.gz", blob(shape=(60, 40, 36))[0])
    output = tmp_path / "out.nii.gz"
    arguments = ["segment", str(volume), str(output), "-m", str(untrained_model), "--json", "--mask-threshold", "0.01"]
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=LIBRARY,
        # a job started in the background of a shell script ignores Ctrl-C, and its children with it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    done = []
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "SliceDone":
            done.append(event)
            if len(done) == 2:
                process.send_signal(signal.SIGINT)
        elif event["event"] == "Log":
            said = event["text"]
    assert process.wait(timeout=60) == 130
    assert process.stderr is not None
    assert process.stderr.read().strip() == "desam: Stopped."
    labels = read_labels(output).array
    assert 2 <= len(done) < 60
    for event in done:
        assert event["pixels"].get("1", 0) == int((labels[event["index"]] == 1).sum())
    assert any(event["pixels"] for event in done)
    told = int(said.split(" of 60 slices")[0].split()[-1])
    assert len(done) <= told <= len(done) + 1  # Ctrl-C may come between a slice and its line


# ---- train and evaluate
# ------------------------------------------------------------------------------------------


@pytest.fixture
def trained_with(monkeypatch: pytest.MonkeyPatch) -> dict:
    """What the train engine is called with; it does not run."""
    seen: dict = {}

    def train(cases, labels, folder, options, session, **how):
        seen.update(cases=cases, labels=labels, folder=folder, options=options, session=session, **how)
        yield Started("train", "x", 1, "epoch", "CPU")
        yield Finished("train", 1.0)

    monkeypatch.setattr("DeSAMSegmentLib.engine.train.train.train", train)
    return seen


def test_train_takes_profile_options_cases_and_labels(dataset: Path, tmp_path: Path, trained_with: dict) -> None:
    arguments = "--profile paper --no-train-prim --patience 0 --intensity window --window -160 240 --labels blob"
    code = main(
        ["train", str(dataset), str(tmp_path / "run"), *arguments.split(), "--domain", "south", "--slices", "labelled"]
    )
    assert code == 0
    options = trained_with["options"]
    assert options.width == "paper"  # of the profile
    assert not options.train_prim  # against the profile
    assert (options.window, options.labels, options.patience) == ((-160.0, 240.0), (1,), None)
    assert [(case.name, case.slices) for case in trained_with["cases"]] == [("south_1", "labelled")]
    assert trained_with["resume"] is False


def test_options_not_given_keep_the_profile_default(dataset: Path, tmp_path: Path, trained_with: dict) -> None:
    assert main(["train", str(dataset), str(tmp_path / "run"), "--exclude", "north", "--device", "cpu"]) == 0
    assert trained_with["options"] == TrainOptions()
    assert [case.name for case in trained_with["cases"]] == ["south_1"]
    assert (trained_with["resume"], trained_with["session"].chosen_device.type) == (False, "cpu")


def test_resume_needs_no_option_but_itself(dataset: Path, tmp_path: Path, trained_with: dict, capsys) -> None:
    folder = tmp_path / "run"
    begun = TrainOptions.paper(labels=(1,), window=(-160.0, 240.0), minutes=20.0, name="mine")
    folder.mkdir()
    config = {"options": begun.to_dict(), "cases": ["south_1"]}
    (folder / "config.json").write_text(json.dumps(config))
    assert main(["train", str(dataset), str(folder), "--resume"]) == 0
    assert trained_with["options"] == begun
    assert [case.name for case in trained_with["cases"]] == ["south_1"]
    assert trained_with["resume"] is True
    # what is given again counts, and the engine refuses it where it differs
    assert main(["train", str(dataset), str(folder), "--resume", "--epochs", "3", "--cases", "north"]) == 0
    assert trained_with["options"] == replace(begun, epochs=3)
    assert "south_1" not in [case.name for case in trained_with["cases"]]
    (folder / "config.json").write_text(json.dumps({**config, "cases": ["gone"]}))
    assert main(["train", str(dataset), str(folder), "--resume"]) == 2
    assert "no case gone any more" in capsys.readouterr().err
    (folder / "config.json").write_text('{"options": {"epochs": "many"}}')
    assert main(["train", str(dataset), str(folder), "--resume"]) == 2
    assert "damaged" in capsys.readouterr().err


@pytest.mark.usefixtures("quick_encoder")
def test_a_model_is_trained_shown_and_evaluated(dataset: Path, tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    assert main(["train", str(dataset), str(run), "--epochs", "1", "--mode", "box", "--name", "blobs"]) == 0
    assert "epoch 1/1  loss" in capsys.readouterr().out
    assert main(["models", "show", str(run / "best.desam")]) == 0
    assert "value 1, name blob" in capsys.readouterr().out
    report = tmp_path / "report"
    assert main(["evaluate", str(dataset), str(report), "--model", str(run / "best.desam"), "--cases", "south"]) == 0
    assert "[1/1] south_1  blob: Dice" in capsys.readouterr().out
    assert (report / "report.md").is_file()


def test_finished_label_maps_are_evaluated(dataset: Path, tmp_path: Path, capsys) -> None:
    ground_truth = dataset / "labelsTr"
    assert main(["evaluate", str(dataset), str(tmp_path / "report"), "--predictions", str(ground_truth), "--json"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["summary"]["blob"]["all"]["dice"]["mean"] == 1.0
    (tmp_path / "few").mkdir()
    assert main(["evaluate", str(dataset), str(tmp_path / "second"), "--predictions", str(tmp_path / "few")]) == 1


# ---- options
# -----------------------------------------------------------------------------------------------------


def test_zero_means_never_for_limits() -> None:
    options = build(TrainOptions, {"patience": 0, "minutes": 0.0, "seed": 0})
    assert (options.patience, options.minutes, options.seed) == (None, None, 0)


def test_values_that_make_no_sense_are_refused_before_any_work() -> None:
    with pytest.raises(BadInput, match="between 1 and 64"):
        build(SegmentOptions, {"points": 0})


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("desam 0.")


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) in (0, 2)
    assert "Commands:" in capsys.readouterr().out


def test_a_closed_output_pipe_leaves_no_traceback(tmp_path: Path) -> None:
    environment = os.environ | {"COLUMNS": "80"}
    shell = f'"{sys.executable}" -m desam_cli train --help | head -n 1'
    done = subprocess.run(shell, shell=True, cwd=LIBRARY, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert np.char.startswith(done.stdout, "Usage")


def test_a_log_file_gets_a_line_now_and_then_with_the_pace_and_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: now[0])
    drawn = bars.Bars()
    drawn.start("scan", 78, "slice")
    for done in range(1, 45):
        now[0] += 5.1
        drawn.move(done)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 7  # 224 s, a line every 30 s and on the next slice
    assert lines[0] == "30.6 s  scan: 6/78 · 5.1 s per slice · 6 min 07 s left"
    assert lines[-1] == "3 min 34 s  scan: 42/78 · 5.1 s per slice · 3 min 03 s left"
