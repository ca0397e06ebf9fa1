"""One optimizer step: a batch of slices through every label's decoder, down to what fits in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..model.types import Features
from . import device as devices
from . import planner
from .loading import DeSAM, half_type
from .losses import LossParts, Objective
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
        self.embeddings: dict[str, torch.Tensor] = {}

    def _planned_part(self) -> int:
        config, batch = self.model.config, self.options.batch_size
        part = planner.training_part(config, self.options.train_prim, self.amp, batch, self.device)
        if part < batch:
            need = batch * planner.training_bytes(config, self.options.train_prim, self.amp) / devices.GIB
            self.log(f"A batch needs about {need:.1f} GB, which is not free: {part} of {batch} slices at once.")
        return part

    def step(self, batch: Batch, rate: float, rng: np.random.Generator) -> np.ndarray:
        """Learns from one batch; (4,) total, Dice, cross-entropy and IoU loss, means over slices and labels.

        Out of memory halves the part of the batch that is on the device at once; gradients add up to the same step.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        prompts = [self._draw(batch.truth == value, rng) for value in self.values]

        def work(size: int) -> np.ndarray:
            self.optimizer.zero_grad(set_to_none=True)
            parts = [slice(first, first + size) for first in range(0, len(batch.truth), size)]
            return np.sum([self._backward(batch, prompts, part) for part in parts], axis=0)

        whole = min(self.part_size, len(batch.truth))
        numbers, fitted = devices.with_backoff(work, whole, self.log, "training")
        if fitted < whole:
            self.part_size = fitted
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return numbers

    def _draw(self, truth: np.ndarray, rng: np.random.Generator) -> DrawnPrompts:
        if self.options.mode == "box" or self.options.variant in ("pdmm_only", "unet"):
            return DrawnPrompts()
        return DrawnPrompts(*draw_points(truth, rng, self.model.config.input_size))

    def _backward(self, batch: Batch, prompts: Sequence[DrawnPrompts], part: slice) -> np.ndarray:
        """Adds the gradients of a part of the batch, label by label, so that one decoder's activations are alive."""
        features, truth = batch.features[part], batch.truth[part]
        share = len(truth) / len(batch.truth) / len(self.values)
        totals = np.zeros(4)
        embedding = self._embedding(features, batch.keys[part]) if self.embeds_once else None
        for label, value in enumerate(self.values):
            target = torch.from_numpy(truth == value).to(self.device)[:, None]
            losses = self._losses(features, target, prompts[label], part, label, embedding)
            self.scaler.scale(losses.total * share).backward()
            numbers = torch.stack([losses.total, losses.dice, losses.ce, losses.iou]).detach() * share
            totals += numbers.cpu().numpy()
        return totals

    def _embedding(self, features: Features, keys: Sequence[str]) -> torch.Tensor:
        """The box's mask embedding (B, 1, 256, 64, 64) of every slice, computed at its first visit."""
        kept = []
        for number, key in enumerate(keys):
            embedding = self.embeddings.get(key)
            if embedding is None:
                # rounded even when it is fresh: the first visit and the last see the same numbers
                fresh = self.model.embed_box(features[number])
                assert fresh is not None
                embedding = fresh.to(torch.float16)
                if len(self.embeddings) < KEPT_EMBEDDINGS:
                    self.embeddings[key] = embedding.cpu()
            kept.append(embedding.to(self.device).float())
        return torch.cat(kept)

    def _losses(
        self,
        features: Features,
        target: torch.Tensor,
        prompts: DrawnPrompts,
        part: slice,
        label: int,
        embedding: torch.Tensor | None,
    ) -> LossParts:
        points = None if prompts.points is None else prompts.points[part].to(self.device)
        with torch.autocast(self.device.type, dtype=half_type(self.device), enabled=self.amp):
            iou, logits = self.model.train_decode(features, points, label, embedding)
        if prompts.inside is None or self.options.variant == "no_iou_head":
            return self.objective(logits, target, None, None)
        return self.objective(logits, target, iou[:, 0], prompts.inside[part, 0].to(self.device))
