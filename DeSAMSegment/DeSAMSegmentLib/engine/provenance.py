"""What a model card says about how, on what and by which program the model was made."""

from __future__ import annotations

import platform
from datetime import datetime, timezone
from importlib import metadata
from typing import TYPE_CHECKING

from ..data.slices import SliceSpec
from ..model.config import DeSAMConfig
from ..store.card import LabelInfo, ModelCard
from .options import TrainOptions

if TYPE_CHECKING:
    from .run_folder import TrainingState
    from .validation import Score

PACKAGES = ("desam-segment", "torch", "monai", "numpy", "SimpleITK")


def software() -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # inside Slicer the extension itself is not an installed distribution
    return versions


def utc_now() -> str:
    """Now, as ISO 8601 in UTC, to the second."""
    return datetime.now(timezone.utc).replace(microsecond=0).isoformat()


def training_card(
    options: TrainOptions,
    labels: list[LabelInfo],
    cases: list[str],
    backbone_sha256: str,
    architecture: DeSAMConfig,
    spec: SliceSpec,
    score: Score | None,
    state: TrainingState,
) -> ModelCard:
    """The card of a model at the end of an epoch; ``score`` is the validation of that epoch, if there was one."""
    record = {
        "profile": options.profile,
        "options": options.to_dict(),
        "cases": cases,
        "seed": options.seed,
        "epochs": state.epoch,
        "losses": [row["loss"] for row in state.history],
        "mean_validation_dice": score.dice if score else None,
        "validation_dice": {
            case: {str(value): dice for value, dice in values.items()} for case, values in score.per_case.items()
        }
        if score
        else {},
    }
    return ModelCard(
        name=options.name,
        title=options.name,
        labels=tuple(labels),
        backbone=options.backbone,
        backbone_sha256=backbone_sha256,
        architecture=architecture.to_dict(),
        slices=spec.to_dict(),
        inference={
            "mode": options.mode,
            "points": 9,
            "iou_threshold": 0.5,
            "largest_component": bool(score and score.largest_component),
        },
        training=record,
        software=software(),
        created=utc_now(),
    )
