"""A step is the same step however the batch is cut for memory, and each label is taught with its own prompts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from DeSAMSegmentLib.engine.options import TrainOptions
from DeSAMSegmentLib.engine.runtime.session import Session
from DeSAMSegmentLib.engine.train.step import Learner, draw_points
from DeSAMSegmentLib.engine.train.training_set import Batch
from small_model import small, small_features

FROZEN = 0.0  # learning rate of a step that leaves its gradients to look at


def batch_of_eight() -> Batch:
    """Two labels of very different sizes, from slice to slice and between each other; some slices hold none."""
    target = np.zeros((8, 256, 256), np.uint8)
    for number in range(5):
        target[number, 40 : 60 + 30 * number, 40 : 60 + 30 * number] = 1
        target[7 - number, 200 : 204 + 8 * number, 10:50] = 2
    return Batch(small_features(8), target, tuple(f"slice{number}" for number in range(8)))


def learner_for(mode: str, part: int = 8, **architecture) -> Learner:
    options = TrainOptions(mode=mode, batch_size=8)
    learner = Learner(small(labels=2, **architecture), options, Session("cpu"))
    learner.part_size = part
    return learner


def gradients(learner: Learner) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    """Losses of one step, and its gradients: of the logits (labels, 8, 256 * 256) and of all parameters."""
    decode, pulls = learner.model.train_decode, {0: [], 1: []}  # type: ignore[var-annotated]

    def listened(features, points, label, embedding):
        iou, logits = decode(features, points, label, embedding)
        if logits.requires_grad:
            logits.register_hook(lambda gradient: pulls[label].append(gradient.flatten(1)))
        return iou, logits

    learner.model.train_decode = listened  # type: ignore[assignment, method-assign]
    numbers = learner.step(batch_of_eight(), FROZEN, np.random.default_rng(3))
    parameters = torch.cat([p.grad.flatten() for p in learner.parameters if p.grad is not None])
    return numbers, torch.stack([torch.cat(pulls[0]), torch.cat(pulls[1])]), parameters


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / one.norm())


@pytest.mark.parametrize("mode", ["box", "grid"])
def test_the_parts_of_a_batch_add_up_to_the_same_step(mode: str) -> None:
    """The Dice is the batch's: a part that only knew its own slices would pull elsewhere, a third off with eight."""
    numbers, pull, whole = gradients(learner_for(mode))
    for size in (4, 1):
        same, cut, added = gradients(learner_for(mode, size))
        assert difference(pull, cut) < 1e-5, size
        # float32 knows the last layer's sum over all pixels to some 4e-4, whatever the losses
        assert difference(whole, added) < 2e-3, size
        np.testing.assert_allclose(same, numbers, rtol=1e-5, atol=1e-6)


def test_a_batch_in_one_part_is_decoded_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = learner_for("box")
    monkeypatch.setattr(learner, "_batch_sums", lambda *_: pytest.fail("decoded twice"))
    gradients(learner)


@pytest.mark.parametrize("shared", [True, False])
def test_each_label_learns_from_the_embedding_that_it_is_segmented_with(shared: bool) -> None:
    """A base may have a PRIM per label; the box's embedding is then each label's own."""
    learner, batch = learner_for("box", shared_prim=shared), batch_of_eight()
    with torch.no_grad():
        for label, (_, logits, _) in enumerate(learner._decoded(batch, [learner._draw(batch.targets, 0, None)] * 2,  # type: ignore[arg-type]
                                                                slice(0, 2))):  # fmt: skip
            _, expected = learner.model.train_decode(batch.features[slice(0, 2)], None, label)
            torch.testing.assert_close(logits, expected, atol=2e-3 * float(expected.abs().max()), rtol=0)


def test_an_embedding_is_kept_once_per_slice_and_prim() -> None:
    for shared, expected in ((True, 8), (False, 16)):
        learner = learner_for("box", shared_prim=shared)
        gradients(learner)
        assert len(learner.embeddings) == expected


@pytest.mark.parametrize("rate", [0.0, 1e-3])
def test_a_step_uses_the_learning_rate_that_it_is_given(rate: float) -> None:
    learner = learner_for("box")
    before = torch.cat([p.detach().flatten().clone() for p in learner.parameters])
    learner.step(batch_of_eight(), rate, np.random.default_rng(3))
    after = torch.cat([p.detach().flatten() for p in learner.parameters])
    assert float((after - before).abs().max()) == pytest.approx(rate, rel=0.01)  # Adam's first step is the rate


def test_options_reach_the_objective() -> None:
    made = {
        profile: Learner(small(), TrainOptions(profile=profile, iou_weight=3.0), Session("cpu")).objective
        for profile in ("new-site", "paper")
    }
    assert {each.iou_weight for each in made.values()} == {3.0}
    assert made["new-site"].batch_dice
    assert not made["paper"].batch_dice


def test_without_an_iou_head_there_is_no_iou_to_learn() -> None:
    options = TrainOptions(mode="grid", batch_size=8, variant="no_iou_head")
    learner = Learner(small(labels=2, variant="no_iou_head"), options, Session("cpu"))
    assert learner.step(batch_of_eight(), FROZEN, np.random.default_rng(3))[3] == 0


@pytest.mark.parametrize("size", [256, 1024])
def test_a_point_is_drawn_in_the_frame_of_the_encoder(size: int) -> None:
    target = np.zeros((64, 256, 256), bool)
    target[:, 10, 20] = True
    points, inside = draw_points(target, np.random.default_rng(0), size)
    assert 0 < inside.sum() < 64
    assert {tuple(xy) for xy in points[inside > 0].tolist()} == {(20 * size / 256, 10 * size / 256)}
