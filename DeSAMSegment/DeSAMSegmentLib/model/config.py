"""Everything needed to build a DeSAM of the right shape, as it is written into a model's card. No torch here."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from .registry import MASK_MODULES, MaskModule

WIDTHS: dict[str, tuple[int, int, int]] = {"paper": (256, 128, 64), "lite": (64, 32, 16)}
SQUEEZE_EXCITATIONS = ("effective", "inert")


@dataclass(frozen=True)
class DeSAMConfig:
    """Architecture of one model.

    backbone: id of the frozen encoder the features come from (``BACKBONES``).
    input_size: side of that encoder's square input in pixels, the frame of the prompts.
    level_widths: channels of the three levels, shallow to deep.
    width: PDMM's channels at 64, 128 and 256 pixels: "paper" 256/128/64, "lite" 64/32/16.
    variant: a name in ``MASK_MODULES``. "pdmm_only": no PRIM, no prompt; "no_iou_head": every IoU reads 1;
      "no_fusion": the mask ignores the prompt, the IoU only gates; "full": the paper's model.
    squeeze_excitation: "inert" is the published constant 0.5, "effective" attends.
    labels: number of structures, one mask module each.
    shared_prim: the labels share one (frozen) PRIM transformer, each with its own IoU head.
    """

    backbone: str = "lite_medsam"
    input_size: int = 256
    level_widths: tuple[int, int, int] = (160, 160, 320)
    width: str = "lite"
    variant: str = "full"
    squeeze_excitation: str = "effective"
    labels: int = 1
    shared_prim: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "level_widths", tuple(int(width) for width in self.level_widths))
        choices: dict[str, Collection[str]] = {
            "width": WIDTHS,
            "variant": MASK_MODULES,
            "squeeze_excitation": SQUEEZE_EXCITATIONS,
        }
        if not all(isinstance(getattr(self, each), str) for each in choices):
            raise ValueError(f"{', '.join(choices)} are names")
        if not all(isinstance(number, int) for number in (*self.level_widths, self.labels, self.input_size)):
            raise ValueError("level_widths, labels and input_size are whole numbers")
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        if len(self.level_widths) != 3 or min(self.level_widths) < 1:
            raise ValueError(f"level_widths must be three positive numbers, not {self.level_widths}")
        if self.labels < 1 or self.input_size < 1:
            raise ValueError(f"labels and input_size must be positive: {self.labels}, {self.input_size}")

    @property
    def mask_module(self) -> MaskModule:
        return MASK_MODULES[self.variant]

    @property
    def pdmm_widths(self) -> tuple[int, int, int]:
        """Channels at 64, 128 and 256 pixels."""
        return WIDTHS[self.width]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, for the model card."""
        return {**asdict(self), "level_widths": list(self.level_widths)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DeSAMConfig:
        """The inverse of to_dict; a ValueError names an unknown entry."""
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            raise ValueError(f"unknown architecture options: {', '.join(unknown)}")
        return cls(**values)
