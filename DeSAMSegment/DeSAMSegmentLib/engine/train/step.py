"""One training step: a batch of slices through every label's decoder, the objective, the optimizer.

The paper's recipe (section 3.2 and equation 4): one random point per slice, inside or outside the organ with equal
chance; Dice + cross-entropy on its mask, and a squared error that teaches the IoU head whether the point is inside.
The decoder itself is ``DeSAM.train_decode``; what a batch holds, ``training_set.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.losses import DiceCELoss, DiceLoss
from torch import Tensor
from torch.nn import functional as F

from ...data.labels import has, ignored
from ...model.types import Features, send
from ..options import TrainOptions
from ..runtime import memory
from ..runtime.device import GIB, half_type
from ..runtime.loading import DeSAM
from ..runtime.session import Session
from .team import ALONE, Team
from .training_set import Batch

KEPT_EMBEDDINGS = 1000  # slices whose box embedding is kept, 2 MB each
NOTHING = -30.0  # a logit whose sigmoid adds nothing to Dice or cross-entropy where the target is 0


@dataclass(frozen=True)
class DrawnPrompts:
    """One label's prompts for a batch: points (B, 1, 2) and whether each lies inside (B, 1); None = whole box."""

    points: Tensor | None = None
    inside: Tensor | None = None


class Learner:
    """Model, optimizer and objective of a run.

    Arguments:
      session: where to compute, and who is told when a batch had to be split.
      stay: whether what is trained is held near where it starts, as strongly as ``options.near_base`` says.
      team: the processes that take each step together.
    """

    def __init__(
        self, model: DeSAM, options: TrainOptions, session: Session, stay: bool = False, team: Team = ALONE
    ) -> None:
        self.model, self.options, self.session, self.team = model, options, session, team
        self.labels = model.config.labels
        self.device = device = session.device
        self.amp = options.amp and device.type == "cuda"
        self.parameters = model.trainable(options.train_prim)
        self.start = [each.detach().clone() for each in self.parameters] if stay and options.near_base else []
        self.optimizer = torch.optim.Adam(self.parameters, lr=options.learning_rate)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp and half_type(device) is torch.float16)
        self.objective = Objective(options.iou_weight, options.profile != "paper", options.reference_losses)
        self.module = model.config.mask_module
        self.part_size = self._planned_part()  # slices on the device at once
        # the whole box's mask embedding never changes while PRIM is frozen
        self.embeds_once = options.mode == "box" and self.module.reads == "embedding" and not options.train_prim
        self.embeddings: dict[tuple[str, int], Tensor] = {}  # by slice and by the label whose PRIM it is

    def _planned_part(self) -> int:
        config, batch, train_prim = self.model.config, self.options.batch_size, self.options.train_prim
        part = memory.training_part(config, train_prim, self.amp, batch, self.device)
        if part < batch:
            need = batch * memory.training_bytes(config, train_prim, self.amp) / GIB
            self.session.log(f"A batch needs about {need:.1f} GB, which is not free: {part} of {batch} slices at once.")
        return part

    def step(self, batch: Batch, rate: float, rng: np.random.Generator) -> np.ndarray:
        """Learns from one batch; (4,) total, Dice, cross-entropy and IoU loss, means over slices and labels.

        Out of memory halves the part of the batch that is on the device at once; gradients add up to the same step,
        to rounding. Where the Dice is the batch's, its parts are looked at twice.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # drawn once, before anything can run out of memory: a repeated attempt asks at the same points
        prompts = [self._draw(batch.targets, label, rng) for label in range(self.labels)]

        own = self.team.share(len(batch.targets))
        sums = None
        if self.objective.batch_dice and self.team.size > 1:
            sums = self.team.sum(self._in_parts(own, lambda parts: self._batch_sums(batch, prompts, parts)))

        def work(parts: Sequence[slice]) -> Tensor:
            self.optimizer.zero_grad(set_to_none=True)
            several = sums is None and self.objective.batch_dice and len(parts) > 1
            whole = self._batch_sums(batch, prompts, parts) if several else sums
            numbers = [each for part in parts for each in self._backward(batch, prompts, part, whole)]
            return torch.stack(numbers or [torch.zeros(4)]).cpu().double().sum(0)  # asked at once: a GPU waits once

        # nothing that other processes wait for is in ``work``: a second attempt would ask them twice
        losses = self.team.sum(self._in_parts(own, work))
        self._add_up()
        if self.start:
            self._pull_back()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return losses.numpy()

    def _in_parts(self, own: slice, work: Callable[[Sequence[slice]], Tensor]) -> Tensor:
        """What ``work`` makes of slices of a batch, in parts that fit the device."""

        def attempt(size: int) -> Tensor:
            return work([slice(first, min(first + size, own.stop)) for first in range(own.start, own.stop, size)])

        planned = max(1, min(self.part_size, own.stop - own.start))
        made, fitted = memory.with_backoff(attempt, planned, self.session.log, "training")
        if fitted < planned:
            self.part_size = fitted
        return made

    def _add_up(self) -> None:
        """Gives every process of a team the gradients of the whole batch."""
        if self.team.size == 1:
            return
        grads = [torch.zeros_like(each) if each.grad is None else each.grad for each in self.parameters]
        flat = self.team.sum(torch.cat([grad.flatten() for grad in grads]))
        parts = flat.split([grad.numel() for grad in grads])
        for parameter, part in zip(self.parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)

    def _pull_back(self) -> None:
        """Adds the gradient of the penalty on the distance from the start (L2-SP: Li et al., ICML 2018, equation 2)."""
        self.scaler.unscale_(self.optimizer)
        for parameter, start in zip(self.parameters, self.start, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - start, alpha=self.options.near_base)

    def _draw(self, targets: np.ndarray, label: int, rng: np.random.Generator) -> DrawnPrompts:
        if self.options.mode == "box" or not self.module.has_prim:
            return DrawnPrompts()
        return DrawnPrompts(*draw_points(has(targets, label), rng, self.model.config.input_size, ignored(targets)))

    @torch.no_grad()
    def _batch_sums(self, batch: Batch, prompts: Sequence[DrawnPrompts], parts: Sequence[slice]) -> Tensor:
        """(labels, 2) what the Dice of the whole batch is made of: no part alone knows its gradient."""
        sums = torch.zeros(self.labels, 2, device=self.device)
        for part in parts:
            for label, (_, logits, target) in enumerate(self._decoded(batch, prompts, part)):
                sums[label] += self.objective.dice_sums(logits, target)
        return sums

    def _backward(
        self, batch: Batch, prompts: Sequence[DrawnPrompts], part: slice, whole: Tensor | None
    ) -> Iterator[Tensor]:
        """Adds the gradients of a part of the batch, label by label, so that one decoder's activations are alive.

        Yields each label's share of the step's losses, (4,) on the device.

        Arguments:
          whole: ``_batch_sums`` where there are other parts and the Dice is theirs too.
        """
        share = len(batch.targets[part]) / len(batch.targets) / self.labels
        for label, (iou, logits, target) in enumerate(self._decoded(batch, prompts, part)):
            inside = prompts[label].inside
            sums = None if whole is None else whole[label]
            if inside is None or not self.module.ranks_prompts:
                losses = self.objective(logits, target, None, None, sums)
            else:
                losses = self.objective(logits, target, iou[:, 0], send(inside[part, 0], self.device), sums)
            total = losses.total * share
            if whole is not None:  # every part holds the whole Dice's gradient for its own slices, not a share of it
                total = total + losses.dice * (1 / self.labels - share)
            self.scaler.scale(total).backward()
            yield torch.stack([losses.total, losses.dice, losses.ce, losses.iou]).detach() * share

    def _decoded(
        self, batch: Batch, prompts: Sequence[DrawnPrompts], part: slice
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Per label, one after another: predicted IoU (B, 1), logits (B, 1, 256, 256) and target of a part."""
        stored = batch.features[slice(part.start - batch.first, part.stop - batch.first)]
        features, targets = stored.to(device=self.device), batch.targets[part]
        unknown = ignored(targets)
        blind = send(torch.from_numpy(unknown), self.device)[:, None] if unknown.any() else None
        embedding = None
        for label in range(self.labels):
            if self.embeds_once and (label == 0 or not self.model.config.shared_prim):
                embedding = self._embedding(features, batch.keys[part], label)
            drawn = prompts[label].points
            points = None if drawn is None else send(drawn[part], self.device)
            with torch.autocast(self.device.type, dtype=half_type(self.device), enabled=self.amp):
                iou, logits = self.model.train_decode(features, points, label, embedding)
            if blind is not None:
                logits = logits.masked_fill(blind, NOTHING)
            yield iou, logits, send(torch.from_numpy(has(targets, label) & ~unknown), self.device)[:, None]

    def _embedding(self, features: Features, keys: Sequence[str], label: int) -> Tensor:
        """The box's mask embedding (B, 1, 256, 64, 64) of every slice, computed at its first visit.

        label: whose PRIM; one that all labels share is asked as the first label's.
        """
        kept = []
        for number, key in enumerate(keys):
            embedding = self.embeddings.get((key, label))
            if embedding is None:
                # rounded even when it is fresh: the first visit and the last see the same numbers
                embedding = self.model.embed_box(features[number], label).to(torch.float16)
                if len(self.embeddings) < KEPT_EMBEDDINGS:
                    self.embeddings[key, label] = embedding.cpu()
            kept.append(send(embedding, self.device).float())
        return torch.cat(kept)


# ---- prompts --------------------------------------------------------------------------------------------------------


def draw_points(
    target: np.ndarray, rng: np.random.Generator, input_size: int, unknown: np.ndarray | None = None
) -> tuple[Tensor, Tensor]:
    """One point per slice, inside or outside with equal chance (paper, section 3.2).

    A slice without the organ gives a point outside, one that it fills a point inside.

    Arguments:
      target: (B, 256, 256) bool of one label.
      unknown: (B, 256, 256) bool, where no point may be; None = nowhere. A slice that is unknown all over gives any.

    Returns:
      points (B, 1, 2), xy in the encoder's input frame, and inside (B, 1), 0 or 1.
    """
    points, flags = [], []
    for number, mask in enumerate(target):
        flat = mask.ravel()
        known = True if unknown is None or unknown[number].all() else ~unknown[number].ravel()
        inside, outside = np.flatnonzero(flat & known), np.flatnonzero(~flat & known)
        from_inside = bool(rng.random() < 0.5)
        from_inside = False if inside.size == 0 else True if outside.size == 0 else from_inside
        place = int(rng.choice(inside if from_inside else outside, 1)[0])
        y, x = divmod(place, mask.shape[1])
        points.append([[x, y]])
        flags.append([flat[place]])
    xy = np.array(points) * (input_size / target.shape[-1])
    return torch.from_numpy(xy.astype(np.float32)), torch.from_numpy(np.array(flags).astype(np.float32))


# ---- objective ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LossParts:
    """The total and what it is made of, each a scalar tensor."""

    total: Tensor
    dice: Tensor
    ce: Tensor
    iou: Tensor


class Objective:
    """Dice + cross-entropy on masks, weighted squared error on the predicted IoU (paper, equation 4).

    MONAI before 1.3 computes a cross-entropy of exactly zero for a single channel (MONAI#6923), and the published code
    pins such a version; ``Testing/test_losses.py`` holds that ours is not zero.

    Arguments:
      iou_weight: 10 in the paper.
      batch_dice: one Dice over the whole batch instead of the mean over slices; makes background slices well-behaved
        (their own Dice is 0 or 1 whatever their size).
      reference: the published code instead of the paper: Dice only, L1 with weight 1 (docs/how-it-differs.md).
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
          inside: (N,) 1 where the prompt lies in the organ, else 0.
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
