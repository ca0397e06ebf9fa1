"""Models from and to their files: the network together with its card."""

from __future__ import annotations

from pathlib import Path

from ...errors import BadModelFile
from ...model.config import DeSAMConfig
from ...model.desam import DeSAM as Network
from ...model.registry import BACKBONES
from ...store import model_file
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
