"""``desam models``: the model library, and what a model file says about itself."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import BadInput
from . import options as shared
from .view import plain, print_records

app = typer.Typer(help="The model library: list, show, add, export, rename, delete, import.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="A .desam file, or the name of a model in the library.")]


@app.command("list")
def list_models(json: shared.Json = False) -> None:
    """List the models of the library; a damaged file is listed with its problem."""
    from ..store.library import Library

    library = Library()
    records = [_record(entry) for entry in library.list()]
    if not records and not json:
        print(f"No models yet in {library.folder}. 'desam models add FILE' copies one there.")
        return
    titles = {"name": "Name", "labels": "Labels", "backbone": "Backbone", "dice": "Dice", "problem": "Problem"}
    print_records(records, json, titles)


def _record(entry: Any) -> dict[str, Any]:
    card = entry.card
    known = {"name": entry.path.stem, "path": str(entry.path), "problem": entry.problem or ""}
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
    from ..store.library import Library
    from ..store.model_file import read_card

    path = Library().resolve(model)
    card = plain(jsonlib.loads(read_card(path).to_json()))
    if json:
        print(jsonlib.dumps(card))
        return
    from rich.console import Console

    console = Console(soft_wrap=True, markup=False, highlight=False)
    console.print(str(path))
    for line in card_lines(card):
        console.print(line)


def card_lines(card: dict[str, Any], indent: str = "") -> list[str]:
    """A card as indented ``key: value`` lines; empty fields are left out."""
    lines = []
    for key, value in card.items():
        if value in (None, "", [], {}):
            continue
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", *card_lines(value, indent + "  ")]
        elif isinstance(value, list) and isinstance(value[0], dict):
            lines.append(f"{indent}{key}:")
            for each in value:
                lines.append(
                    f"{indent}  - " + ", ".join(f"{k} {_short(v)}" for k, v in each.items() if v not in (None, ""))
                )
        else:
            lines.append(f"{indent}{key}: {_short(value)}")
    return lines


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list):
        return ", ".join(_short(each) for each in value)
    return str(value)


@app.command("add")
def add(file: Annotated[Path, typer.Argument(help="A .desam file.")]) -> None:
    """Copy a model file into the library, after checking it."""
    from ..store.library import Library

    print(Library().add(file))


@app.command("export")
def export(model: Name, file: Annotated[Path, typer.Argument(help="Where to write it.")]) -> None:
    """Copy a model of the library to a file."""
    from ..store.library import Library

    print(Library().export(model, file))


@app.command("rename")
def rename(model: Name, new: Annotated[str, typer.Argument(help="The new name.")]) -> None:
    """Give a model of the library another name."""
    from ..store.library import Library

    print(Library().rename(model, new))


@app.command("delete")
def delete(model: Name, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Delete a model of the library."""
    from ..store.library import Library

    library = Library()
    path = library.resolve(model)
    if not yes and not typer.confirm(f"Delete {path}?"):
        raise BadInput(f"{path.name} was kept.")
    library.delete(model)
    print(f"Deleted {path.name}.")


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
    from dataclasses import replace

    from ..engine.loading import DeSAM
    from ..store.library import Library

    model = DeSAM.from_reference(file)
    card = replace(model.card, name=name or model.card.name, title=name or model.card.title)
    if label:
        card = replace(card, labels=(replace(card.labels[0], name=label),))
    if output is not None:
        model.save(output, card)
        print(output)
        return
    library = Library()
    path = library.folder / f"{library.free_name(card.name)}.desam"
    model.save(path, card)
    print(path)
