"""``desam weights``: the frozen image encoders' weight files on this computer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from DeSAMSegmentLib.store import weights
from rich.filesize import decimal

from . import options as shared
from .bars import Bars
from .view import print_records

app = typer.Typer(
    help="Weights of the frozen image encoders: which are here, download, add a file.", no_args_is_help=True
)


@app.command("list")
def list_weights(json: shared.Json = False) -> None:
    """List every backbone with its size, licence and whether its weights are here."""
    records = [_record(each) for each in weights.status()]
    titles = {"id": "ID", "title": "Backbone", "size": "Size", "licence": "Licence", "state": "Here"}
    print_records(records, json, titles)


def _record(status: Any) -> dict[str, Any]:
    """One row of the list from the store's ``WeightStatus``."""
    info = status.info
    way = f"get {info.id}" if info.url else f"add FILE --id {info.id}"
    here = "" if status.path is None else str(status.path)
    return {
        "id": info.id,
        "title": info.title,
        "size": decimal(info.bytes),
        "bytes": info.bytes,
        "sha256": info.sha256,
        "licence": info.licence,
        "path": here,
        "state": "yes" if here else f"no: desam weights {way}",
    }


@app.command("get")
def get(
    id: Annotated[str, typer.Argument(help="An ID of 'desam weights list'.")],
    json: shared.Json = False,
) -> None:
    """Download weights; a download that was cut goes on where it stopped, and the SHA-256 is checked."""
    bars = Bars()

    def progress(done: int, total: int) -> None:
        if bars.progress is None:
            bars.start(f"Downloading {id}", total, "byte")
        bars.move(done)

    try:
        path = weights.download(id, progress)
    finally:
        bars.close()
    print_records([{"id": id, "path": str(path)}], json, {"id": "ID", "path": "File"})


@app.command("add")
def add(
    file: Annotated[Path, typer.Argument(help="A weight file that is already on this computer (.pth).")],
    id: Annotated[str, typer.Option(help="Which backbone it is; default: told by its SHA-256 or file name.")] = "",
    json: shared.Json = False,
) -> None:
    """Copy a weight file to where the program looks for it."""
    path = weights.add(file, id or None)
    known = next(info.id for info in weights.WEIGHTS.values() if info.file == path.name)
    print_records([{"id": known, "path": str(path)}], json, {"id": "ID", "path": "File"})
