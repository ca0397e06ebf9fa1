"""What a training starts from: the labels to learn, the base model that it goes on from, the decoder of a fresh one."""

from __future__ import annotations

from collections.abc import Sequence

from ...data.labels import closest, listed, match
from ...errors import BadInput
from ...model.config import DeSAMConfig
from ...model.registry import BACKBONES
from ...store.card import LabelInfo, ModelCard
from ...store.terminology import default_labels
from ..options import TrainOptions
from ..runtime.loading import DeSAM
from ..runtime.session import Session, sam_tensors
from .run_folder import RunFolder


def seed(options: TrainOptions) -> None:
    """The run's random numbers; threads that share sums would change the last digits of what they give.

    The first trainings loaded their encoder after the seed was set, so the decoder's first weights came behind those of
    an encoder. It is drawn here and forgotten: a seed gives the model that it gave then, in a warm session too.
    """
    import torch

    torch.manual_seed(options.seed)
    spec = BACKBONES[options.backbone]
    spec.build(spec)


def chosen_labels(labels: dict[int, str] | Sequence[LabelInfo], options: TrainOptions) -> list[LabelInfo]:
    """The labels to train, with colours and terminology.

    Raises:
      BadInput: when ``options.labels`` names a value that does not exist.
    """
    known = list(default_labels(labels)) if isinstance(labels, dict) else list(labels)
    if not all(label.name.strip() for label in known):
        raise BadInput("A label has no name.", "Give it one.")
    if options.labels is None:
        return known
    by_value = {label.value: label for label in known}
    absent = [value for value in options.labels if value not in by_value]
    if absent:
        raise BadInput(
            f"The data set has no label {', '.join(map(str, absent))}.",
            f"It has {', '.join(f'{label.value} ({label.name})' for label in known)}.",
        )
    return [by_value[value] for value in options.labels]


def base_model(options: TrainOptions, session: Session, folder: RunFolder, resume: bool) -> DeSAM | None:
    """The given model to start from, or, of a run that is resumed, its own last one; None without a base."""
    if not options.base:
        return None
    # always a fresh copy: the session's own would be changed under a later segmentation. Of a resumed run its last
    # model, which has all that the base gave it; the base may be gone.
    return DeSAM.load(folder.last) if resume and folder.state.exists() else session.fresh_model(options.base)


def in_base_order(labels: list[LabelInfo], base: ModelCard, options: TrainOptions) -> list[LabelInfo]:
    """The labels to learn in the order of the base's decoders, each of which goes on with the label of its name.

    Raises:
      BadInput: when the base does not find these labels, or needs another backbone.
    """
    theirs, ours = [label.name for label in base.labels], {label.name: label for label in labels}
    pairs = match(theirs, list(ours))
    if len(pairs) < len(theirs) or len(ours) != len(theirs) or base.backbone != options.backbone:
        raise BadInput(
            f"The base model {base.name} finds {listed(theirs)} on {base.backbone}; this training learns "
            f"{listed(ours)} on {options.backbone}.{closest(set(ours) - set(theirs), theirs)}",
            "Choose a base with the same labels and backbone, or none.",
        )
    return [ours[pairs[name]] for name in theirs]


def architecture_of(options: TrainOptions, labels: int) -> DeSAMConfig:
    """The decoder that some options ask for."""
    backbone = BACKBONES[options.backbone]
    return DeSAMConfig(
        backbone=backbone.id,
        input_size=backbone.input_size,
        level_widths=backbone.level_widths,
        width=options.width,
        variant=options.variant,
        squeeze_excitation=options.squeeze_excitation,
        labels=labels,
        shared_prim=not options.train_prim,
    )


def initial_model(base: DeSAM | None, options: TrainOptions, labels: int) -> DeSAM:
    """The decoder to start from: the base, or PRIM from SAM's own decoder and fresh mask modules."""
    return base or DeSAM.from_sam(architecture_of(options, labels), sam_tensors(options.backbone))
