"""The objective is the paper's, not the published code's accident."""

from __future__ import annotations

import pytest
import torch
from DeSAMSegmentLib.engine.train.step import Objective
from torch.nn import functional as F


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 1, 16, 16, generator=generator)
    target = (torch.rand(4, 1, 16, 16, generator=generator) > 0.7).float()
    return logits, target, torch.tensor([0.9, 0.2, 0.5, 0.1]), torch.tensor([1.0, 0.0, 1.0, 0.0])


def test_the_cross_entropy_of_a_single_channel_is_not_zero(batch) -> None:
    logits, target, iou, inside = batch
    parts = Objective()(logits, target, iou, inside)
    expected = F.binary_cross_entropy_with_logits(logits, target)
    assert expected > 0.5
    torch.testing.assert_close(parts.ce, expected, atol=1e-5, rtol=1e-5)


def test_the_iou_error_is_ten_times_its_mean_square(batch) -> None:
    logits, target, iou, inside = batch
    parts = Objective(iou_weight=10)(logits, target, iou, inside)
    torch.testing.assert_close(parts.iou, 10 * ((iou - inside) ** 2).mean())
    torch.testing.assert_close(parts.total, parts.dice + parts.ce + parts.iou)


def test_the_whole_box_has_no_iou_term(batch) -> None:
    logits, target, _, _ = batch
    parts = Objective()(logits, target, None, None)
    assert parts.iou == 0
    torch.testing.assert_close(parts.total, parts.dice + parts.ce)


def test_the_published_code_trained_on_dice_and_an_l1_only(batch) -> None:
    logits, target, iou, inside = batch
    parts = Objective(reference=True)(logits, target, iou, inside)
    assert parts.ce == 0
    torch.testing.assert_close(parts.iou, (iou - inside).abs().mean())


def test_a_batch_of_background_slices_has_a_finite_gradient() -> None:
    logits = torch.randn(2, 1, 16, 16, requires_grad=True)
    parts = Objective()(logits, torch.zeros(2, 1, 16, 16), torch.tensor([0.3, 0.4]), torch.zeros(2))
    parts.total.backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.abs().sum() > 0


def test_the_dice_of_a_batch_has_the_same_gradient_in_parts() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(8, 1, 32, 32, generator=generator).requires_grad_()
    target = torch.zeros(8, 1, 32, 32)
    for number in range(5):
        target[number, :, 2 : 6 + 5 * number] = 1
    objective = Objective()
    dice = objective(logits, target, None, None).dice
    (whole,) = torch.autograd.grad(dice, logits)
    sums = objective.dice_sums(logits, target).detach()
    for size in (1, 2, 4):
        parts = [
            objective(logits[i : i + size], target[i : i + size], None, None, sums).dice for i in range(0, 8, size)
        ]
        assert all(float(part.detach()) == pytest.approx(float(dice.detach()), rel=1e-6) for part in parts)
        (added,) = torch.autograd.grad(sum(parts), logits)
        assert float((added - whole).norm() / whole.norm()) < 1e-6
