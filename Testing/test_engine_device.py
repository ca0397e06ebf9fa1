"""GPUs without a GPU: what is decided about a device is decided here by what the driver would say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from DeSAMSegmentLib.engine.runtime import device as devices
from DeSAMSegmentLib.engine.runtime import memory
from DeSAMSegmentLib.engine.runtime import session as sessions
from DeSAMSegmentLib.engine.runtime.device import half_type
from DeSAMSegmentLib.engine.runtime.session import Session
from DeSAMSegmentLib.errors import BadInput, OutOfMemory
from DeSAMSegmentLib.model.prediction import DecodeSettings
from DeSAMSegmentLib.model.types import Features
from small_model import small, small_features
from standin import stand_in_encoder

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


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
def test_a_gpu_that_this_pytorch_build_does_not_support_is_not_used(card, capability, built, usable) -> None:
    card(capability, built)
    assert devices.choose("auto").type == ("cuda" if usable else "cpu")
    if usable:
        assert devices.choose("cuda") == CUDA
    else:
        with pytest.raises(BadInput, match="the card is not supported by this PyTorch build"):
            devices.choose("cuda")


@pytest.mark.parametrize(("capability", "half"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16)])
def test_bfloat16_is_used_only_where_the_gpu_computes_it(card, capability, half) -> None:
    card(capability, [])
    assert half_type(CUDA) is half


@pytest.mark.parametrize("words", ["CUDA out of memory. Tried", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory"])
def test_out_of_memory_is_recognised_by_the_message_of_every_library(words: str) -> None:
    assert memory.is_out_of_memory(RuntimeError(words))
    assert not memory.is_out_of_memory(RuntimeError("shapes do not fit"))


def test_a_memory_error_of_python_is_recognised() -> None:
    assert memory.is_out_of_memory(MemoryError())


def test_a_second_gpu_that_is_not_present_is_refused(card) -> None:
    card((8, 0), ["sm_80"])
    with pytest.raises(BadInput, match="no cuda:1; 1 CUDA device"):
        devices.choose("cuda:1")


def test_memory_that_pytorch_has_reserved_but_does_not_use_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 60)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 20)
    assert memory.free_bytes(CUDA) == 140


# ---- out of memory: smaller batches, then the CPU ----

IMAGES = np.zeros((4, 256, 256), np.uint8)
GRID = DecodeSettings(mode="grid", points=3, iou_threshold=0.0, mask_threshold=0.5, min_area_px=0)


@pytest.fixture
def on_a_gpu() -> Session:
    """A session whose stand-in encoder says that it is on a GPU, with room for four slices at once."""
    encoder = stand_in_encoder()
    encoder.device, encoder.batch = CUDA, 4
    session = Session(encoder=encoder)
    assert session.device == CUDA
    return session


def said(session: Session) -> list[str]:
    return [event.text for event in session.logged()]


def test_a_short_last_batch_does_not_make_the_next_ones_small() -> None:
    encoder = stand_in_encoder()
    encoder.batch = 4
    session = Session(encoder=encoder)
    session.encode(IMAGES[:1])
    assert encoder.batch == 4
    assert said(session) == []


def test_a_batch_that_did_not_fit_stays_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = stand_in_encoder()
    encoder.batch = 4
    encode = encoder.encode

    def short_of_memory(images: np.ndarray) -> Features:
        if len(images) > 2:
            raise RuntimeError("CUDA out of memory")
        return encode(images)

    monkeypatch.setattr(encoder, "encode", short_of_memory)
    session = Session(encoder=encoder)
    assert session.encode(IMAGES).batch == 4
    assert encoder.batch == 2
    assert said(session) == ["Out of memory during computing features: continuing with batches of 2."]


def test_an_encoder_that_does_not_fit_on_the_gpu_continues_on_the_cpu(on_a_gpu: Session, monkeypatch) -> None:
    encoder = on_a_gpu.encoder
    encode = stand_in_encoder().encode

    def short_of_memory(images: np.ndarray) -> Features:
        if encoder.device == CUDA:
            raise RuntimeError("CUDA out of memory")
        return encode(images)

    monkeypatch.setattr(encoder, "encode", short_of_memory)
    features = on_a_gpu.encode(IMAGES)
    torch.testing.assert_close(features.neck, encode(IMAGES).neck)
    assert (encoder.device, on_a_gpu.device, encoder.batch) == (CPU, CPU, 1)
    assert said(on_a_gpu) == [
        "Out of memory during computing features: continuing with batches of 2.",
        "Out of memory during computing features: continuing with batches of 1.",
        "The GPU's memory is not enough for the image encoder: continuing on the CPU.",
    ]


def test_the_next_job_starts_on_the_gpu_again(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(encoder=stand_in_encoder())
    session._chosen, session.prompt_batch = CUDA, 4  # an earlier job had to leave the GPU
    moves: list[Any] = []
    monkeypatch.setattr(session.encoder, "move", moves.append)
    assert session.begin("lite_medsam") is session.encoder
    assert moves == [CUDA]
    assert session.prompt_batch is None


def refusing(session: Session, fits: int, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """Decoding on ``device`` has memory for so many prompts at once; returns what is asked for."""
    asked: list[int | None] = []
    original = sessions.predict_slice

    def short_of_memory(model, features, settings, known=None, prompt_batch=None):
        asked.append(prompt_batch)
        if session.device == device and (prompt_batch is None or prompt_batch > fits):
            raise RuntimeError("CUDA out of memory")
        return original(model, features, settings, known, prompt_batch)

    monkeypatch.setattr(sessions, "predict_slice", short_of_memory)
    monkeypatch.setattr(memory, "prompts_at_once", lambda *_: 16)
    return asked


def test_prompts_that_did_not_fit_stay_halved_and_give_the_same_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    session, model, features = Session(encoder=stand_in_encoder()), small(), small_features()
    (expected,) = session.predict(model, features, GRID)
    asked = refusing(session, 4, CPU, monkeypatch)
    for _ in range(2):
        (found,) = session.predict(model, features, GRID)
        np.testing.assert_allclose(found.logits, expected.logits, atol=1e-4)
        assert found.chosen == expected.chosen
    assert asked == [16, 8, 4, 4]
    assert session.prompt_batch == 4
    assert said(session) == [
        "Out of memory during decoding masks: continuing with batches of 8.",
        "Out of memory during decoding masks: continuing with batches of 4.",
    ]


def test_a_decoder_that_does_not_fit_on_the_gpu_continues_on_the_cpu(on_a_gpu: Session, monkeypatch) -> None:
    model, features = small(), small_features()
    moves: list[Any] = []
    (expected,) = Session(encoder=stand_in_encoder()).predict(model, features, GRID)
    asked = refusing(on_a_gpu, 0, CUDA, monkeypatch)
    monkeypatch.setattr(Features, "to", lambda self, device: self)
    monkeypatch.setattr(model, "to", moves.append)
    (found,) = on_a_gpu.predict(model, features, GRID)
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-4)
    assert asked == [16, 8, 4, 2, 1, None]
    assert moves == [CUDA, CPU]
    assert on_a_gpu.device == CPU
    assert said(on_a_gpu)[-2:] == [
        "Out of memory during decoding masks: continuing with batches of 1.",
        "The GPU's memory is not enough for the decoder: continuing on the CPU.",
    ]


def test_a_cpu_without_memory_for_a_single_slice_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(encoder=stand_in_encoder())

    def short_of_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(session.encoder, "encode", short_of_memory)
    with pytest.raises(OutOfMemory, match=r"computing features.*Close other programs"):
        session.encode(IMAGES)
    monkeypatch.setattr(sessions, "predict_slice", short_of_memory)
    with pytest.raises(OutOfMemory, match=r"decoding masks.*Close other programs"):
        session.predict(small(), small_features(), GRID)


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
