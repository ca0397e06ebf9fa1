"""What a user can choose: every option is declared here, once (how: ``declarations.py``); a new option is one more
field, and the place that obeys it. No torch here.

``None`` as the value of a segment option means: as the model's card recommends. ``resolve`` is the one place where card
and options meet.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import BadModelFile
from ..model.config import SQUEEZE_EXCITATIONS, WIDTHS
from ..model.registry import MASK_MODULES
from .declarations import Options, Range, declarations, option

if TYPE_CHECKING:
    from ..data.slices import SliceSpec
    from ..store.card import ModelCard

MODES = {"grid": "Grid of points", "box": "Whole box"}
AXES = {
    "auto": "Automatic",
    "axial": "Axial",
    "coronal": "Coronal",
    "sagittal": "Sagittal",
    "acquired": "As acquired (across the thickest slices)",
}
FORMER_AXES = {"lowest": "acquired"}
INTENSITIES = {
    "auto": "Automatic",
    "percentile": "Percentiles",
    "matched": "Matched to the training images",
    "window": "Window",
}
PROFILES = {
    "new-site": "New site: few volumes, early stop",
    "paper": "Paper: the published recipe",
    "corrections": "Corrections: a few slices, near the base model",
}
SLICES = {"all": "All slices", "labelled": "Labelled slices only"}

SHARE = Range(0, 1)
POSITIVE = Range(0, open_low=True)
COUNT = Range(1)
WINDOW_TIP = "Intensities shown black and white, for the intensity mode window."


def _window_problem(intensity: str, window: tuple[float, float] | None) -> str:
    if window is not None and not (len(window) == 2 and window[0] < window[1]):
        return f"Window minimum must be smaller than window maximum, not {window}."
    if intensity == "window" and window is None:
        return "The intensity mode window needs a window: a minimum and a larger maximum."
    return ""


@dataclass(frozen=True)
class SegmentOptions(Options):
    """How a volume is segmented."""

    # fmt: off
    mode: str | None = option(None, "Mode",
        "A grid of points asks for the organ at many points and keeps the best answer; the whole box asks once per "
        "slice and is faster.",
        choices=MODES, recommended=True, fallback="grid")
    points: int | None = option(None, "Points per side",
        "The grid has this many points in each direction; the paper uses 9.",
        range=Range(1, 64), recommended=True, fallback=9)  # paper, section 3.1
    iou_threshold: float | None = option(None, "Minimum predicted IoU",
        "A point is accepted if the IoU that the model predicts for it is larger. Higher finds less and is surer.",
        range=SHARE, step=0.01, recommended=True, fallback=0.5)
    mask_threshold: float = option(0.5, "Mask threshold", "Probability above which a pixel belongs to the organ.",
        range=Range(0, 1, open_low=True, open_high=True), step=0.01, expert=True)
    min_area_mm2: float = option(0.0, "Minimum area",
        "Islands and holes of a slice smaller than this are removed; 0 keeps all.",
        range=Range(0), unit="mm²")
    largest_component: bool | None = option(None, "Largest component",
        "Keep only the largest connected part of each label in 3-D.", recommended=True, fallback=False)
    one_stretch: bool | None = option(None, "Stretch of slices",
        "Keep of each label only the run of neighbouring slices in which the model is sure enough that it is there.",
        recommended=True, fallback=False)
    fill_gaps: bool | None = option(None, "Fill gaps",
        "Grid: a slice where no point is accepted, between slices with the organ, takes the mask of its best point.",
        recommended=True, fallback=False, expert=True)
    contrasts: int = option(1, "Contrasts",
        "2 and 3: each slice is also seen brighter, and darker, and the answers are averaged. It takes as many times "
        "longer, and finds more in images of another sequence.",
        range=Range(1, 3), expert=True)
    slice_range: tuple[int, int] | None = option(None, "Slice range",
        "First and last slice along the slice axis, both included, numbered from 0 as by Slicer's Data Probe, in the "
        "review, confidence.csv and pictures.")
    slice_axis: str = option("auto", "Slice axis",
        "The direction in which the volume is cut; automatic: as the model was trained.",
        choices=AXES, renamed=FORMER_AXES)
    intensity: str = option("auto", "Intensity",
        "How intensities become grey: by percentiles (MR), matched to the training images (another MR sequence), by a "
        "window (CT); automatic: as the model was trained.",
        choices=INTENSITIES)
    window: tuple[float, float] | None = option(None, "Window", WINDOW_TIP)
    keep_points: bool = option(False, "Keep points", "Hand out every grid point's score with its slice.", expert=True)
    reference_rule: bool = option(False, "Reference rule",
        "Clean up on the 256 x 256 grid as the published code does (regions below 1000 pixels).", expert=True)
    # fmt: on

    def _contradiction(self) -> str:
        first_last = self.slice_range
        if first_last is not None and not (len(first_last) == 2 and 0 <= first_last[0] <= first_last[1]):
            return f"The slice range {first_last} is empty: give the first, then the last slice, counted from 0."
        return _window_problem(self.intensity, self.window)


@dataclass(frozen=True)
class TrainOptions(Options):
    """How a decoder is fine-tuned. ``paper()``, ``new_site()`` and ``corrections()`` are the profiles."""

    # fmt: off
    name: str = option("model", "Name", "Name of the new model.")
    profile: str = option("new-site", "Profile",
        "new-site: a small decoder that learns from few volumes, with early stopping; paper: the published recipe; "
        "corrections: a model is refined on a few corrected slices.",
        choices=PROFILES)
    mode: str = option("grid", "Train for", "The mode the model will be used in, which picks the best epoch.",
        choices=MODES)
    backbone: str = option("lite_medsam", "Backbone", "Frozen image encoder.", expert=True)
    width: str = option("lite", "Width", "Width of the mask decoder: paper, or lite, which is 16 times cheaper.",
        choices=dict.fromkeys(WIDTHS, ""), expert=True)
    variant: str = option("full", "Variant", "Ablation of the paper's Table 1, or a baseline.",
        choices=MASK_MODULES, expert=True)
    squeeze_excitation: str = option("effective", "Squeeze-excitation", "effective, or inert as in the published code.",
        choices=dict.fromkeys(SQUEEZE_EXCITATIONS, ""), expert=True)
    train_prim: bool = option(False, "Train PRIM", "Also train the prompt transformer, as the paper does.", expert=True)
    labels: tuple[int, ...] | None = option(None, "Labels", "Labels to learn; default: all of the data set.",
        expert=True)
    epochs: int = option(30, "Epochs", "Passes over the training slices; the best one is kept.", range=COUNT)
    batch_size: int = option(8, "Batch size", "Slices per step.", range=COUNT, expert=True)
    # measured for PDMM on a frozen PRIM; the paper trains everything with 1e-4
    learning_rate: float = option(2e-3, "Learning rate", "Of Adam, at the start.", range=POSITIVE, expert=True)
    schedule_power: float = option(0.9, "Schedule power", "Of the polynomial decay of the learning rate.",
        range=Range(0), expert=True)
    seed: int = option(0, "Seed", "Of the random numbers; on a CPU the same seed gives the same model.",
        range=Range(0, 2**32 - 1), expert=True)
    validation_fraction: float = option(0.1, "Validation share",
        "Share of the cases (by patient) that picks the best epoch.",
        range=Range(0, 1, open_high=True), expert=True)
    empty_fraction: float = option(0.3, "Share of background slices",
        "Share of background slices in an epoch; 0 = labelled slices only (paper).",
        range=Range(0, 1, open_high=True), expert=True)
    views: int = option(1, "Views",
        "Geometric augmentations: each slice and views - 1 turned, scaled, re-exposed copies of it.",
        range=Range(1, 32), expert=True)
    styles: int = option(3, "Style augmentations",
        "Each slice is also learned in so many other scanner styles (convolved, biased, smoothed, noisy). Helps on "
        "images of other hospitals; the first epoch starts later.",
        range=Range(0, 32))
    turned: float = option(0.0, "Turned styles",
        "This share of the styles is turned by 90, 180 or 270 degrees where nothing says which way is up: slices that "
        "are oblique, or of a volume without geometry. Finds organs that lie turned, and costs some accuracy at home.",
        range=Range(0.0, 1.0))
    from_labels: bool = option(False, "From labels",
        "Learn from images made from the label maps alone, in random greys, planes and resolutions: no image is "
        "read, and the model takes any contrast.", expert=True)
    unlabelled: bool = option(False, "Unlabelled",
        "The cases have no labels: slices that the base model is sure of teach, and the others are left out.",
        expert=True)
    stacks: int = option(9, "Stacks per label map",
        "So many stacks of four slices are made from each label map.", range=COUNT, expert=True)
    cut_out: float = option(0.0, "Cut out",
        "Share of the images made from label maps that show the labels alone, as brains without their skull.",
        range=SHARE, expert=True)
    slices: str = option("all", "Slices",
        "all: every slice of a case is labelled; labelled: only slices with a label are.",
        choices=SLICES, expert=True)
    iou_weight: float = option(10.0, "IoU weight", "Weight of the IoU loss (paper, equation 4).",
        range=Range(0), expert=True)
    reference_losses: bool = option(False, "Reference losses",
        "Losses of the published code: Dice only, L1 on the IoU.", expert=True)
    patience: int | None = option(10, "Patience",
        "Epochs without a better validation before stopping; 0 = never stop early.",
        range=Range(0), zero_is_none=True, expert=True)
    minutes: float | None = option(None, "Minutes",
        "Stop after this long, features included, and keep the best; 0 = no limit.",
        range=Range(0), zero_is_none=True, expert=True)
    slice_axis: str = option("auto", "Slice axis",
        "The direction in which the training volumes are cut; automatic: as they were acquired.",
        choices=AXES, renamed=FORMER_AXES)
    intensity: str = option("auto", "Intensity",
        "How intensities become grey: by percentiles (MR), by a window (CT); automatic: by what the volumes hold.",
        choices=INTENSITIES)
    window: tuple[float, float] | None = option(None, "Window", WINDOW_TIP)
    base: str | None = option(None, "Base model",
        "Model to continue from, a file or a name; default: SAM's own decoder.", expert=True)
    # half, as in CLEAR: Rolnick et al., Experience Replay for Continual Learning, NeurIPS 2019
    replay_share: float = option(0.5, "Replay share", "Share of an epoch's slices that are of the replayed data.",
        range=Range(0, 1, open_high=True), expert=True)
    near_base: float = option(0.0, "Near the base",
        "Penalty on the squared distance of what is trained from the base model (L2-SP), where nothing is replayed.",
        range=Range(0), expert=True)
    patient_pattern: str = option("", "Patient pattern",
        "Regular expression whose first group names the patient in a case's name, for the split.", expert=True)
    amp: bool = option(True, "Mixed precision", "Half precision on CUDA.", expert=True)
    # fmt: on

    def _contradiction(self) -> str:
        if not self.name.strip():
            return "Name must not be empty: give the model a name."
        if not self.base and (self.profile == "corrections" or self.near_base):
            return "Corrections refine a model, and near the base needs one: give the base model."
        if self.unlabelled and self.profile != "corrections":
            return "Unlabelled cases adapt a model that is there: choose the profile corrections."
        module = MASK_MODULES[self.variant]
        reserved = {each.backbone: name for name, each in MASK_MODULES.items() if each.backbone}
        if (module.backbone and self.backbone != module.backbone) or (
            self.backbone in reserved and not module.backbone
        ):
            backbone = module.backbone or self.backbone
            return f"The variant {reserved[backbone]} learns from the backbone {backbone}, and nothing else does."
        if self.intensity == "matched" and self.profile != "corrections":
            return "Intensities are matched to what a model was trained on: choose another intensity to train one."
        return _window_problem(self.intensity, self.window)

    @classmethod
    def paper(cls, **changes: Any) -> TrainOptions:
        """The published recipe: labelled slices only, whole decoder, no early stop."""
        recipe: dict[str, Any] = {
            "profile": "paper",
            "epochs": 50,
            "width": "paper",
            "train_prim": True,
            "learning_rate": 1e-4,
            "empty_fraction": 0.0,
            "styles": 0,
            "patience": None,
        }
        return cls(**(recipe | changes))

    @classmethod
    def new_site(cls, **changes: Any) -> TrainOptions:
        """A few volumes of one's own: background slices too, best epoch by 3-D Dice, early stop."""
        return cls(**changes)

    @classmethod
    def corrections(cls, **changes: Any) -> TrainOptions:
        """A base model learns from a few slices: each counts, none is held out, and the weights stay near the base."""
        recipe: dict[str, Any] = {
            "profile": "corrections",
            "epochs": 5,
            "minutes": 1.0,
            "styles": 0,
            "validation_fraction": 0.0,
            "patience": None,
            "near_base": 0.1,  # L2-SP: Li et al., ICML 2018; what it holds: benchmarks/results/corrections.md
        }
        return cls(**(recipe | changes))

    @classmethod
    def adaptation(cls, card: ModelCard, **changes: Any) -> TrainOptions:
        """Corrections by the model's own confident slices, in its own mode and architecture (``card``)."""
        of_base = {key: card.architecture[key] for key in ("width", "variant") if key in card.architecture}
        recipe: dict[str, Any] = {
            "name": f"{card.name} adapted",
            "backbone": card.backbone,
            "mode": card.inference.get("mode", "grid"),
            "unlabelled": True,
            "minutes": None,
        }
        return cls.corrections(**(recipe | of_base | changes))

    @classmethod
    def of_profile(cls, profile: str, **changes: Any) -> TrainOptions:
        """The defaults of a profile, with changes over them; an unknown one is left to ``is_valid``."""
        makers: dict[str, Any] = {"paper": cls.paper, "corrections": cls.corrections}
        made: TrainOptions = makers.get(str(profile), cls.new_site)(profile=profile, **changes)
        return made


def resolve(card: ModelCard, options: SegmentOptions) -> tuple[SegmentOptions, SliceSpec]:
    """What holds for a run: the user's options over the card's recommendations over the paper's defaults.

    Returns:
      options of which none is None but the ranges that are not limited, and how volumes are cut and normalised.

    Raises:
      BadInput: options that make no sense. BadModelFile: a card that recommends what is not possible.
    """
    from ..data.slices import SliceSpec

    options.check()
    chosen: dict[str, Any] = {}
    for each in declarations(SegmentOptions).values():
        if each.recommended and getattr(options, each.name) is None:
            value = card.inference.get(each.name)
            problem = each.problem(value)
            if problem:
                raise BadModelFile(
                    f"The model {card.name} recommends what is not possible: {problem}", "Export it again."
                )
            chosen[each.name] = each.fallback if value is None else value
    spec = dict(card.slices)
    if options.slice_axis != "auto":
        spec["axis"] = options.slice_axis
    if options.intensity != "auto" or options.window is not None:
        spec["intensity"] = "window" if options.intensity == "auto" else options.intensity
        spec["window"] = options.window
    return replace(options, **chosen), SliceSpec.from_dict(spec)
