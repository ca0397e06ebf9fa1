"""The CUDA and MPS paths of segmenting, training and evaluating, run on a device that is pretended.

What must hold: every tensor is where it has to be, products are in the precision that is documented, results are the
CPU's, and the host waits for the device only where it needs a number. The counts are small and fixed; a change that
raises one has put a wait into an inner loop.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from DeSAMSegmentLib.data.cases import Case
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.engine.evaluate.evaluate import evaluate
from DeSAMSegmentLib.engine.events import CaseFailed, Event, Finished, Log, SliceDone
from DeSAMSegmentLib.engine.options import SegmentOptions, TrainOptions
from DeSAMSegmentLib.engine.runtime import session as session_module
from DeSAMSegmentLib.engine.runtime.loading import DeSAM
from DeSAMSegmentLib.engine.runtime.session import Encoder, Session
from DeSAMSegmentLib.engine.segment.segment import segment
from DeSAMSegmentLib.engine.train import training_set
from DeSAMSegmentLib.engine.train.step import Learner
from DeSAMSegmentLib.engine.train.train import train
from DeSAMSegmentLib.engine.train.training_set import Batch
from DeSAMSegmentLib.model.backbones import Backbone, build_backbone
from DeSAMSegmentLib.model.image_encoder import ImageEncoder
from DeSAMSegmentLib.model.prompt_encoder import PromptEncoder
from DeSAMSegmentLib.model.registry import BACKBONES
from DeSAMSegmentLib.store.card import ModelCard
from DeSAMSegmentLib.store.terminology import default_label
from pretend_device import Pretence, pretend
from small_model import small, small_features
from standin import StandInBackbone, ball_volume, stand_in_encoder

# torch before 2.8 cannot be pretended to: its autocast kernels cannot be taken over, nor its new tensors be caught
pytestmark = pytest.mark.skipif(
    not hasattr(torch._C, "_only_lift_cpu_tensors")
    or "allow_override" not in inspect.signature(torch.library.Library.impl).parameters,
    reason="this PyTorch is too old to pretend a device in",
)
CUDA, MPS = "cuda:0", "mps:0"
FULL = {torch.float32}


def known_model(labels: int = 1) -> DeSAM:
    model = small(labels=labels, shared_prim=True, level_widths=BACKBONES["lite_medsam"].level_widths)
    model.card = ModelCard(
        name="small",
        labels=tuple(default_label(value, f"label {value}") for value in range(1, labels + 1)),
        backbone="lite_medsam",
        architecture=model.config.to_dict(),
        slices={"axis": "axial", "intensity": "percentile"},
    )
    return model


def segmented(
    device: str, mode: str, cache: FeatureCache | None = None, pretence: Pretence | None = None
) -> tuple[np.ndarray, list[tuple[int, int]], list[Event]]:
    """Labels; what each slice but the first cost, (waits, uploads); all events."""
    volume, _ = ball_volume(shape=(2, 48, 40))
    session, costs, events = Session(device, encoder=stand_in_encoder(device), cache=cache), [], []
    options = SegmentOptions(mode=mode, points=3, iou_threshold=0.0)
    for event in segment(volume, known_model(), options, session):
        events.append(event)
        if pretence is not None and isinstance(event, SliceDone):
            costs.append((sum(pretence.waits.values()), pretence.uploads))
            pretence.waits, pretence.uploads = Counter(), 0
    finished = events[-1]
    assert isinstance(finished, Finished)
    return finished.result.labels, costs[1:], events


@pytest.fixture(scope="module")
def on_cpu() -> dict[str, np.ndarray]:
    return {mode: segmented("cpu", mode)[0] for mode in ("box", "grid")}


# ---- segmenting -----------------------------------------------------------------------------------------------------

# Waits of one slice, nothing cached: the largest feature of each level, at once, and the mask's logits; in grid mode
# the IoU tokens that are kept, the predicted IoUs, and a second mask to compare the first with. Sent: the box, or the
# points and one more for each mask. To MPS, which gets one image at a time, every copy is waited for.
SEGMENTING = [(CUDA, "box", 2, 1), (CUDA, "grid", 5, 3), (MPS, "grid", 9, 4)]


@pytest.mark.parametrize(("device", "mode", "waits", "uploads"), SEGMENTING)
def test_a_volume_is_segmented_on_the_device_as_on_the_cpu(device, mode, waits, uploads, on_cpu) -> None:
    with pretend(device) as pretence:
        labels, costs, _ = segmented(device, mode, pretence=pretence)
    assert costs == [(waits, uploads)]
    assert labels.any()
    assert (labels != on_cpu[mode]).mean() < 0.02, "the encoder's half precision moves an outline by a pixel"
    half = {torch.bfloat16} if device == CUDA else set()
    assert set(pretence.products) == FULL | half


def test_cached_features_cost_no_wait_but_for_the_mask(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    with pretend(CUDA) as pretence:
        first, costs, _ = segmented(CUDA, "box", cache, pretence)
        assert costs == [(10, 1)], "eight arrays go to disk"
        again, costs, _ = segmented(CUDA, "box", cache, pretence)
    assert costs == [(1, 9)]
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
    ("id", "capability", "half"),
    [("lite_medsam", (8, 0), torch.bfloat16), ("vit_b", (8, 0), torch.bfloat16), ("vit_b", (7, 5), torch.float16)],
)
def test_encoders_compute_in_half_precision_and_close_to_the_cpu(id: str, capability, half) -> None:
    torch.manual_seed(0)
    backbone = build_backbone("lite_medsam") if id == "lite_medsam" else small_vit()
    image = np.arange(256 * 256, dtype=np.uint8).reshape(1, 256, 256)
    expected = Encoder(backbone, "", torch.device("cpu")).encode(image)
    with pretend(CUDA, capability) as pretence:
        encoder = Encoder(backbone, "", torch.device(CUDA))
        pretence.forget()
        found = encoder.encode(image)
        assert set(pretence.products) == {half}
        assert not pretence.waits
        for one, other in zip([*found.levels, found.neck], [*expected.levels, expected.neck], strict=True):
            assert float((one.cpu().float() - other).norm() / other.norm()) < 0.03


def small_vit() -> Backbone:
    """SAM's ViT, two narrow blocks of it: one with windows, one without."""
    encoder = ImageEncoder(width=32, depth=2, heads=2, global_blocks=(2,), taps=(1, 1, 2))
    return Backbone(BACKBONES["vit_b"], encoder)


def test_a_gpu_whose_memory_ends_leaves_the_job_to_the_cpu(monkeypatch: pytest.MonkeyPatch, on_cpu) -> None:
    """What was computed ahead on the GPU follows."""
    decode = session_module.predict_slice

    def short_of_memory(model, *rest):
        if model.device.type == "cuda":
            raise RuntimeError("CUDA out of memory")
        return decode(model, *rest)

    monkeypatch.setattr(session_module, "predict_slice", short_of_memory)
    with pretend(CUDA):
        labels, _, events = segmented(CUDA, "box")
    assert any("continuing on the CPU" in event.text for event in events if isinstance(event, Log))
    assert (labels != on_cpu["box"]).mean() < 0.02


# ---- training and evaluating ----------------------------------------------------------------------------------------


def learner_on(device: str, mode: str = "grid", **options) -> tuple[Learner, Batch]:
    session = Session(device)
    learner = Learner(known_model().to(session.device), TrainOptions(mode=mode, batch_size=1, **options), session)
    targets = np.zeros((1, 256, 256), np.uint8)
    targets[0, 40:150, 60:190] = 1
    features = small_features(1, BACKBONES["lite_medsam"].level_widths)
    return learner, Batch(features.to(device=session.device), targets, ("one",))


def step(learner: Learner, batch: Batch) -> np.ndarray:
    return learner.step(batch, 1e-3, np.random.default_rng(0))


@pytest.fixture(scope="module")
def step_on_cpu() -> dict[str, np.ndarray]:
    return {mode: step(*learner_on("cpu", mode)) for mode in ("box", "grid")}


# The losses are read once a step. With float16 the scaler asks whether a gradient overflowed; to MPS every copy is
# waited for: points, what they lie in, and the target. In box mode a slice's embedding is kept at its first visit.
TRAINING = [
    (CUDA, (8, 0), "grid", {}, 1, {torch.bfloat16}),
    (CUDA, (7, 5), "box", {}, 3, {torch.float16}),
    (CUDA, (8, 0), "grid", {"amp": False}, 1, set()),
    (MPS, (8, 0), "grid", {}, 4, set()),
]


@pytest.mark.parametrize(("device", "capability", "mode", "options", "waits", "half"), TRAINING)
def test_a_step_is_taken_on_the_device_as_on_the_cpu(
    device, capability, mode, options, waits, half, step_on_cpu
) -> None:
    with pretend(device, capability) as pretence:
        learner, batch = learner_on(device, mode, **options)
        pretence.forget()
        losses = step(learner, batch)
    assert sum(pretence.waits.values()) == waits, pretence.waits
    np.testing.assert_allclose(losses, step_on_cpu[mode], rtol=5e-3)
    assert set(pretence.products) == half | FULL, "PRIM is frozen, and always float32"


class Inline:
    """A ThreadPoolExecutor that works at once: what is pretended belongs to a thread."""

    def __init__(self, max_workers: int) -> None: ...

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, work: Callable, *args: Any) -> Inline:
        self._result = work(*args)
        made = Inline(1)
        made.result = lambda value=self._result: value  # type: ignore[attr-defined]
        return made


def test_a_whole_training_is_resumed_and_evaluated_on_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_set, "ThreadPoolExecutor", Inline)
    cases = [Case(f"ball{seed}", *ball_volume(seed, (1, 48, 40))) for seed in range(4)]
    options = TrainOptions(mode="box", epochs=2, batch_size=2, styles=0, validation_fraction=0.7)
    with pretend(CUDA) as pretence:
        session = Session(cache=FeatureCache(tmp_path / "cache"), encoder=stand_in_encoder(CUDA))
        for resume in (False, True):
            for event in train(cases, {1: "ball"}, tmp_path / "run", options, session, resume=resume):
                if not resume and type(event).__name__ == "EpochDone":
                    break  # the second epoch goes on from what was saved
        assert isinstance(event, Finished)
        assert torch.bfloat16 in pretence.products
        model = DeSAM.load(event.result.best)
        events = list(evaluate(cases[:1], {1: "ball"}, tmp_path / "report", model=model, session=session))
    assert not [each for each in events if isinstance(each, CaseFailed)]
    assert isinstance(events[-1], Finished)
    assert events[-1].result.scores[0].metrics.dice is not None


# ---- what these tests would find ------------------------------------------------------------------------------------


def plant(monkeypatch: pytest.MonkeyPatch, function: Callable, old: str, new: str) -> None:
    """The function as if ``old`` in its source read ``new``."""
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{function.__qualname__} has changed: {old!r}"
    owner_path, _, name = function.__qualname__.rpartition(".")
    module = sys.modules[function.__module__]
    owner = getattr(module, owner_path) if owner_path else module
    made: dict[str, Any] = {}
    exec(compile("from __future__ import annotations\n" + source.replace(old, new), "planted", "exec"),
         module.__dict__, made)  # fmt: skip
    monkeypatch.setattr(owner, name, made[name])


WRONG_DEVICE = pytest.raises(RuntimeError, match="found at least two devices")
IN_SEGMENTING: list[tuple[Callable, str, str]] = [
    (Encoder.encode, "send(torch.from_numpy(np.ascontiguousarray(images)), self.device)", "torch.from_numpy(images)"),
    (PromptEncoder.forward, "send(prompts.xy, self.device)", "prompts.xy"),
    (StandInBackbone.forward, ", device=images.device", ""),
]
IN_TRAINING: list[tuple[Callable, str, str]] = [
    (Learner._backward, "send(inside[part, 0], self.device)", "inside[part, 0]"),
    (Learner._decoded, "send(drawn[part], self.device)", "drawn[part]"),
    (Learner._decoded, "send(torch.from_numpy(has(targets, label) & ~unknown), self.device)",
     "torch.from_numpy(has(targets, label))"),
]  # fmt: skip


def named(value: object) -> str | None:
    return getattr(value, "__qualname__", "")


@pytest.mark.parametrize(("function", "old", "new"), IN_SEGMENTING, ids=named)
def test_a_tensor_left_on_the_cpu_while_segmenting_is_found(monkeypatch, function, old, new) -> None:
    plant(monkeypatch, function, old, new)
    with pretend(CUDA), WRONG_DEVICE:
        segmented(CUDA, "grid")


@pytest.mark.parametrize(("function", "old", "new"), IN_TRAINING, ids=named)
def test_a_tensor_left_on_the_cpu_while_training_is_found(monkeypatch, function, old, new) -> None:
    with pretend(CUDA):
        learner, batch = learner_on(CUDA)
        plant(monkeypatch, function, old, new)
        with WRONG_DEVICE:
            step(learner, batch)


def test_a_wait_within_a_step_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, Learner._backward, ".backward()", ".backward(); losses.total.item()")
    with pretend(CUDA) as pretence:
        learner, batch = learner_on(CUDA)
        pretence.forget()
        step(learner, batch)
    assert pretence.waits == {"_to_copy": 1, "_local_scalar_dense": 1}


def test_float64_does_not_exist_on_mps() -> None:
    with pretend(MPS), pytest.raises(TypeError, match="float64"):
        torch.ones(2, dtype=torch.float64).to(MPS)
