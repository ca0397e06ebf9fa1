"""The disk budget of a training: all its features fit until it ends; what cannot fit is refused before any work."""

from __future__ import annotations

import re
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import desam_research  # noqa: F401  whose backbone is the image itself
import numpy as np
import pytest
import torch
from desam_cli.remedies import REMEDIES
from DeSAMSegmentLib.data.cases import Case, CaseStore
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.data.labels import Matcher
from DeSAMSegmentLib.data.slices import Slices
from DeSAMSegmentLib.engine.events import EpochDone, Finished, Log, Progress
from DeSAMSegmentLib.engine.options import TrainOptions
from DeSAMSegmentLib.engine.runtime.features import FeatureStream, stored_bytes
from DeSAMSegmentLib.engine.runtime.loading import DeSAM
from DeSAMSegmentLib.engine.runtime.session import Encoder, Session
from DeSAMSegmentLib.engine.train.train import train
from DeSAMSegmentLib.engine.train.training_set import TrainingSet, common_spec
from DeSAMSegmentLib.errors import BadDataset
from DeSAMSegmentLib.model.backbones import build_backbone
from quantised import as_stored
from standin import StandInBackbone, ball_volume, stand_in_encoder

IMAGE_BYTES = 3.7e6  # of the stand-in


def ball_cases(count: int) -> list[Case]:
    return [Case(f"ball{seed}", *ball_volume(seed)) for seed in range(count)]


def options(**changes) -> TrainOptions:
    return TrainOptions(**({"mode": "box", "epochs": 1, "batch_size": 4, "styles": 0} | changes))


def run(cases: list[Case], folder: Path, cache: FeatureCache, chosen: TrainOptions, encoder: Encoder | None = None):
    session = Session(cache=cache, encoder=encoder or stand_in_encoder())
    return list(train(cases, {1: "ball"}, folder, chosen, session))


def disk_with(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(int(1e12), 0, int(free)))


def same_models(one: Path, other: Path) -> bool:
    a, b = (DeSAM.load(folder / "last.desam").tensors() for folder in (one, other))
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("codec", ["int8", "float16"])
@pytest.mark.parametrize("backbone", ["stand-in", "pixels"])
def test_the_estimate_is_what_an_image_takes_on_disk(tmp_path: Path, codec: str, backbone: str) -> None:
    encoder = stand_in_encoder()
    if backbone == "pixels":
        encoder = Encoder(build_backbone("pixels"), "pixels", torch.device("cpu"))
    volume, _ = ball_volume()
    cache = FeatureCache(tmp_path, codec=codec)
    session = Session(cache=cache, encoder=encoder)
    list(FeatureStream(Slices(volume, common_spec([volume], options())), session).fill([2]))
    assert cache.size_bytes() <= stored_bytes(encoder.backbone.spec, codec) <= 1.01 * cache.size_bytes()


def test_a_limit_too_small_for_the_run_is_raised_until_it_ends(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache", limit_bytes=8 * IMAGE_BYTES)
    events = run(ball_cases(3), tmp_path / "run", cache, options(epochs=2, empty_fraction=0.6))
    assert isinstance(events[-1], Finished)
    (said,) = [event.text for event in events if isinstance(event, Log)]
    assert "GB" in said
    assert str(cache.root) in said
    assert cache.size_bytes() > 8 * IMAGE_BYTES
    assert cache.limit_bytes == int(8 * IMAGE_BYTES)


def test_older_features_go_before_those_of_the_run(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache", limit_bytes=12 * IMAGE_BYTES)
    for number in range(11):
        store_old_features(cache, f"old{number}", number)
    encoder, calls = counting()
    run(ball_cases(2), tmp_path / "run", cache, options(epochs=3, empty_fraction=0.6), encoder)
    assert len(calls) == len(set(calls)), "no image is encoded twice"


def test_a_disk_too_small_for_the_run_is_refused_before_any_feature(tmp_path: Path, monkeypatch) -> None:
    disk_with(monkeypatch, 10 * IMAGE_BYTES)
    encoder, calls = counting()
    with pytest.raises(BadDataset, match=r"style augmentations.*larger disk") as refused:
        run(ball_cases(3), tmp_path / "run", FeatureCache(tmp_path / "cache"), options(empty_fraction=0.6), encoder)
    assert re.search(r"--styles.*larger disk", refused.value.in_words(REMEDIES))
    assert not calls


def store_old_features(cache: FeatureCache, key: str, seed: int) -> None:
    neck = np.random.default_rng(seed).normal(size=(896, 64, 64))
    cache.put(key, as_stored({"neck": neck}, cache.codec))


def test_what_the_cache_already_holds_is_part_of_the_disk_budget(tmp_path: Path, monkeypatch) -> None:
    cache = FeatureCache(tmp_path)
    before = cache.limit_bytes
    store_old_features(cache, "old", 0)
    disk_with(monkeypatch, 0.5 * IMAGE_BYTES)
    with cache.holding(1, 2_000_000) as text:
        assert text == ""
        assert cache.limit_bytes < 1.5 * IMAGE_BYTES, "the old goes before the disk is full"
    assert cache.limit_bytes == before
    with pytest.raises(BadDataset), cache.holding(3, 2_000_000):
        pass
    assert cache.limit_bytes == before


def counting() -> tuple[Encoder, list[bytes]]:
    """An encoder, and the images it is asked for."""
    encoder = stand_in_encoder()
    calls: list[Any] = []
    encode = encoder.encode

    def counted(images: np.ndarray):
        calls.extend(image.tobytes() for image in images)
        return encode(images)

    encoder.encode = counted  # type: ignore[method-assign]
    return encoder, calls


def test_only_augmentations_that_an_epoch_draws_are_encoded_and_the_draw_is_the_same(tmp_path: Path) -> None:
    cases, chosen = ball_cases(1), options(epochs=2, styles=6, validation_fraction=0)
    encoder, calls = counting()
    spec = common_spec([cases[0].image], chosen)  # type: ignore[list-item]
    session = Session(cache=FeatureCache(tmp_path / "cache"), encoder=encoder)
    data = TrainingSet(cases, CaseStore(Matcher(["organ"], [1]), tmp_path / "cases"), spec, chosen, session)
    list(data.prepare())
    drawn = {visit for epoch in (1, 2) for batch in data.epoch(epoch) for visit in batch}
    assert len(calls) == len(drawn) < 7 * len(data.examples)
    kept = {(i, number) for i, each in enumerate(data.examples) for number, key in enumerate(each.keys) if key}
    assert kept == drawn


def test_features_that_vanish_are_computed_again_and_nothing_else_changes(tmp_path: Path) -> None:
    chosen = options(epochs=2, views=2, styles=1, validation_fraction=0)
    run(ball_cases(2), tmp_path / "whole", FeatureCache(tmp_path / "a"), chosen)
    cache, said = FeatureCache(tmp_path / "b"), []
    session = Session(cache=cache, encoder=stand_in_encoder())
    for event in train(ball_cases(2), {1: "ball"}, tmp_path / "robbed", chosen, session):
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

    def encode(self, images):
        self.seen += len(images)
        return super().encode(images)


def test_an_encoder_that_moves_to_the_cpu_in_the_middle_leaves_the_stored_slices_findable(tmp_path: Path) -> None:
    encoder = MovingEncoder(StandInBackbone(), "stand-in", torch.device("cpu"))  # type: ignore[arg-type]
    events = run(ball_cases(2), tmp_path / "run", FeatureCache(tmp_path / "cache"),
                 options(empty_fraction=0.6, validation_fraction=0), encoder)  # fmt: skip
    assert isinstance(events[-1], Finished)
    assert not any(isinstance(event, Log) for event in events), "nothing had to be computed again"
    assert [event.done for event in events if isinstance(event, Progress) and "ball1" in event.text][-1] > 0
