"""What was computed once answers only for the slice, the weights and the arithmetic that it was computed with."""

from __future__ import annotations

from pathlib import Path

import desam_research  # noqa: F401  which taps LiteMedSAM elsewhere, too
import numpy as np
import pytest
import torch
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.data.slices import Slices, SliceSpec
from DeSAMSegmentLib.engine.runtime import device as devices
from DeSAMSegmentLib.engine.runtime.features import FeatureStream, slice_key
from DeSAMSegmentLib.engine.runtime.loading import DeSAM
from DeSAMSegmentLib.engine.runtime.session import Encoder, Session
from DeSAMSegmentLib.engine.train.augmentation import Augmented, AugmentedStream
from DeSAMSegmentLib.errors import BadModelFile
from DeSAMSegmentLib.model.registry import BACKBONES
from DeSAMSegmentLib.model.types import Features
from standin import StandInBackbone, ball_volume, stand_in_encoder

CPU = torch.device("cpu")


def ball_slices() -> Slices:
    return Slices(ball_volume()[0], SliceSpec())


def key(encoder: Encoder, index: int = 0) -> str:
    return FeatureStream(ball_slices(), Session(encoder=encoder)).key(index)


def on_the_gpu() -> Encoder:
    encoder = stand_in_encoder()
    encoder.device = torch.device("cuda")
    return encoder


def test_another_slice_other_weights_taps_or_precision_have_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    tapped_elsewhere = stand_in_encoder()
    tapped_elsewhere.backbone.spec = BACKBONES["lite_medsam@early"]
    retrained = Encoder(StandInBackbone(), "another hash", CPU)  # type: ignore[arg-type]
    keys = [key(stand_in_encoder()), key(stand_in_encoder(), 1), key(tapped_elsewhere), key(retrained)]
    for half in (torch.float16, torch.bfloat16):
        monkeypatch.setattr(devices, "half_type", lambda device, half=half: half)
        keys.append(key(on_the_gpu()))
    assert len(set(keys)) == 6
    assert key(stand_in_encoder()) == keys[0]


def test_another_augmentation_of_a_slice_has_another_key_even_under_the_same_number(tmp_path: Path) -> None:
    """Another seed, or another version of the styles, makes another image."""
    target = np.zeros((256, 256), np.uint8)
    augmented = [Augmented(2, 1, target, np.full((256, 256), grey, np.uint8)) for grey in (10, 10, 11)]
    session = Session(cache=FeatureCache(tmp_path), encoder=stand_in_encoder())
    stream = AugmentedStream(ball_slices(), session, [*augmented, Augmented(2, 0, target)])
    same, again, other, plain = (stream.key(number) for number in range(4))
    assert same == again
    assert len({same, other, plain}) == 3
    assert plain == key(stand_in_encoder(), 2)


class Moving(Encoder):
    """Computes its first slice on the CPU after all, for want of memory."""

    name = "gpu"

    @property
    def key(self) -> str:
        return self.name

    def encode(self, images: np.ndarray) -> Features:
        self.name = "cpu"
        return super().encode(images)


def test_features_computed_on_the_cpu_after_a_fall_back_are_kept_under_the_cpus_key_alone(tmp_path: Path) -> None:
    cache, slices = FeatureCache(tmp_path), ball_slices()
    encoder = Moving(StandInBackbone(), "stand-in", CPU)  # type: ignore[arg-type]
    stream = FeatureStream(slices, Session(cache=cache, encoder=encoder))
    assert list(stream.fill([2])) == [(2, slice_key(slices, 2, "cpu"))]
    assert cache.get(slice_key(slices, 2, "cpu")) is not None
    assert cache.get(slice_key(slices, 2, "gpu")) is None


def test_a_model_is_not_loaded_for_another_backbone_than_its_own(untrained_model: Path) -> None:
    assert DeSAM.load(untrained_model, "lite_medsam").card.backbone == "lite_medsam"
    with pytest.raises(BadModelFile, match="trained on the backbone lite_medsam, not vit_b"):
        DeSAM.load(untrained_model, "vit_b")
