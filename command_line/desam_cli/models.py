"""``desam models``: the model library, and what a model file says about itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from DeSAMSegmentLib.errors import BadInput
from DeSAMSegmentLib.store.card import json_ready
from DeSAMSegmentLib.store.library import Entry, Library
from DeSAMSegmentLib.store.model_file import read_card

from . import options as shared
from .bars import visible
from .view import print_json, print_records, say

app = typer.Typer(help="The model library: list, show, add, export, rename, delete, import.", no_args_is_help=True)

EMPTY: tuple[Any, ...] = (None, "", [], {})
Name = Annotated[str, typer.Argument(help="A .desam file, or the name of a model in the library.")]


@app.command("list")
def list_models(json: shared.Json = False) -> None:
    """List the models of the library; a damaged file is listed with its problem."""
    library = Library()
    records = [_record(entry) for entry in library.list()]
    if not records and not json:
        say(f"No models yet in {library.folder}. 'desam models add FILE' copies one there.")
        return
    titles = {"name": "Name", "labels": "Labels", "backbone": "Backbone", "dice": "Dice", "problem": "Problem"}
    print_records(records, json, titles)


def _record(entry: Entry) -> dict[str, Any]:
    card = entry.card
    known = {"name": entry.name, "path": str(entry.path), "shipped": entry.shipped, "problem": entry.problem}
    if card is None:
        return known
    dice = card.training.get("mean_validation_dice")
    return {
        **known,
        "labels": ", ".join(label.name for label in card.labels),
        "backbone": card.backbone,
        "dice": f"{dice:.3f}" if isinstance(dice, float) else "",
    }


@app.command("show")
def show(model: Name, json: shared.Json = False) -> None:
    """Print a model's card: labels, backbone, how it was trained and on what."""
    path = Library().resolve(model)
    card = json_ready(read_card(path))
    if json:
        print_json(card)
        return
    say(path, *card_lines(card))


def card_lines(card: dict[str, Any], indent: str = "") -> Iterator[str]:
    """A card as indented ``key: value`` lines; empty fields are left out."""
    for key, value in card.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{key}:"
            yield from card_lines(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield f"{indent}{key}:"
            yield from (f"{indent}  - {_short(each)}" for each in value)
        elif value not in EMPTY:
            yield f"{indent}{key}: {_short(value)}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list):
        return ", ".join(map(_short, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(each)}" for key, each in value.items() if each not in EMPTY)
    return str(value)


@app.command("add")
def add(file: Annotated[Path, typer.Argument(help="A .desam file.")]) -> None:
    """Copy a model file into the library, after checking it."""
    say(Library().add(file))


@app.command("export")
def export(model: Name, file: Annotated[Path, typer.Argument(help="Where to write it.")]) -> None:
    """Copy a model of the library to a file."""
    say(Library().export(model, file))


@app.command("rename")
def rename(model: Name, new: Annotated[str, typer.Argument(help="The new name.")]) -> None:
    """Give a model of the library another name."""
    say(Library().rename(model, new))


@app.command("delete")
def delete(model: Name, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Delete a model of the library."""
    library = Library()
    path = library.resolve(model)
    if not yes and not typer.confirm(visible(f"Delete {path}?")):
        raise BadInput(f"{path.name} was kept.")
    library.delete(model)
    say(f"Deleted {path.name}.")


@app.command("import-reference")
def import_reference(
    file: Annotated[Path, typer.Argument(help="A checkpoint of the published DeSAM code (.pth).")],
    name: Annotated[str, typer.Option(help="Name in the library; default: the file's.")] = "",
    label: Annotated[str, typer.Option(help="Name of what it segments, e.g. prostate.")] = "",
    output: Annotated[
        Path | None, typer.Option(help="Write this .desam file instead of adding to the library.")
    ] = None,
) -> None:
    """Turn a checkpoint of the published code into a .desam model, exactly; nothing in it is unpickled."""
    from DeSAMSegmentLib.engine.runtime.loading import DeSAM

    model = DeSAM.from_reference(file)
    card = replace(model.card, name=name or model.card.name, title=name or model.card.title)
    if label:
        card = replace(card, labels=(replace(card.labels[0], name=label),))
    library = Library()
    path = output or library.folder / f"{library.free_name(card.name)}.desam"
    model.save(path, card)
    say(path)
