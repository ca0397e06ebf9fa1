"""The estimates of memory are near what autograd really saves, and what is planned fits into what is free."""

from __future__ import annotations

import desam_research  # noqa: F401  (makes the baselines known)
import pytest
import torch
from DeSAMSegmentLib.engine.options import TrainOptions
from DeSAMSegmentLib.engine.runtime import memory
from DeSAMSegmentLib.engine.runtime.session import Session
from DeSAMSegmentLib.engine.train.step import Learner
from DeSAMSegmentLib.model.config import DeSAMConfig
from DeSAMSegmentLib.model.desam import DeSAM
from DeSAMSegmentLib.model.types import Features

CPU = torch.device("cpu")
VIT_B = (768, 768, 768)
CONFIGS = [
    (DeSAMConfig(shared_prim=True), False),
    (DeSAMConfig(), True),
    (DeSAMConfig(width="paper", level_widths=VIT_B, shared_prim=True), False),
    (DeSAMConfig(variant="pdmm_only"), False),
    (DeSAMConfig(variant="coupled"), True),
    (DeSAMConfig(variant="unet", backbone="pixels", level_widths=(1, 1, 1)), False),
]


def really_saved(config: DeSAMConfig, train_prim: bool) -> int:
    """Bytes of the different storages that autograd keeps of one slice, parameters left out."""
    model = DeSAM(config)
    model.trainable(train_prim)
    if config.variant == "unet":
        features = Features([torch.zeros(1, 1, 256, 256)] * 3, torch.zeros(1, 1, 256, 256))
    else:
        features = Features([torch.zeros(1, w, 64, 64) for w in config.level_widths], torch.zeros(1, 256, 64, 64))
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.train_decode(features, torch.rand(1, 1, 2) * 200)
    return sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in own)


@pytest.mark.parametrize(("config", "train_prim"), CONFIGS, ids=lambda value: str(getattr(value, "variant", value)))
def test_the_estimate_is_near_what_autograd_saves(config: DeSAMConfig, train_prim: bool) -> None:
    estimate, true = memory.saved_bytes(config, train_prim), really_saved(config, train_prim)
    assert 0.85 < estimate / true < 1.3, f"{estimate / 2**20:.0f} MB against {true / 2**20:.0f} MB"


def test_a_published_batch_fits_where_the_paper_s_did() -> None:
    config = DeSAMConfig(backbone="vit_h", input_size=1024, width="paper", level_widths=(1280,) * 3)
    assert 8 * memory.training_bytes(config, True, amp=True) < 7.8e9


@pytest.mark.parametrize(("free", "part"), [(64e9, 8), (1.5e9, 3), (1e6, 1)])
def test_a_batch_is_split_into_what_is_free(monkeypatch: pytest.MonkeyPatch, free: float, part: int) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: int(free))
    config = DeSAMConfig(width="paper", shared_prim=True)
    planned = memory.training_part(config, False, False, 8, CPU)
    assert planned == pytest.approx(part, abs=1)
    assert planned == 1 or planned * memory.training_bytes(config, False, False) <= free


def test_something_is_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    config = DeSAMConfig(shared_prim=True)
    each = memory.training_bytes(config, False, False)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10 * each)
    assert memory.training_part(config, False, False, 10, CPU) <= 8


def test_where_nobody_knows_what_is_free_the_whole_batch_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: None)
    assert memory.training_part(DeSAMConfig(), True, False, 8, CPU) == 8
    assert memory.prompts_at_once(DeSAMConfig(), CPU) == memory.MOST_PROMPTS


def test_a_learner_says_that_it_takes_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    config = DeSAMConfig(shared_prim=True)
    each = memory.training_bytes(config, False, False)
    monkeypatch.setattr(memory, "free_bytes", lambda device: int(3.5 * each / memory.SHARE))
    session = Session("cpu")
    learner = Learner(DeSAM(config), TrainOptions(batch_size=8), session)  # type: ignore[arg-type]
    assert learner.part_size == 3
    assert "3 of 8 slices" in next(session.logged()).text
