"""What is compared: DeSAM on points and on the box, its ablations, and the baselines without which a Dice says nothing.

A method is a name for changes of ``TrainOptions``; all of them are trained by ``engine.train`` on the same cases, the
same split and the same cached features, and tested by ``engine.segment``. No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from DeSAMSegmentLib.engine.options import TrainOptions
from DeSAMSegmentLib.errors import BadInput


@dataclass(frozen=True)
class Method:
    """One row of a table.

    Attributes:
      changes: of the common TrainOptions.
      new_site: further changes under the profile "new-site", whose rate suits a frozen PRIM and not a whole decoder.
      effort: epochs relative to the others'; a small network from scratch needs more, and its epochs cost less.
      trained: False for SAM as it comes.
      styled: with stylised feature sets: as many as the common options ask for, or STYLES.
      baseline: the method it is compared with case by case.
    """

    id: str
    title: str
    changes: dict[str, Any] = field(default_factory=dict)
    new_site: dict[str, Any] = field(default_factory=dict)
    effort: int = 1
    trained: bool = True
    styled: bool = False
    baseline: str = ""

    def options(self, common: TrainOptions, seed: int) -> TrainOptions:
        """The options of one run."""
        recipe = self.new_site if common.profile == "new-site" else {}
        styles = (common.styles or STYLES) if self.styled else 0
        own = {"seed": seed, "name": self.id, "epochs": common.epochs * self.effort, "styles": styles}
        return replace(common, **{**self.changes, **recipe, **own})


PROTOCOLS = ("cross-domain", "simulated")
STYLES = 3  # stylised feature sets per slice where a method has them and the common options have none
# MedSAM's way: the whole decoder learns, from SAM's weights. Of 1e-4, 3e-4 and 1e-3 the rate with the best in-domain
# validation Dice (benchmarks/generalisation/README.md)
COUPLED = {"train_prim": True, "learning_rate": 1e-3}
PRIM = {"learning_rate": 3e-4}  # a transformer from SAM's weights does not bear the rate of a decoder from nothing

_POINTS: dict[str, Any] = {"mode": "grid"}
_BOX: dict[str, Any] = {"mode": "box"}
_COUPLED_BOX: dict[str, Any] = {**_BOX, "variant": "coupled"}
_UNET: dict[str, Any] = {**_BOX, "variant": "unet", "backbone": "pixels"}

METHODS: dict[str, Method] = {
    method.id: method
    for method in (
        Method("desam-p", "DeSAM-P, grid of points", _POINTS, baseline="coupled-p"),
        Method("desam-b", "DeSAM-B, whole box", _BOX, baseline="coupled-b"),
        Method("coupled-p", "coupled SAM decoder, points", {**_POINTS, "variant": "coupled"}, COUPLED),
        Method("coupled-b", "coupled SAM decoder, box", _COUPLED_BOX, COUPLED),
        Method("sam-p", "SAM untouched, points", {**_POINTS, "variant": "coupled"}, trained=False),
        Method("sam-b", "SAM untouched, box", _COUPLED_BOX, trained=False),
        Method("unet", "U-Net from scratch", _UNET, effort=4),
        Method("desam-p-style", "DeSAM-P + styles", _POINTS, styled=True, baseline="desam-p"),
        Method("desam-b-style", "DeSAM-B + styles", _BOX, styled=True, baseline="desam-b"),
        Method("coupled-b-style", "coupled, box + styles", _COUPLED_BOX, COUPLED, styled=True, baseline="coupled-b"),
        Method("unet-style", "U-Net + styles", _UNET, effort=4, styled=True, baseline="unet"),
        Method("pdmm-only", "PDMM alone", {**_BOX, "variant": "pdmm_only"}, baseline="desam-p"),
        Method(
            "no-iou-head", "no IoU head (mean of points)", {**_POINTS, "variant": "no_iou_head"}, baseline="desam-p"
        ),
        Method("no-fusion", "no mask-embedding fusion", {**_POINTS, "variant": "no_fusion"}, baseline="desam-p"),
        Method("desam-p-inert", "DeSAM-P, inert SE", {**_POINTS, "squeeze_excitation": "inert"}, baseline="desam-p"),
        Method("desam-b-inert", "DeSAM-B, inert SE", {**_BOX, "squeeze_excitation": "inert"}, baseline="desam-b"),
        Method("desam-b-early", "DeSAM-B, early levels", {**_BOX, "backbone": "lite_medsam@early"}, baseline="desam-b"),
        Method("desam-b-late", "DeSAM-B, late levels", {**_BOX, "backbone": "lite_medsam@late"}, baseline="desam-b"),
        Method("desam-b-wide", "DeSAM-B, paper width", {**_BOX, "width": "paper"}, baseline="desam-b"),
        Method("desam-p-prim", "DeSAM-P, PRIM trained", {**_POINTS, "train_prim": True}, PRIM, baseline="desam-p"),
        Method("desam-b-prim", "DeSAM-B, PRIM trained", {**_BOX, "train_prim": True}, PRIM, baseline="desam-b"),
    )
}

TABLES: dict[str, tuple[str, tuple[str, ...]]] = {  # name -> title and methods
    "main": ("DeSAM and its baselines", ("desam-p", "desam-b", "coupled-p", "coupled-b", "sam-p", "sam-b", "unet")),
    "ablation": (
        "Ablation, in the order of Table 1 of the paper",
        ("pdmm-only", "no-iou-head", "no-fusion", "desam-p"),
    ),
    "style": (
        "Style augmentation",
        ("desam-p", "desam-p-style", "desam-b", "desam-b-style", "coupled-b", "coupled-b-style", "unet", "unet-style"),
    ),
    "squeeze": (
        "Squeeze-and-excitation, effective and inert",
        ("desam-p", "desam-p-inert", "desam-b", "desam-b-inert"),
    ),
    "taps": ("Where lite_medsam's three levels are taken", ("desam-b", "desam-b-early", "desam-b-late")),
    "recipe": ("What learns, and how wide", ("desam-p", "desam-p-prim", "desam-b", "desam-b-prim", "desam-b-wide")),
    "quick": ("The quick table", ("desam-b", "coupled-b", "sam-b", "unet")),
}
POINTS_CURVE = (5, 7, 9, 12, 16)  # per side; Fig. 3 of the paper


def chosen_methods(tables: Sequence[str], names: Sequence[str]) -> list[Method]:
    """The methods of some tables and some by name, each once, in the order of the registry.

    Raises:
      BadInput: for a table or a method that does not exist.
    """
    wanted: list[str] = list(names)
    for table in tables:
        if table not in TABLES:
            raise BadInput(f"There is no table {table!r}.", f"There are {', '.join(TABLES)}.")
        wanted += TABLES[table][1]
    unknown = [name for name in wanted if name not in METHODS]
    if unknown:
        raise BadInput(f"There is no method {unknown[0]!r}.", f"There are {', '.join(METHODS)}.")
    return [method for id, method in METHODS.items() if id in wanted]
