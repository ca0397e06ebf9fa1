"""Every declared option as a command-line option, with the options that all commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import typer
from DeSAMSegmentLib.engine.declarations import Declaration, Options, declarations
from DeSAMSegmentLib.engine.options import TrainOptions
from DeSAMSegmentLib.engine.train.run_folder import stored_options

Chosen = TypeVar("Chosen", bound=Options)

Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda|cuda:1|mps", help="What computes.")]
FarDevice = Annotated[
    str, typer.Option(metavar="auto|cpu|cuda|cuda:1|mps|'ssh HOST'", help="What computes; HOST as for ssh, with DeSAM.")
]
Workers = Annotated[
    int, typer.Option(min=0, metavar="N", help="Processes on this machine, or jobs of SLURM (needs dask).")
]
Scheduler = Annotated[
    str, typer.Option(metavar="ADDRESS", help="Address of a dask scheduler whose workers do it; or slurm.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per event and line on stdout, nothing else.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Compute all features anew and keep none.")]
Keep = Annotated[
    str, typer.Option("--cases", metavar="REGEX", help="Only cases whose name this regular expression finds.")
]
Exclude = Annotated[
    str, typer.Option("--exclude", metavar="REGEX", help="No case whose name this regular expression finds.")
]
Domains = Annotated[
    list[str] | None, typer.Option("--domain", metavar="NAME", help="Only cases of this domain; repeatable.")
]

# What only the command line has to add to a tip.
MORE = {
    "backbone": " 'desam weights list' shows them.",
    "labels": " Names or values, separated by commas.",
    "keep_points": " They are in the --json events.",
}


def takes(kind: type[Options]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: gives a typer command one option per declaration of ``kind``.

    The command receives those that were given on the command line as the dictionary ``chosen``; what was not
    given is absent, so that a profile's own defaults hold.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        declared = declarations(kind)

        @wraps(command)
        def wrapper(**values: Any) -> Any:
            chosen = {name: values.pop(name) for name in declared}
            return command(**values, chosen={name: value for name, value in chosen.items() if value is not None})

        hints = get_type_hints(command, include_extras=True)
        own = [each for each in inspect.signature(command).parameters.values() if each.name != "chosen"]
        parameters = [each.replace(annotation=hints[each.name]) for each in own]
        parameters += [_parameter(each, kind) for each in declared.values()]
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {each.name: each.annotation for each in parameters}
        del wrapper.__wrapped__  # typer would read the annotations of the function below this one
        return wrapper

    return decorate


def _parameter(declared: Declaration, kind: type[Options]) -> inspect.Parameter:
    flag = declared.name.replace("_", "-")
    read_as, metavar = _typer_type(declared, kind)
    option = typer.Option(
        f"--{flag}/--no-{flag}" if read_as is bool else f"--{flag}",
        help=declared.tip + MORE.get(declared.name, "") + _default_words(declared),
        metavar=metavar,
        show_default=False,
    )
    annotation = Annotated[read_as | None, option]  # type: ignore[valid-type]
    return inspect.Parameter(declared.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _typer_type(declared: Declaration, kind: type[Options]) -> tuple[Any, str | None]:
    """The type that typer reads, a tuple of any length being text, and what stands after the flag in --help."""
    if declared.kind is not tuple:
        words = {bool: None, int: "N", float: "X", str: "TEXT"}[declared.kind]
        return declared.kind, "|".join(declared.choices) if declared.choices else words
    pair = next(each for each in get_args(get_type_hints(kind)[declared.name]) if get_args(each))
    return (
        (str, "TEXT")
        if Ellipsis in get_args(pair)
        else (pair, "FIRST LAST" if declared.name == "slice_range" else "LOW HIGH")
    )


def _default_words(declared: Declaration) -> str:
    """The default for --help; empty where the tip already says what happens."""
    if declared.recommended:
        return "  [default: as the model recommends]"
    if declared.default in (None, ""):
        return ""
    if isinstance(declared.default, bool):
        return "  [default: yes]" if declared.default else "  [default: no]"
    return f"  [default: {declared.default}]"


def build(kind: type[Chosen], chosen: dict[str, Any]) -> Chosen:
    """The option object of what was chosen.

    Raises:
      BadInput: with the reason, when the values make no sense.
    """
    values = _values(kind, chosen)
    if issubclass(kind, TrainOptions):
        return kind.of_profile(values.pop("profile", "new-site"), **values).check()  # type: ignore[return-value]
    return kind(**values).check()


def resumed(folder: Path, chosen: dict[str, Any]) -> TrainOptions:
    """The options that the run in a folder was started with, and over them what was given again.

    Raises:
      BadInput: as ``build``, or when the folder holds no run.
    """
    return replace(stored_options(folder), **_values(TrainOptions, chosen)).check()


def _values(kind: type[Options], chosen: dict[str, Any]) -> dict[str, Any]:
    declared = declarations(kind)
    return {name: None if declared[name].zero_is_none and value == 0 else value for name, value in chosen.items()}
