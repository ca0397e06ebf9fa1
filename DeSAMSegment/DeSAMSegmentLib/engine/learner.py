"""One optimizer step: a batch of slices through every label's decoder, down to what fits in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..model.types import Features
from . import device as devices
from . import planner
from .loading import DeSAM, half_type
from .losses import Objective
from .options import TrainOptions
from .training_set import Batch, draw_points

KEPT_EMBEDDINGS = 1000  # slices whose box embedding is kept, 2 MB each


@dataclass(frozen=True)
class DrawnPrompts:
    """One label's prompts for a batch: points (B, 1, 2) and whether each lies inside (B, 1); None = whole box."""

    points: torch.Tensor | None = None
    inside: torch.Tensor | None = None


class Learner:
    """Model, optimizer and objective of a run.

    Arguments:
      values: label values, in the order of the model's decoders.
      log: receives a sentence whenever the batch had to be split.
    """

    def __init__(
        self,
        model: DeSAM,
        values: Sequence[int],
        options: TrainOptions,
        device: torch.device,
        log: Callable[[str], None],
    ) -> None:
        self.model, self.values, self.options, self.device, self.log = model, values, options, device, log
        self.amp = options.amp and device.type == "cuda"
        self.parameters = model.trainable(options.train_prim)
        self.optimizer = torch.optim.Adam(self.parameters, lr=options.learning_rate)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp and half_type(device) is torch.float16)
        self.objective = Objective(options.iou_weight, options.profile != "paper", options.reference_losses)
        self.part_size = self._planned_part()  # slices on the device at once
        # the whole box's mask embedding never changes while PRIM is frozen
        self.embeds_once = options.mode == "box" and model.config.reads_embedding and not options.train_prim
        self.embeddings: dict[tuple[str, int], torch.Tensor] = {}  # by slice and by the label whose PRIM it is

    def _planned_part(self) -> int:
        config, batch = self.model.config, self.options.batch_size
        part = planner.training_part(config, self.options.train_prim, self.amp, batch, self.device)
        if part < batch:
            need = batch * planner.training_bytes(config, self.options.train_prim, self.amp) / devices.GIB
            self.log(f"A batch needs about {need:.1f} GB, which is not free: {part} of {batch} slices at once.")
        return part

    def step(self, batch: Batch, rate: float, rng: np.random.Generator) -> np.ndarray:
        """Learns from one batch; (4,) total, Dice, cross-entropy and IoU loss, means over slices and labels.

        Out of memory halves the part of the batch that is on the device at once; gradients add up to the same step,
        to rounding. Where the Dice is the batch's, its parts are looked at twice.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        prompts = [self._draw(batch.truth == value, rng) for value in self.values]

        def work(size: int) -> np.ndarray:
            self.optimizer.zero_grad(set_to_none=True)
            parts = [slice(first, first + size) for first in range(0, len(batch.truth), size)]
            shared = self.objective.batch_dice and len(parts) > 1
            whole = self._batch_sums(batch, prompts, parts) if shared else None
            return np.sum([self._backward(batch, prompts, part, whole) for part in parts], axis=0)

        planned = min(self.part_size, len(batch.truth))
        numbers, fitted = devices.with_backoff(work, planned, self.log, "training")
        if fitted < planned:
            self.part_size = fitted
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return numbers

    def _draw(self, truth: np.ndarray, rng: np.random.Generator) -> DrawnPrompts:
        if self.options.mode == "box" or self.options.variant in ("pdmm_only", "unet"):
            return DrawnPrompts()
        return DrawnPrompts(*draw_points(truth, rng, self.model.config.input_size))

    @torch.no_grad()
    def _batch_sums(self, batch: Batch, prompts: Sequence[DrawnPrompts], parts: Sequence[slice]) -> torch.Tensor:
        """(labels, 2) what the Dice of the whole batch is made of: no part alone knows its gradient."""
        sums = torch.zeros(len(self.values), 2, device=self.device)
        for part in parts:
            for label, (_, logits, target) in enumerate(self._decoded(batch, prompts, part)):
                sums[label] += self.objective.dice_sums(logits, target)
        return sums

    def _backward(
        self, batch: Batch, prompts: Sequence[DrawnPrompts], part: slice, whole: torch.Tensor | None
    ) -> np.ndarray:
        """Adds the gradients of a part of the batch, label by label, so that one decoder's activations are alive.

        whole: ``_batch_sums`` where there are other parts and the Dice is theirs too.
        """
        share = len(batch.truth[part]) / len(batch.truth) / len(self.values)
        totals = np.zeros(4)
        for label, (iou, logits, target) in enumerate(self._decoded(batch, prompts, part)):
            inside = prompts[label].inside
            sums = None if whole is None else whole[label]
            if inside is None or self.options.variant == "no_iou_head":
                losses = self.objective(logits, target, None, None, sums)
            else:
                losses = self.objective(logits, target, iou[:, 0], inside[part, 0].to(self.device), sums)
            total = losses.total * share
            if whole is not None:  # every part holds the whole Dice's gradient for its own slices, not a share of it
                total = total + losses.dice * (1 / len(self.values) - share)
            self.scaler.scale(total).backward()
            numbers = torch.stack([losses.total, losses.dice, losses.ce, losses.iou]).detach() * share
            totals += numbers.cpu().numpy()
        return totals

    def _decoded(
        self, batch: Batch, prompts: Sequence[DrawnPrompts], part: slice
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Per label, one after another: predicted IoU (B, 1), logits (B, 1, 256, 256) and target of a part."""
        features, truth = batch.features[part].to(device=self.device), batch.truth[part]
        embedding = None
        for label, value in enumerate(self.values):
            if self.embeds_once and (label == 0 or not self.model.config.shared_prim):
                embedding = self._embedding(features, batch.keys[part], label)
            drawn = prompts[label].points
            points = None if drawn is None else drawn[part].to(self.device)
            with torch.autocast(self.device.type, dtype=half_type(self.device), enabled=self.amp):
                iou, logits = self.model.train_decode(features, points, label, embedding)
            yield iou, logits, torch.from_numpy(truth == value).to(self.device)[:, None]

    def _embedding(self, features: Features, keys: Sequence[str], label: int) -> torch.Tensor:
        """The box's mask embedding (B, 1, 256, 64, 64) of every slice, computed at its first visit.

        label: whose PRIM; one that all labels share is asked as the first label's.
        """
        kept = []
        for number, key in enumerate(keys):
            embedding = self.embeddings.get((key, label))
            if embedding is None:
                # rounded even when it is fresh: the first visit and the last see the same numbers
                fresh = self.model.embed_box(features[number], label)
                assert fresh is not None
                embedding = fresh.to(torch.float16)
                if len(self.embeddings) < KEPT_EMBEDDINGS:
                    self.embeddings[key, label] = embedding.cpu()
            kept.append(embedding.to(self.device).float())
        return torch.cat(kept)
