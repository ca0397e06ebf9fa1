"""Every field of the engines' option classes as a command-line option, with the options all commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, replace
from functools import wraps
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer

from ..engine.options import (
    AXES,
    INTENSITIES,
    MODES,
    PROFILES,
    RIVALS,
    VARIANTS,
    WIDTHS,
    SegmentOptions,
    TrainOptions,
)
from ..engine.stored_run import stored_options
from ..errors import BadInput

Options = TypeVar("Options", SegmentOptions, TrainOptions)

Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per event and line on stdout, nothing else.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Compute all features anew and keep none.")]
Keep = Annotated[str, typer.Option("--cases", help="Only cases whose name this regular expression finds.")]
Exclude = Annotated[str, typer.Option("--exclude", help="No case whose name this regular expression finds.")]
Domains = Annotated[list[str] | None, typer.Option("--domain", help="Only cases of this domain; repeatable.")]

_SHARED = {
    "slice_axis": f"How the volume is sliced: {', '.join(AXES)}.",
    "intensity": f"How intensities become grey: {', '.join(INTENSITIES)} (MR: percentile, CT: window).",
    "window": "Lowest and highest intensity, for --intensity window.",
}
HELP: dict[type, dict[str, str]] = {
    SegmentOptions: {
        **_SHARED,
        "mode": f"Prompts: {' or '.join(MODES)} (a grid of points, or the whole slice as a box).",
        "points": "Grid points per side.",
        "iou_threshold": "A point is accepted if its predicted IoU is larger.",
        "mask_threshold": "Probability above which a pixel belongs to the organ.",
        "min_area_mm2": "Remove islands and holes of a slice smaller than this.",
        "largest_component": "Keep only the largest connected part of each label.",
        "slice_range": "First and last slice to segment, counted from 0, both included.",
        "keep_points": "Put every grid point's score into the --json events.",
        "reference_rule": "Clean up on the 256 x 256 grid as the published code does.",
    },
    TrainOptions: {
        **_SHARED,
        "name": "Name of the model.",
        "profile": f"Recipe: {' or '.join(PROFILES)} (whole decoder, wide, labelled slices only, no early stop).",
        "mode": f"Inference mode to train for: {' or '.join(MODES)}.",
        "backbone": "Frozen image encoder; 'desam weights list' shows them.",
        "width": f"Width of the mask decoder: {' or '.join(WIDTHS)} (16 times cheaper).",
        "variant": f"Ablation of the paper: {', '.join(VARIANTS)}; or a rival of it: {', '.join(RIVALS)}.",
        "squeeze_excitation": "effective, or inert as in the published code.",
        "train_prim": "Also train the prompt transformer, as the paper does.",
        "labels": "Labels to learn, names or values, separated by commas. Default: all of the data set.",
        "epochs": "Passes over the slices.",
        "batch_size": "Slices per step.",
        "learning_rate": "Of Adam, at the start.",
        "schedule_power": "Of the polynomial decay of the learning rate.",
        "seed": "Of the random numbers; on a CPU the same seed gives the same model.",
        "validation_fraction": "Share of the cases (by patient) that picks the best epoch.",
        "empty_fraction": "Share of organ-free slices in a batch; 0 = labelled slices only.",
        "views": "Looks at each slice: itself and views - 1 turned, scaled, re-exposed ones.",
        "styles": "Further looks at each slice, in styles of other scanners: convolved, biased, bent, smoothed, noisy.",
        "slices": "all: every slice of a case is labelled; labelled: only slices with a label are.",
        "iou_weight": "Weight of the IoU loss.",
        "reference_losses": "Losses of the published code: Dice only, L1 on the IoU.",
        "patience": "Epochs without a better validation before stopping; 0 = never stop early.",
        "minutes": "Stop after this long, features included, and keep the best; 0 = no limit.",
        "base": "Model to start from, a file or a name; default: SAM's own decoder.",
        "patient_pattern": "Regular expression whose first group names the patient in a case's name.",
        "amp": "Half precision on CUDA.",
    },
}
_NEVER_IS_ZERO = ("patience", "minutes")
_AS_CARD: dict[type, tuple[str, ...]] = {SegmentOptions: ("mode", "largest_component")}


def takes(kind: type[Options]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: gives a typer command one option per field of ``kind``.

    The command receives those that were given on the command line as the dictionary ``chosen``; what was not
    given is absent, so that a profile's own defaults hold.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        names = [field.name for field in fields(kind)]

        @wraps(command)
        def wrapper(**values: Any) -> Any:
            chosen = {name: values.pop(name) for name in names}
            return command(**values, chosen={name: value for name, value in chosen.items() if value is not None})

        hints = get_type_hints(command, include_extras=True)
        own = [each for each in inspect.signature(command).parameters.values() if each.name != "chosen"]
        parameters = [each.replace(annotation=hints[each.name]) for each in own] + _parameters(kind)
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {each.name: each.annotation for each in parameters}
        del wrapper.__wrapped__  # typer would read the annotations of the function below this one
        return wrapper

    return decorate


def _parameters(kind: type) -> list[inspect.Parameter]:
    hints = get_type_hints(kind)
    parameters = []
    for field in fields(kind):
        name, flag = field.name, field.name.replace("_", "-")
        plain = _plain_type(hints[name])
        option = typer.Option(
            f"--{flag}/--no-{flag}" if plain is bool else f"--{flag}",
            help=HELP[kind].get(name, "") + _default_words(kind, field),
            show_default=False,
        )
        annotation = Annotated[plain | None, option]  # type: ignore[valid-type]
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    return parameters


def _plain_type(hint: Any) -> Any:
    """``X | None`` as X; a tuple of any length as text that ``build`` splits."""
    kinds = [each for each in get_args(hint) if each is not NoneType]
    plain = kinds[0] if len(kinds) == 1 and NoneType in get_args(hint) else hint
    return str if get_origin(plain) is tuple and Ellipsis in get_args(plain) else plain


def _default_words(kind: type, field: Any) -> str:
    """The default for --help; empty where the help text already says what happens."""
    if field.name in _AS_CARD.get(kind, ()):
        return "  [default: as the model recommends]"
    if field.default in (None, "", MISSING):
        return ""
    if isinstance(field.default, bool):
        return "  [default: yes]" if field.default else "  [default: no]"
    return f"  [default: {field.default}]"


def build(kind: type[Options], chosen: dict[str, Any]) -> Options:
    """The option object of what was chosen.

    Raises:
      BadInput: with the reason, when the values make no sense.
    """
    values = _values(chosen)
    if kind is TrainOptions:
        make: Any = TrainOptions.paper if values.get("profile") == "paper" else TrainOptions.new_site
    else:
        make = SegmentOptions
    return _checked(make(**values))


def resumed(folder: Path, chosen: dict[str, Any]) -> TrainOptions:
    """The options that the run in a folder was started with, and over them what was given again.

    Raises:
      BadInput: as ``build``, or when the folder holds no run.
    """
    return _checked(replace(stored_options(folder), **_values(chosen)))


def _values(chosen: dict[str, Any]) -> dict[str, Any]:
    return {name: None if name in _NEVER_IS_ZERO and value == 0 else value for name, value in chosen.items()}


def _checked(options: Options) -> Options:
    valid, reason = options.is_valid()
    if not valid:
        raise BadInput(reason)
    return options
