"""PRIM is asked once about a grid on a slice, and never answers for another slice, grid or PRIM."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.engine.events import Finished
from DeSAMSegmentLib.engine.options import SegmentOptions
from DeSAMSegmentLib.engine.runtime.loading import DeSAM as ModelFile
from DeSAMSegmentLib.engine.runtime.session import Session
from DeSAMSegmentLib.engine.segment.segment import segment
from DeSAMSegmentLib.model.prim_slice import PrimSlice
from DeSAMSegmentLib.model.slice_decoder import SliceDecoder
from DeSAMSegmentLib.model.token_cache import TokenCache
from DeSAMSegmentLib.model.types import Prompts
from small_model import small, small_features
from standin import ball_volume, stand_in_encoder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many prompts PRIM read, call by call."""
    calls: list[int] = []
    see = PrimSlice.see
    monkeypatch.setattr(PrimSlice, "see", lambda prepared, tokens: calls.append(len(tokens)) or see(prepared, tokens))
    return calls


def test_a_cached_answer_is_the_same_answer_and_costs_nothing(asked: list[int]) -> None:
    model, features, tokens = small(shared_prim=True), small_features(), TokenCache()
    grid = Prompts.grid(4, 256)
    first = SliceDecoder(model, features, (tokens, "slice")).score(grid)
    assert sum(asked) == 16
    assert torch.equal(SliceDecoder(model, features, (tokens, "slice")).score(grid), first)
    assert sum(asked) == 16


@pytest.mark.parametrize(("name", "side"), [("other slice", 4), ("slice", 5)])
def test_another_slice_or_grid_is_asked_anew(asked: list[int], name: str, side: int) -> None:
    model, features, tokens = small(shared_prim=True), small_features(), TokenCache()
    SliceDecoder(model, features, (tokens, "slice")).score(Prompts.grid(4, 256))
    SliceDecoder(model, features, (tokens, name)).score(Prompts.grid(side, 256))
    assert sum(asked) == 16 + side**2


def test_the_digest_follows_prim_and_not_what_learns() -> None:
    model = small(shared_prim=True)
    before = model.prim_digest()
    with torch.no_grad():
        model.pdmm[0].head.weight.add_(1)
        next(iter(model.prim_of(0)[0].iou_heads.parameters())).add_(1)
    assert model.prim_digest() == before
    with torch.no_grad():
        next(iter(model.prim_of(0)[0].transformer.parameters())).add_(1)
    assert model.prim_digest() != before
    assert small(shared_prim=False).prim_digest() is None


def test_the_oldest_goes_when_the_cache_is_full() -> None:
    tokens = TokenCache(limit_bytes=3 * 4 * 256)
    for name in "abc":
        tokens.put(name, torch.zeros(1, 256))
    assert tokens.get("a") is not None  # used again: now "b" is the oldest
    tokens.put("d", torch.zeros(1, 256))
    assert [name for name in "abcd" if tokens.get(name) is not None] == ["a", "c", "d"]
    tokens.put("too large", torch.zeros(9, 256))
    assert tokens.get("too large") is None


def with_frozen_prim(card_of: Path) -> ModelFile:
    """A model whose PRIM is frozen, under the card of another."""
    shared = small(level_widths=(160, 160, 320), shared_prim=True)
    model = ModelFile(shared.config)
    model.load_tensors(shared.tensors())
    model.card = ModelFile.load(card_of).card
    return model


def test_a_second_run_with_another_threshold_reads_no_prompt_again(asked: list[int], untrained_model) -> None:
    again = with_frozen_prim(untrained_model)
    session, (volume, _) = Session(encoder=stand_in_encoder()), ball_volume()

    def run(threshold: float):
        options = SegmentOptions(mode="grid", points=3, iou_threshold=threshold)
        *_, finished = segment(volume, again, options, session)
        assert isinstance(finished, Finished)
        return finished.result.labels

    run(1.0)  # nothing passes: only scores were asked for
    first = sum(asked)
    assert first == 9 * len(volume.array)
    run(1.0)
    assert sum(asked) == first


def test_another_prim_and_other_roundings_of_the_features_are_asked_anew(
    asked: list[int], untrained_model: Path, tmp_path: Path
) -> None:
    session, (volume, _) = Session(encoder=stand_in_encoder()), ball_volume(shape=(2, 48, 40))
    one, other = with_frozen_prim(untrained_model), with_frozen_prim(untrained_model)
    with torch.no_grad():
        next(iter(other.prim_of(0)[0].transformer.parameters())).add_(1)
    coarse, fine = FeatureCache(tmp_path / "a", codec="int8"), FeatureCache(tmp_path / "b", codec="float16")
    counts = []
    for model, cache in ((one, coarse), (one, coarse), (other, coarse), (other, fine)):
        session.cache = cache
        list(segment(volume, model, SegmentOptions(mode="grid", points=3), session))
        counts.append(sum(asked) // 18)
    assert counts == [1, 1, 2, 3]
