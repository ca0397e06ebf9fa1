"""The features of a whole training stay where they are while it runs; what cannot fit is refused before the work."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from DeSAMSegmentLib.data.cases import Case
from DeSAMSegmentLib.data.features import FeatureCache
from DeSAMSegmentLib.data.slices import Slices
from DeSAMSegmentLib.engine.events import EpochDone, Finished, Log, Progress
from DeSAMSegmentLib.engine.loading import DeSAM, Encoder
from DeSAMSegmentLib.engine.options import TrainOptions
from DeSAMSegmentLib.engine.room import make_room
from DeSAMSegmentLib.engine.stream import FeatureStream, stored_bytes
from DeSAMSegmentLib.engine.train import train
from DeSAMSegmentLib.engine.training_set import TrainingSet, common_spec
from DeSAMSegmentLib.errors import BadDataset
from DeSAMSegmentLib.model.backbones import PICTURE, build_backbone
from standin import StandInBackbone, ball_volume, stand_in_encoder

PICTURE_BYTES = 3.7e6  # of the stand-in


def ball_cases(count: int) -> list[Case]:
    return [Case(f"ball{seed}", *ball_volume(seed)) for seed in range(count)]


def options(**changes) -> TrainOptions:
    return TrainOptions(**({"mode": "box", "epochs": 1, "batch_size": 4, "styles": 0} | changes))


def run(cases: list[Case], folder: Path, cache: FeatureCache, chosen: TrainOptions, encoder: Encoder | None = None):
    return list(train(cases, {1: "ball"}, folder, chosen, cache=cache, encoder=encoder or stand_in_encoder()))


def disk_with(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(int(1e12), 0, int(free)))


def same_models(one: Path, other: Path) -> bool:
    a, b = (DeSAM.load(folder / "last.desam").tensors() for folder in (one, other))
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("codec", ["int8", "float16"])
@pytest.mark.parametrize("backbone", ["stand-in", PICTURE])
def test_the_estimate_is_what_a_picture_takes_on_disk(tmp_path: Path, codec: str, backbone: str) -> None:
    encoder = stand_in_encoder()
    if backbone == PICTURE:
        encoder = Encoder(build_backbone(PICTURE, {}), PICTURE, torch.device("cpu"))
    volume, _ = ball_volume()
    cache = FeatureCache(tmp_path, codec=codec)
    list(FeatureStream(Slices(volume, common_spec([volume], options())), encoder, cache).fill([2]))
    assert cache.size_bytes() <= stored_bytes(encoder, codec) <= 1.01 * cache.size_bytes()


def test_a_limit_too_small_for_the_run_is_raised_until_it_ends(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache", limit_bytes=8 * PICTURE_BYTES)
    events = run(ball_cases(3), tmp_path / "run", cache, options(epochs=2, empty_fraction=0.6))
    assert isinstance(events[-1], Finished)
    (said,) = [event.text for event in events if isinstance(event, Log)]
    assert "GB" in said
    assert str(cache.root) in said
    assert cache.size_bytes() > 8 * PICTURE_BYTES
    assert cache.limit_bytes == int(8 * PICTURE_BYTES)


def test_older_features_go_before_those_of_the_run(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache", limit_bytes=12 * PICTURE_BYTES)
    for number in range(11):
        cache.put(f"old{number}", {"neck": np.random.default_rng(number).normal(size=(896, 64, 64))})
    encoder, calls = counting()
    run(ball_cases(2), tmp_path / "run", cache, options(epochs=3, empty_fraction=0.6), encoder)
    assert len(calls) == len(set(calls)), "no picture is computed twice"


def test_a_disk_too_small_for_the_run_is_refused_before_any_feature(tmp_path: Path, monkeypatch) -> None:
    disk_with(monkeypatch, 10 * PICTURE_BYTES)
    encoder, calls = counting()
    with pytest.raises(BadDataset, match=r"--styles.*larger disk"):
        run(ball_cases(3), tmp_path / "run", FeatureCache(tmp_path / "cache"), options(empty_fraction=0.6), encoder)
    assert not calls


def test_what_the_cache_holds_already_counts_as_room(tmp_path: Path, monkeypatch) -> None:
    cache = FeatureCache(tmp_path)
    cache.put("old", {"neck": np.random.default_rng(0).normal(size=(896, 64, 64))})
    disk_with(monkeypatch, 0.5 * PICTURE_BYTES)
    assert make_room(cache, 1, 2_000_000) == ""
    assert cache.limit_bytes < 1.5 * PICTURE_BYTES, "the old goes before the disk is full"
    with pytest.raises(BadDataset):
        make_room(cache, 3, 2_000_000)


def counting() -> tuple[Encoder, list[bytes]]:
    """An encoder, and the pictures it is asked for."""
    encoder, calls = stand_in_encoder(), []
    forward = encoder._forward

    def counted(images: np.ndarray):
        calls.extend(image.tobytes() for image in images)
        return forward(images)

    encoder._forward = counted  # type: ignore[method-assign]
    return encoder, calls


def test_only_looks_that_an_epoch_draws_are_computed_and_the_draw_is_the_same(tmp_path: Path) -> None:
    cases, chosen = ball_cases(1), options(epochs=2, styles=6, validation_fraction=0)
    encoder, calls = counting()
    spec = common_spec([cases[0].image], chosen)  # type: ignore[list-item]
    data = TrainingSet(cases, [1], spec, chosen, encoder, FeatureCache(tmp_path))
    list(data.prepare())
    drawn = {visit for epoch in (1, 2) for batch in data.epoch(epoch) for visit in batch}
    assert len(calls) == len(drawn) < 7 * len(data.examples)
    kept = {(i, view) for i, each in enumerate(data.examples) for view, key in enumerate(each.keys) if key}
    assert kept == drawn


def test_features_that_vanish_are_computed_again_and_nothing_else_changes(tmp_path: Path) -> None:
    chosen = options(epochs=2, views=2, styles=1, validation_fraction=0)
    run(ball_cases(2), tmp_path / "whole", FeatureCache(tmp_path / "a"), chosen)
    cache, said = FeatureCache(tmp_path / "b"), []
    for event in train(ball_cases(2), {1: "ball"}, tmp_path / "robbed", chosen, cache=cache,
                       encoder=stand_in_encoder()):  # fmt: skip
        if isinstance(event, EpochDone) and event.epoch == 1:
            cache.clear()
        if isinstance(event, Log):
            said.append(event.text)
    assert len(said) == 1
    assert "computed again" in said[0]
    assert same_models(tmp_path / "whole", tmp_path / "robbed")


class MovingEncoder(Encoder):
    """Runs out of the memory of its device in the middle, as far as its key tells."""

    seen = 0

    @property
    def key(self) -> str:
        return f"stand-in.{'half' if self.seen < 5 else 'f32'}"

    def _forward(self, images):
        self.seen += len(images)
        return super()._forward(images)


def test_an_encoder_that_moves_to_the_cpu_in_the_middle_leaves_the_stored_slices_findable(tmp_path: Path) -> None:
    encoder = MovingEncoder(StandInBackbone(), "stand-in", torch.device("cpu"))  # type: ignore[arg-type]
    events = run(ball_cases(2), tmp_path / "run", FeatureCache(tmp_path / "cache"),
                 options(empty_fraction=0.6, validation_fraction=0), encoder)  # fmt: skip
    assert isinstance(events[-1], Finished)
    assert not any(isinstance(event, Log) for event in events), "nothing had to be computed again"
    assert [event.done for event in events if isinstance(event, Progress) and "ball1" in event.text][-1] > 0
