"""Two processes take each step together as one would take it alone, resume what one began, and end with words."""

from __future__ import annotations

import csv
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from desam_cli.remedies import REMEDIES
from DeSAMSegmentLib.data.cases import Case
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.engine.events import EpochDone, Event, Started
from DeSAMSegmentLib.engine.options import TrainOptions
from DeSAMSegmentLib.engine.runtime.session import Session
from DeSAMSegmentLib.engine.train.several import devices_of, train_on
from DeSAMSegmentLib.engine.train.team import Team
from DeSAMSegmentLib.engine.train.train import train
from DeSAMSegmentLib.errors import BadInput, DeSAMError
from standin import ball_volume, stand_in_encoder

LABELS = {1: "ball"}
RATE = 2e-3


def quick_session(device: str, cache: FeatureCache) -> Session:
    return Session(device, cache, stand_in_encoder())


def losses(folder: Path) -> np.ndarray:
    """(epochs, 5): the losses and the validation's Dice."""
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        names = ("loss", "dice", "ce", "iou", "validation_dice")
        return np.array([[float(row[name]) for name in names] for row in csv.DictReader(file)])


def weights(folder: Path) -> np.ndarray:
    saved = torch.load(folder / "state.pt", weights_only=True)["tensors"]
    return np.concatenate([each.numpy().ravel() for each in saved])


def until(events: Iterator[Event], epoch: int) -> None:
    """Follows a run to the end of an epoch."""
    with closing(events):  # type: ignore[type-var]
        next(each for each in events if isinstance(each, EpochDone) and each.epoch == epoch)


def members() -> list[psutil.Process]:
    return [each for each in psutil.Process().children() if "spawn_main" in " ".join(each.cmdline())]


def test_two_processes_learn_what_one_learns_and_one_that_dies_is_named(tmp_path: Path) -> None:
    """Batches of 3 and 1: one process has nothing of the last. The run goes on in one process."""
    cases = [Case("ball", *ball_volume())]
    options = TrainOptions(epochs=9, batch_size=3, learning_rate=RATE, styles=0)
    alone, both, shared = tmp_path / "alone", tmp_path / "both", FeatureCache(tmp_path / "shared")
    events = train_on(["cpu", "cpu"], cases, LABELS, both, options, shared, session=quick_session)
    devices, said = [], ""
    try:
        for event in events:
            if isinstance(event, Started):
                devices.append(event.device)
            if isinstance(event, EpochDone) and event.epoch == 2:
                os.kill(members()[-1].pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
    except DeSAMError as error:
        said = error.in_words(REMEDIES)
    assert re.search(r"Process 2 of 2 .* epoch \d is saved in .*both.*--resume", said)
    assert devices[0].startswith("2 x CPU")
    assert not members()

    done, cache = len(losses(both)), FeatureCache(tmp_path / "cache")
    until(train(cases, LABELS, alone, options, quick_session("cpu", cache)), done)
    np.testing.assert_allclose(losses(both), losses(alone), rtol=1e-4)
    apart = np.abs(weights(both) - weights(alone))
    assert np.quantile(apart, 0.999) < RATE / 10
    assert apart.max() < 3 * RATE  # Adam steps by about the rate whichever way a gradient of nearly zero is rounded
    for folder in (alone, both):
        until(train(cases, LABELS, folder, options, quick_session("cpu", cache), resume=True), done + 1)
    np.testing.assert_allclose(losses(both)[-1], losses(alone)[-1], rtol=1e-2)
    first, second = ({each.name for each in found.root.rglob("*.features")} for found in (shared, cache))
    assert first == second


def test_a_batch_is_shared_out_whole() -> None:
    team = Team()
    team.size = 3
    for count in range(8):
        shares: list[int] = []
        for team.rank in range(3):
            shares += range(count)[team.share(count)]
        assert shares == list(range(count))


def test_more_devices_than_there_are_and_a_missing_package_are_refused(monkeypatch) -> None:
    assert devices_of("cpu", 2) == ["cpu", "cpu"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    with pytest.raises(BadInput, match="2 devices were asked for, and of mps there are 1"):
        devices_of("mps", 2)
    monkeypatch.setattr("DeSAMSegmentLib.engine.train.several.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"desam-segment\[multi\]"):
        devices_of("cpu", 2)
