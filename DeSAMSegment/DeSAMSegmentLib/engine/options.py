"""What a user can choose, with its defaults: read by the panel, the console and the command line alike.

Plain frozen dataclasses without torch, so that a panel or ``--help`` can show them without loading anything.
Every class answers ``is_valid() -> (bool, reason)``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

MODES = ("grid", "box")
AXES = ("auto", "axial", "coronal", "sagittal", "lowest")
INTENSITIES = ("auto", "percentile", "window")
VARIANTS = ("full", "pdmm_only", "no_iou_head", "no_fusion")
RIVALS = ("coupled", "unet")  # for benchmarks: SAM's own decoder, a U-Net (model/rivals.py)
WIDTHS = ("paper", "lite")
PROFILES = ("new-site", "paper")


@dataclass(frozen=True)
class SegmentOptions:
    """How a volume is segmented. ``None`` means: as the model's card recommends."""

    mode: str | None = None  # "grid" (DeSAM-P) | "box" (DeSAM-B)
    points: int = 9  # grid points per side (paper, section 3.1: 9 x 9)
    iou_threshold: float = 0.5  # a point is accepted if its predicted IoU is strictly larger
    mask_threshold: float = 0.5  # probability above which a pixel belongs to the organ
    min_area_mm2: float = 0.0  # islands and holes of a slice smaller than this are removed; 0 = off
    largest_component: bool | None = None  # keep the largest 3-D component of each label
    slice_range: tuple[int, int] | None = None  # first and last index along the slice axis, both included
    slice_axis: str = "auto"  # "auto" = as the model was trained
    intensity: str = "auto"
    window: tuple[float, float] | None = None  # lower and upper intensity, for intensity="window"
    keep_points: bool = False  # hand out every grid point's score with its slice
    reference_rule: bool = False  # published clean-up on the 256 grid (min area 1000 px) instead of the product's

    def is_valid(self) -> tuple[bool, str]:
        if self.mode not in (None, *MODES):
            return False, f"Mode must be one of {', '.join(MODES)}, not {self.mode!r}."
        if not 1 <= self.points <= 64:
            return False, f"Points per side must be between 1 and 64, not {self.points}."
        if not 0.0 <= self.iou_threshold <= 1.0:
            return False, f"The IoU threshold must be between 0 and 1, not {self.iou_threshold}."
        if not 0.0 < self.mask_threshold < 1.0:
            return False, f"The mask threshold must be between 0 and 1, not {self.mask_threshold}."
        if self.min_area_mm2 < 0:
            return False, f"The minimum area cannot be negative, it is {self.min_area_mm2} mm2."
        if self.slice_axis not in AXES:
            return False, f"Slice axis must be one of {', '.join(AXES)}, not {self.slice_axis!r}."
        if self.intensity not in INTENSITIES:
            return False, f"Intensity must be one of {', '.join(INTENSITIES)}, not {self.intensity!r}."
        if self.intensity == "window" and (self.window is None or self.window[0] >= self.window[1]):
            return False, "Intensity mode 'window' needs a lower and a larger upper value."
        if self.slice_range is not None and self.slice_range[0] > self.slice_range[1]:
            return False, f"The slice range {self.slice_range} is empty: give the first, then the last slice."
        return True, ""


@dataclass(frozen=True)
class TrainOptions:
    """How a decoder is fine-tuned. ``TrainOptions.paper()`` and ``TrainOptions.new_site()`` are the two profiles."""

    name: str = "model"
    profile: str = "new-site"
    mode: str = "grid"  # the inference mode that is trained for and that picks the best epoch
    backbone: str = "lite_medsam"
    width: str = "lite"  # PDMM width: "paper" 256/128/64, "lite" 64/32/16
    variant: str = "full"  # Table 1 of the paper
    squeeze_excitation: str = "effective"  # "inert" = as published (E0b)
    train_prim: bool = False  # also train PRIM's transformer (the paper does)
    labels: tuple[int, ...] | None = None  # None = every label of the data set
    epochs: int = 50
    batch_size: int = 8
    learning_rate: float = 2e-3  # measured for PDMM on a frozen PRIM; the paper trains everything with 1e-4
    schedule_power: float = 0.9  # polynomial decay
    seed: int = 0
    validation_fraction: float = 0.1
    empty_fraction: float = 0.3  # share of organ-free slices in a batch; 0 = labelled slices only (paper)
    views: int = 1  # feature sets per slice: the slice itself and views - 1 turned, scaled, re-exposed looks of it
    styles: int = 3  # further feature sets per slice in other scanners' styles: what keeps a model useful elsewhere
    slices: str = "all"  # "all" slices of a case are labelled, or only those "labelled" carry truth
    iou_weight: float = 10.0  # Dice + CE + 10 MSE (paper, equation 4)
    reference_losses: bool = False  # published code: Dice only, L1 on the IoU
    patience: int | None = 10  # epochs without a better validation Dice before stopping; None = never
    minutes: float | None = None  # stop after this long, keeping the best; None = no limit
    slice_axis: str = "auto"
    intensity: str = "auto"
    window: tuple[float, float] | None = None
    base: str | None = None  # a .desam file to start from; None = SAM's own decoder
    patient_pattern: str = ""  # regular expression whose first group names the patient, for the split
    amp: bool = True  # half precision on CUDA

    def is_valid(self) -> tuple[bool, str]:
        checks = (
            (self.profile in PROFILES, f"Profile must be one of {', '.join(PROFILES)}, not {self.profile!r}."),
            (self.mode in MODES, f"Mode must be one of {', '.join(MODES)}, not {self.mode!r}."),
            (self.width in WIDTHS, f"Width must be one of {', '.join(WIDTHS)}, not {self.width!r}."),
            (
                self.variant in VARIANTS + RIVALS,
                f"Variant must be one of {', '.join(VARIANTS + RIVALS)}, not {self.variant!r}.",
            ),
            (
                (self.variant == "unet") == (self.backbone == "pixels"),
                "The variant unet learns from the backbone pixels, and nothing else does.",
            ),
            (0 <= self.styles <= 32, f"Styles per slice must be between 0 and 32, not {self.styles}."),
            (
                self.squeeze_excitation in ("effective", "inert"),
                f"Squeeze-excitation is 'effective' or 'inert', not {self.squeeze_excitation!r}.",
            ),
            (self.epochs >= 1, f"Epochs must be at least 1, not {self.epochs}."),
            (self.batch_size >= 1, f"Batch size must be at least 1, not {self.batch_size}."),
            (self.learning_rate > 0, f"The learning rate must be positive, not {self.learning_rate}."),
            (
                0 <= self.validation_fraction < 1,
                f"The validation share must be between 0 and 1, not {self.validation_fraction}.",
            ),
            (0 <= self.empty_fraction < 1, f"The share of empty slices must be below 1, not {self.empty_fraction}."),
            (1 <= self.views <= 32, f"Views per slice must be between 1 and 32, not {self.views}."),
            (self.slices in ("all", "labelled"), f"Slices is 'all' or 'labelled', not {self.slices!r}."),
            (self.slice_axis in AXES, f"Slice axis must be one of {', '.join(AXES)}, not {self.slice_axis!r}."),
            (
                self.intensity in INTENSITIES,
                f"Intensity must be one of {', '.join(INTENSITIES)}, not {self.intensity!r}.",
            ),
            (0 <= self.seed < 2**32, f"The seed must be between 0 and {2**32 - 1}, not {self.seed}."),
            (bool(self.name.strip()), "Give the model a name."),
        )
        return next(((False, reason) for good, reason in checks if not good), (True, ""))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, for config.json and the model card."""
        return asdict(self)

    @classmethod
    def paper(cls, **changes: Any) -> TrainOptions:
        """The published recipe: labelled slices only, whole decoder, no early stop."""
        defaults: dict[str, Any] = {
            "profile": "paper",
            "width": "paper",
            "train_prim": True,
            "learning_rate": 1e-4,
            "empty_fraction": 0.0,
            "styles": 0,
            "patience": None,
        }
        return cls(**(defaults | changes))

    @classmethod
    def new_site(cls, **changes: Any) -> TrainOptions:
        """A few volumes of one's own: organ-free slices too, best epoch by 3-D Dice, early stop."""
        return cls(**changes)
