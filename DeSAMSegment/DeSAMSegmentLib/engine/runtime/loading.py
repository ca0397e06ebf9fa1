"""Models from and to their files: the network together with its card.

What a training leaves as it was in SAM (PRIM and the prompt encoder, most of a model) stays out of the file, as the
encoder does: it is in the weights of the backbone, and the card has its SHA-256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ...data.slices import SliceSpec
from ...errors import BadInput, BadModelFile, DeSAMError
from ...model.config import DeSAMConfig
from ...model.desam import DeSAM as Network
from ...model.reference import tensors_from_sam
from ...model.registry import BACKBONES
from ...store import model_file, weights
from ...store.card import ModelCard
from ...store.terminology import default_label


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
          WeightsMissing: when it leaves PRIM to the weights of its backbone, and those are not installed.
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
            config = DeSAMConfig.from_dict(card.architecture)
            SliceSpec.from_dict(card.slices)
            if config.labels != len(card.labels):
                raise ValueError(f"{config.labels} labels in its architecture, {len(card.labels)} by name")
            if card.prim_sha256:
                tensors = {**_left_out(config, card, tensors), **tensors}
            cls.check_tensors(config, tensors)
            model = cls(config)
            model.load_tensors(tensors)
        except (ValueError, TypeError, KeyError, RuntimeError, OverflowError, BadInput) as error:
            if isinstance(error, BadInput) and error.kind:  # about the weights, and not the model
                raise
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
        tensors = model_file.read_checkpoint(path, check=True)
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

    def save(self, path: str | Path, card: ModelCard | None = None, half: bool = False) -> None:
        """Writes decoder and card as one ``.desam`` file.

        What equals the backbone's weights is only named by its SHA-256, where those are installed.

        Arguments:
          half: mask modules and IoU heads in half precision, which moves logits by less than 0.02.
        """
        self.card = card or self.card
        tensors = {name: tensor.cpu() for name, tensor in self.tensors().items()}
        try:
            known = _sam_tensors(self.config, self.card.backbone)
        except (DeSAMError, ValueError):
            known = {}
        named = {name: tensor for name, tensor in tensors.items() if name in known and tensor.equal(known[name])}
        carried = {
            name: _halved(name, tensor) if half else tensor for name, tensor in tensors.items() if name not in named
        }
        self.card = replace(self.card, prim_sha256=_digest(named) if named else "")
        model_file.write_model(path, carried, self.card)


def _sam_tensors(config: DeSAMConfig, backbone: str) -> dict[str, Tensor]:
    """What a model would start with of the backbone's weights. Raises WeightsMissing, BadModelFile, ValueError."""
    spec = BACKBONES.get(backbone)
    if spec is None or not spec.weights or not config.mask_module.has_prim:
        return {}
    return tensors_from_sam(config, model_file.read_checkpoint(weights.find(spec.weights)))


def _left_out(config: DeSAMConfig, card: ModelCard, carried: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that a file names and does not carry."""
    if config.labels > len(carried):  # before anything is done for every label
        raise ValueError(f"{config.labels} labels, {len(carried)} tensors")
    missing = {name: tensor for name, tensor in _sam_tensors(config, card.backbone).items() if name not in carried}
    if _digest(missing) != card.prim_sha256:
        raise BadModelFile(
            f"The model {card.name} was trained with another PRIM than the weights of {card.backbone} here hold.",
            "Add the weight file it was trained on.",
            kind="weights-differ",
            backbone=card.backbone,
        )
    return missing


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of some tensors and their names, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _halved(name: str, tensor: Tensor) -> Tensor:
    """A trained tensor in half precision where that only rounds; PRIM, which chooses prompts, stays exact."""
    if tensor.dtype != torch.float32 or not (name.startswith("pdmm.") or ".iou_heads." in name):
        return tensor
    half = tensor.half()
    return half if (half.float() - tensor).abs().max() <= tensor.abs().max() * 2**-11 else tensor


def reference_card(name: str, config: DeSAMConfig) -> ModelCard:
    """The card of an imported checkpoint: the published preparation and one nameless label."""
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
