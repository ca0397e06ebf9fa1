"""The training objective: Dice + cross-entropy on masks, weighted squared error on the predicted IoU (paper, eq. 4).

MONAI before 1.3 computes a cross-entropy of exactly zero for a single channel (MONAI#6923), and the published code
pins such a version; ``Testing/test_losses.py`` holds that ours is not zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from monai.losses import DiceCELoss, DiceLoss
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class LossParts:
    """The total and what it is made of, each a scalar tensor."""

    total: Tensor
    dice: Tensor
    ce: Tensor
    iou: Tensor


class Objective:
    """Losses of one decoder step.

    Arguments:
      iou_weight: 10 in the paper.
      batch_dice: one Dice over the whole batch instead of the mean over slices; makes organ-free slices well-behaved
        (their own Dice is 0 or 1 whatever their size).
      reference: the published code instead of the paper: Dice only, L1 with weight 1 (E-1, E-2).
    """

    def __init__(self, iou_weight: float = 10.0, batch_dice: bool = True, reference: bool = False) -> None:
        self.reference, self.batch_dice = reference, batch_dice
        self.iou_weight = 1.0 if reference else iou_weight
        self.dice = DiceLoss(sigmoid=True, squared_pred=True, batch=batch_dice)
        self.dice_ce = DiceCELoss(sigmoid=True, squared_pred=True, batch=batch_dice)

    def __call__(
        self,
        logits: Tensor,
        target: Tensor,
        iou: Tensor | None,
        inside: Tensor | None,
        whole: Tensor | None = None,
    ) -> LossParts:
        """
        Arguments:
          logits: (N, 1, 256, 256); target: the same shape, 0 or 1.
          iou: (N,) predicted IoU, or None where no prompt is ranked (whole box).
          inside: (N,) 1 where the prompt lies in the organ, else 0 (E-2).
          whole: (2,) ``dice_sums`` of the batch that these N slices are a part of; the Dice is then that of the whole
            batch, with the gradient that it has for these slices.
        """
        logits, target = logits.float(), target.float()
        dice = self.dice(logits, target)
        ce = torch.zeros_like(dice) if self.reference else self.dice_ce(logits, target) - dice
        if whole is not None:
            dice = self._dice_within(whole, logits, target)
        error = torch.zeros_like(dice)
        if iou is not None and inside is not None:
            distance = F.l1_loss if self.reference else F.mse_loss
            error = self.iou_weight * distance(iou.float(), inside.float())
        return LossParts(dice + ce + error, dice, ce, error)

    def dice_sums(self, logits: Tensor, target: Tensor) -> Tensor:
        """(2,) what a batch's Dice is made of and what adds up over its parts: overlap, and squares of both masks."""
        mask, target = torch.sigmoid(logits.float()), target.float()
        return torch.stack([(mask * target).sum(), (mask**2).sum() + (target**2).sum()])

    def _dice_within(self, whole: Tensor, logits: Tensor, target: Tensor) -> Tensor:
        own = self.dice_sums(logits, target)
        overlap, squares = whole - own.detach() + own  # the other parts are constants
        return 1 - (2 * overlap + self.dice.smooth_nr) / (squares + self.dice.smooth_dr)
