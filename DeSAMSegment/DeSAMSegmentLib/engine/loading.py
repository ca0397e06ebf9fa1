"""Models and backbones from their files: the one place where ``model`` and ``store`` meet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import BadModelFile
from ..model.backbones import BACKBONES, PICTURE, Backbone, build_backbone
from ..model.config import DeSAMConfig
from ..model.desam import DeSAM as Network
from ..model.token_memory import TokenMemory
from ..model.types import Features
from ..store import model_file, weights
from ..store.card import ModelCard
from ..store.library import Library
from ..store.terminology import default_label
from . import device as devices
from . import planner

REFERENCE_BACKBONES = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}


class DeSAM(Network):
    """The network together with its model card and its files.

    Example::

        model = DeSAM.load("prostate.desam")
        decoded = model.decode(features, Prompts.box())
    """

    card: ModelCard

    @classmethod
    def load(cls, path: str | Path, expect_backbone: str | None = None) -> DeSAM:
        """Reads a ``.desam`` file.

        Raises:
          BadModelFile: when the file is damaged, of another kind, or made for another backbone.
        """
        tensors, card = model_file.read_model(path)
        if expect_backbone and card.backbone != expect_backbone:
            raise BadModelFile(
                f"{Path(path).name} was trained on the backbone {card.backbone}, not {expect_backbone}.",
                f"Leave the backbone to the model, or train a new one for {expect_backbone}.",
            )
        if card.backbone not in BACKBONES:
            raise BadModelFile(
                f"{Path(path).name} was trained on the backbone {card.backbone!r}, which this version does not know.",
                f"Update the program, or use a model for one of {', '.join(BACKBONES)}.",
            )
        try:
            model = cls(DeSAMConfig.from_dict(card.architecture))
            model.load_tensors(tensors)
        except (ValueError, TypeError, KeyError, RuntimeError) as error:
            raise BadModelFile(
                f"{Path(path).name} does not hold the tensors its card promises ({error}).", "Copy or export it again."
            ) from error
        model.card = card
        return model.eval()

    @classmethod
    def from_reference(cls, path: str | Path) -> DeSAM:
        """Reads a checkpoint of the published code (any ViT width; image-encoder tensors may be absent), exactly.

        Raises:
          BadModelFile: when the file is not such a checkpoint. Nothing is unpickled from it.
        """
        tensors = model_file.read_checkpoint(path)
        try:
            model = cls.from_reference_tensors(tensors)
        except (ValueError, KeyError) as error:
            raise BadModelFile(
                f"{Path(path).name} is not a checkpoint of the published DeSAM code ({error}).",
                "Give the file that its training script saved.",
            ) from error
        assert isinstance(model, cls)
        model.card = reference_card(Path(path).stem, model.config)
        return model.eval()

    def save(self, path: str | Path, card: ModelCard | None = None) -> None:
        """Writes decoder and card as one ``.desam`` file; the frozen encoder is only named by its SHA-256."""
        self.card = card or self.card
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors().items()}
        model_file.write_model(path, tensors, self.card)


def reference_card(name: str, config: DeSAMConfig) -> ModelCard:
    """The card of an imported checkpoint: the published preparation (E2) and one nameless label."""
    return ModelCard(
        name=name,
        title=name,
        description="Imported from a checkpoint of the published DeSAM code.",
        labels=(default_label(1, "organ"),),
        backbone=config.backbone,
        architecture=config.to_dict(),
        slices={"axis": "axial", "intensity": "percentile", "zero_black": True, "fit": "squash"},
        inference={"mode": "grid", "points": 9, "iou_threshold": 0.5},
        training={"profile": "published"},
    )


def load_model(model: DeSAM | str | Path) -> DeSAM:
    """A loaded model as it is; a path or the name of a model in the library is read from disk."""
    return model if isinstance(model, DeSAM) else DeSAM.load(Library().resolve(model))


class Encoder:
    """A frozen backbone on its device, with batches that shrink when memory runs out.

    Arguments:
      backbone: the network of ``model.backbones``.
      sha256: hash of the weight file, part of the feature cache's keys.
      device: where to compute.
      log: receives a sentence whenever the batch is reduced or the device changes.
    """

    def __init__(
        self, backbone: Backbone, sha256: str, device: torch.device, log: Callable[[str], None] | None = None
    ) -> None:
        self.backbone = backbone.to(device).eval()
        self.sha256 = sha256
        self.device = device
        self.log = log or (lambda text: None)
        self.tokens = TokenMemory()  # what a frozen PRIM made of grids on slices of this encoder
        self.batch = planner.encoder_batch(backbone.spec.input_size, device)

    @property
    def id(self) -> str:
        return self.backbone.spec.id

    @property
    def key(self) -> str:
        """Part of the cache key: weights, taps and arithmetic that made the features."""
        taps = "-".join(str(tap) for tap in self.backbone.spec.taps)
        arithmetic = str(half_type(self.device)).removeprefix("torch.") if self.device.type == "cuda" else "f32"
        return f"{self.sha256[:16]}.{taps}.{arithmetic}"

    @torch.inference_mode()
    def encode(self, images: np.ndarray) -> Features:
        """Features of images (B, 256, 256) uint8; falls back to smaller batches, then to the CPU."""

        def work(batch: int) -> Features:
            return Features.cat([self._forward(images[i : i + batch]) for i in range(0, len(images), batch)])

        size = min(self.batch, len(images))
        try:
            features, fitted = devices.with_backoff(work, size, self.log, "computing features")
            if fitted < size:  # memory ran out; a short last batch is no reason to stay small
                self.batch = fitted
        except devices.OutOfMemory:
            if self.device.type == "cpu":
                raise
            self.log("The GPU's memory is not enough for the image encoder: going on with the CPU.")
            self.move("cpu")
            features = work(1)
        return features

    def move(self, device: torch.device | str) -> None:
        """Goes on with another device and gives the memory of the old one back."""
        self.device = torch.device(device)
        self.backbone.to(self.device)
        self.batch = planner.encoder_batch(self.backbone.spec.input_size, self.device)
        devices.release()

    def _forward(self, images: np.ndarray) -> Features:
        tensor = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        with torch.autocast("cuda", dtype=half_type(self.device), enabled=self.device.type == "cuda"):
            return self.backbone(tensor)


def half_type(device: torch.device) -> torch.dtype:
    """bfloat16 where the GPU computes it (NVIDIA since Ampere), else float16.

    ``torch.cuda.is_bf16_supported`` also says yes where bfloat16 is emulated, at a fraction of the speed.
    """
    if device.type != "cuda":
        return torch.float16
    computes = torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] >= 8
    return torch.bfloat16 if computes else torch.float16


def load_backbone(
    backbone: str, device: torch.device | str = "auto", log: Callable[[str], None] | None = None
) -> Encoder:
    """The frozen image encoder ``backbone`` from its weight file.

    Raises:
      WeightsMissing: when the file is not on this computer; the text names the two commands that bring it.
    """
    if isinstance(device, str):
        device = devices.choose(device)
    tensors, sha256 = ({}, PICTURE) if backbone == PICTURE else weights.load(weights_of(backbone))
    return Encoder(build_backbone(backbone, tensors), sha256, device, log)


def weights_of(backbone: str) -> str:
    """The id of the weight file that a backbone needs; unknown ids are left to ``store.weights`` to refuse."""
    return BACKBONES[backbone].weights if backbone in BACKBONES else backbone


def sam_tensors(backbone: str) -> dict[str, Any]:
    """SAM's own prompt encoder and mask decoder tensors, the start of every training from scratch."""
    return {} if backbone == PICTURE else weights.load(weights_of(backbone))[0]
