"""GPUs without a GPU: what is decided about a device is decided here by what the driver would say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from DeSAMSegmentLib.engine import device as devices
from DeSAMSegmentLib.engine.loading import half_type
from DeSAMSegmentLib.errors import BadInput
from DeSAMSegmentLib.model.types import Features
from standin import stand_in_encoder

CUDA = torch.device("cuda")


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch):
    """A CUDA card of a given capability under a PyTorch that was built for given ones."""

    def insert(capability: tuple[int, int], built: list[str]) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "the card")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)

    return insert


@pytest.mark.parametrize(
    ("capability", "built", "usable"),
    [
        ((8, 6), ["sm_75", "sm_80", "sm_86", "sm_90"], True),
        ((8, 9), ["sm_75", "sm_80", "sm_86", "sm_90"], True),  # code for 8.6 runs on 8.9
        ((6, 1), ["sm_75", "sm_80", "sm_86", "sm_90"], False),  # Pascal under a CUDA 13 build
        ((12, 0), ["sm_80", "sm_90"], False),
        ((12, 0), ["sm_80", "sm_90a", "compute_90"], True),  # the driver compiles what is older
        ((9, 0), ["gfx90a", "gfx942"], True),  # ROCm has names of its own
    ],
)
def test_a_card_that_this_pytorch_has_no_code_for_is_not_used(card, capability, built, usable) -> None:
    card(capability, built)
    assert devices.choose("auto").type == ("cuda" if usable else "cpu")
    if usable:
        assert devices.choose("cuda") == CUDA
    else:
        with pytest.raises(BadInput, match="without code for the card"):
            devices.choose("cuda")


@pytest.mark.parametrize(("capability", "half"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16)])
def test_bfloat16_only_where_the_card_computes_it(card, capability, half) -> None:
    card(capability, [])
    assert half_type(CUDA) is half


@pytest.mark.parametrize("words", ["CUDA out of memory. Tried", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory"])
def test_memory_that_ran_out_is_recognised_by_every_library_s_words(words: str) -> None:
    assert devices.is_out_of_memory(RuntimeError(words))
    assert not devices.is_out_of_memory(RuntimeError("shapes do not fit"))


def test_memory_that_python_could_not_get_is_recognised() -> None:
    assert devices.is_out_of_memory(MemoryError())


def test_a_second_card_that_is_not_there_is_refused(card) -> None:
    card((8, 0), ["sm_80"])
    with pytest.raises(BadInput, match="no cuda:1; 1 CUDA device"):
        devices.choose("cuda:1")


def test_what_pytorch_keeps_without_using_it_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 60)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 20)
    assert devices.free_bytes(CUDA) == 140


def test_a_short_last_batch_does_not_make_the_next_ones_small() -> None:
    encoder = stand_in_encoder()
    encoder.batch = 4
    images = np.zeros((1, 256, 256), np.uint8)
    encoder.encode(images)
    assert encoder.batch == 4


def test_a_batch_that_did_not_fit_stays_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = stand_in_encoder()
    encoder.batch = 4
    forward = encoder._forward

    def short_of_memory(images: np.ndarray) -> Features:
        if len(images) > 2:
            raise RuntimeError("CUDA out of memory")
        return forward(images)

    monkeypatch.setattr(encoder, "_forward", short_of_memory)
    assert encoder.encode(np.zeros((4, 256, 256), np.uint8)).batch == 4
    assert encoder.batch == 2


@pytest.mark.parametrize(("device", "unwaited"), [("cpu", False), ("cuda", True), (None, False)])
def test_only_a_copy_to_the_gpu_may_arrive_later(monkeypatch: pytest.MonkeyPatch, device, unwaited) -> None:
    asked = []

    def to(self, *, device, dtype, non_blocking):
        asked.append(non_blocking)
        return self

    features = Features([torch.zeros(1, 2, 4, 4)] * 3, torch.zeros(1, 2, 4, 4))
    monkeypatch.setattr(torch.Tensor, "to", to)
    features.to(device=device)
    assert asked == [unwaited] * 4
