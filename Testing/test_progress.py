"""What a run says while it works: in a terminal, in a file, when it is stopped; slices are numbered in one way."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import blob
from desam_cli import bars, main, view
from DeSAMSegmentLib.data.slices import Slices, SliceSpec
from DeSAMSegmentLib.data.volume import Volume
from DeSAMSegmentLib.engine import events, figures
from rich.console import Console


def test_a_training_in_a_file_says_how_long_the_epoch_and_the_whole_will_take(monkeypatch, capsys) -> None:
    now = [0.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: now[0])
    shown = view.TextView()
    shown.show(events.Started("train", "organ", 4, "epoch", "CPU"))
    for epoch in (1, 2):
        for step in range(1, 11):
            now[0] += 6
            shown.show(events.Progress(f"Epoch {epoch} of 4", step, 10))
        shown.show(events.EpochDone(epoch, 4, 0.5, {}, 0.1, None, True, 60.0))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "30.0 s  Epoch 1 of 4: 5/10 · 30.0 s left"
    assert lines[2] == "1 min 30 s  Epoch 2 of 4: 5/10 · 30.0 s left · 3 min 00 s in all"
    assert len(lines) == 4


HOSTILE = "a\x1b[31m\x07b\u202ec"


def test_nothing_from_a_file_steers_the_terminal(capsys) -> None:
    for terminal in (False, True):
        shown = view.TextView()
        shown.out = shown.bars.console = Console(force_terminal=terminal, color_system=None, stderr=True)
        for event in (
            events.Started("segment", HOSTILE, 2, "case", HOSTILE),
            events.Log(HOSTILE),
            events.Progress(HOSTILE, 1, 2),
            events.CaseDone(HOSTILE, "", {"millilitres": {HOSTILE: 1.0}}, 1, 2),
            events.CaseFailed(HOSTILE, HOSTILE, 2, 2),
            events.Saved(Path(HOSTILE), "report"),
        ):
            shown.show(event)
        shown.close()
    view.print_records([{"name": HOSTILE}], False, {"name": "Name"})
    said = "".join(capsys.readouterr())
    assert "a?[31m?b?c" in said
    for sign in ("\x1b[31m", "\x07", "\u202e"):
        assert sign not in said


@pytest.mark.parametrize("command", ["segment", "train", "evaluate"])
def test_the_help_shows_choices_and_both_arguments(command: str, capsys) -> None:
    assert main([command, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert not re.search(r"--\S+ <", text)
    if command == "segment":
        assert "--slice-range FIRST LAST" in text
        assert "numbered from 0 as by Slicer's Data Probe" in text


@pytest.mark.parametrize("flip", [1, -1])
def test_the_slices_of_a_picture_are_numbered_as_in_the_file(flip: int, tmp_path: Path, monkeypatch) -> None:
    array, labels = blob(shape=(6, 40, 36))
    labels[3:] = 0
    labels[0] = 0
    affine = np.diag([1.0, 1.0, 5.0 * flip, 1.0])
    said: list[str] = []
    monkeypatch.setattr("matplotlib.axes.Axes.set_title", lambda axes, text, **_: said.append(text))
    slices = Slices(Volume(array, affine, "v"), SliceSpec(axis="axial"))
    figures.draw_case(tmp_path / "v.png", "v", slices, labels, np.zeros_like(labels), ["blob"])
    numbers = [int(re.match(r"slice (\d+) \(0 to 5\)", text)[1]) for text in said]  # type: ignore[index]
    assert set(numbers) <= {1, 2}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM that a program can answer")
def test_sigterm_before_the_first_epoch_is_told_and_can_be_resumed(dataset: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "run"
    options = ["--mode", "box", "--epochs", "1", "--styles", "0"]
    command = [sys.executable, "-m", "desam_cli", "train", str(dataset), str(output), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (output / "config.json").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Stopped before the first epoch was finished; computed features are kept." in out
    assert f"'desam train {dataset} {output} --resume' goes on" in out
    assert "Traceback" not in err
    assert not (output / "state.pt").exists()


@pytest.mark.usefixtures("quick_encoder")
def test_a_run_that_was_stopped_before_its_first_epoch_is_resumed(dataset: Path, tmp_path: Path, capsys) -> None:
    from DeSAMSegmentLib.data.cases import read_dataset
    from DeSAMSegmentLib.engine.options import TrainOptions
    from DeSAMSegmentLib.engine.train.train import train

    data = read_dataset(dataset)
    options = TrainOptions(mode="box", variant="pdmm_only", epochs=1, styles=0)
    stopped = train(data.cases[:1], data.labels, tmp_path / "run", options)
    while not (tmp_path / "run" / "config.json").exists():
        next(stopped)
    stopped.close()  # type: ignore[attr-defined]
    assert main(["train", str(dataset), str(tmp_path / "run"), "--resume", "--no-cache"]) == 0
    assert (tmp_path / "run" / "best.desam").exists()
    assert main(["train", str(dataset), str(tmp_path / "empty"), "--resume"]) == 2
    assert "holds no training run" in capsys.readouterr().err
