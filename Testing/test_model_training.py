"""What learns in a DeSAM, and that training computes what inference does."""

from __future__ import annotations

import pytest
import torch
from DeSAMSegmentLib.model.desam import DeSAM
from DeSAMSegmentLib.model.types import Prompts
from small_model import small, small_features

POINTS = torch.tensor([[100.0, 60.5], [30.0, 200.0], [128.0, 128.0]])


def trained_parts(model: DeSAM) -> set[str]:
    parts = set()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            pieces = name.split(".")
            parts.add(pieces[0] if pieces[0] != "prim" else pieces[2])
    return parts


def test_only_what_is_asked_for_trains():
    model = small()
    chosen = model.trainable(train_prim=False)
    assert trained_parts(model) == {"pdmm", "iou_heads"}
    assert {id(p) for p in chosen} == {id(p) for p in model.parameters() if p.requires_grad}
    model.trainable(train_prim=True)
    assert trained_parts(model) == {"pdmm", "iou_heads", "transformer", "iou_token", "mask_tokens"}
    assert trained_parts_of("pdmm_only") == {"pdmm"}
    assert trained_parts_of("no_iou_head") == {"pdmm"}


def trained_parts_of(variant: str) -> set[str]:
    model = small(variant=variant)
    model.trainable(train_prim=False)
    return trained_parts(model)


@pytest.mark.parametrize("train_prim", [False, True])
def test_gradients_reach_what_trains_and_nothing_else(train_prim):
    model = small()
    model.trainable(train_prim)
    iou, logits = model.train_decode(small_features(2), POINTS[None, :2].repeat(2, 1, 1))
    assert iou.shape == (2, 2)
    assert logits.shape == (2, 2, 256, 256)
    (iou.sum() + logits.square().mean()).backward()
    for name, parameter in model.named_parameters():
        has_gradient = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        # The keys' bias cancels in a softmax, so its gradient may round to nothing.
        if parameter.requires_grad and not name.endswith("k_proj.bias"):
            assert has_gradient, name
        elif not parameter.requires_grad:
            assert not has_gradient, name


def test_training_with_the_transformer_frozen_computes_the_same_loss_as_with_it_free():
    model, features = small(), small_features(2)
    points = torch.stack([POINTS, POINTS.flip(0)])
    found = []
    for train_prim in (False, True):
        model.trainable(train_prim)
        iou, logits = model.train_decode(features, points)
        found.append((iou.detach(), logits.detach()))
    torch.testing.assert_close(found[0][0], found[1][0], atol=2e-5, rtol=0)
    torch.testing.assert_close(found[0][1], found[1][1], atol=2e-4, rtol=0)


def test_the_boxs_mask_embedding_can_be_computed_ahead():
    model, features = small(), small_features(2)
    embedding = model.embed_box(features)
    assert embedding.shape == (2, 1, 256, 64, 64)
    with torch.no_grad():
        _, ahead = model.train_decode(features, None, embedding=embedding)
        _, at_once = model.train_decode(features, None)
    torch.testing.assert_close(ahead, at_once)
    torch.testing.assert_close(ahead[1], model.decode(features[1], Prompts.box()).logits[0], atol=1e-4, rtol=0)


def test_training_runs_under_autocast():
    model = small()
    model.trainable(train_prim=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        iou, logits = model.train_decode(small_features(), POINTS[None, :2])
    (iou.float().sum() + logits.float().square().mean()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
