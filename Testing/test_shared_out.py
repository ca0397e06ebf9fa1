"""Features of a training and runs of a benchmark, computed by the workers of a dask scheduler."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from desam_cli import cluster, main
from desam_research.benchmark import benchmark
from desam_research.methods import chosen_methods
from desam_research.plan import BenchmarkOptions, simulated
from desam_research.shared_out import carried_out
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.engine.events import CaseDone, Log, Progress
from DeSAMSegmentLib.engine.options import TrainOptions
from DeSAMSegmentLib.engine.runtime.session import Session
from standin import balls

distributed = pytest.importorskip("distributed", reason="the extra [cluster] is not installed")


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a scheduler whose one worker is a thread of this process."""
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as running:
        yield running.scheduler_address


@pytest.fixture
def encoded(quick_encoder: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The thread in which each call of the encoder was made."""
    threads: list[str] = []
    encode = Session.encode

    def noted(session: Session, images: np.ndarray):
        threads.append(threading.current_thread().name)
        return encode(session, images)

    monkeypatch.setattr(Session, "encode", noted)
    return threads


def test_workers_compute_the_features_and_the_model_is_the_same(dataset, tmp_path, scheduler, encoded) -> None:
    options = [
        "--epochs",
        "1",
        "--styles",
        "1",
        "--validation-fraction",
        "0",
        "--mode",
        "box",
        "--variant",
        "pdmm_only",
    ]
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert main(["train", str(dataset), str(alone), *options, "--no-cache"]) == 0
    assert set(encoded) == {"MainThread"}
    calls = len(encoded)
    encoded.clear()
    assert main(["train", str(dataset), str(shared), *options, "--no-cache", "--scheduler", scheduler]) == 0
    assert len(encoded) == calls
    assert "MainThread" not in encoded
    assert (alone / "metrics.csv").read_text().split(",")[:14] == (shared / "metrics.csv").read_text().split(",")[:14]


def test_what_a_worker_fails_over_is_left_to_the_training(tmp_path, scheduler) -> None:
    share = SimpleNamespace(case=SimpleNamespace(name="north_1"), encode=lambda session: 1 / 0)
    log, progress = cluster.features([share], FeatureCache(tmp_path), "cpu", 0, scheduler)  # type: ignore[list-item]
    assert isinstance(log, Log)
    assert log.text == "Features of north_1 come later: ZeroDivisionError: division by zero"
    assert isinstance(progress, Progress)


def test_workers_carry_out_the_runs_of_a_benchmark(tmp_path, scheduler, encoded) -> None:
    options = BenchmarkOptions(
        chosen_methods([], ["desam-b"]),
        simulated(balls("AA"), "ball0", [1.0], ["noise"]),
        seeds=(0, 1),
        train=TrainOptions(epochs=1, batch_size=4, styles=0),
        device="cpu",
    )
    ahead = partial(carried_out, workers=0, scheduler=scheduler)
    events = list(benchmark({1: "ball"}, tmp_path, options, FeatureCache(tmp_path / "features"), ahead))
    assert [each.case for each in events if isinstance(each, CaseDone)] == [
        "real/desam-b/seed 0",
        "real/desam-b/seed 1",
    ]
    assert encoded
    assert "MainThread" not in encoded
    assert (tmp_path / "report.md").is_file()


def test_several_devices_and_workers_exclude_each_other(dataset, tmp_path, capfd) -> None:
    assert main(["train", str(dataset), str(tmp_path / "run"), "--devices", "2", "--workers", "2"]) == 2
    assert "Give --devices, or --workers" in capfd.readouterr().err
