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
        self.reference = reference
        self.iou_weight = 1.0 if reference else iou_weight
        self.dice = DiceLoss(sigmoid=True, squared_pred=True, batch=batch_dice)
        self.dice_ce = DiceCELoss(sigmoid=True, squared_pred=True, batch=batch_dice)

    def __call__(self, logits: Tensor, target: Tensor, iou: Tensor | None, inside: Tensor | None) -> LossParts:
        """
        Arguments:
          logits: (N, 1, 256, 256); target: the same shape, 0 or 1.
          iou: (N,) predicted IoU, or None where no prompt is ranked (whole box).
          inside: (N,) 1 where the prompt lies in the organ, else 0 (E-2).
        """
        logits, target = logits.float(), target.float()
        dice = self.dice(logits, target)
        ce = torch.zeros_like(dice) if self.reference else self.dice_ce(logits, target) - dice
        error = torch.zeros_like(dice)
        if iou is not None and inside is not None:
            distance = F.l1_loss if self.reference else F.mse_loss
            error = self.iou_weight * distance(iou.float(), inside.float())
        return LossParts(dice + ce + error, dice, ce, error)
