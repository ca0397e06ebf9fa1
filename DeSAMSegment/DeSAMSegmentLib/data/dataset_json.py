"""nnU-Net's dataset.json: which labels there are, and what their values are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ..errors import BadDataset, printable
from ..files import parse_json
from .labels import IGNORE, Names, find_label, plain

LARGEST_VALUE = 65535  # of a label


def names_in(folder: Path) -> Names:
    """What a dataset.json in a folder of label maps calls their values; nothing where there is none."""
    return declared(read_description(folder), folder / "dataset.json") if (folder / "dataset.json").is_file() else {}


def read_description(folder: Path) -> dict[str, Any]:
    """The dataset.json of a folder, which has labels. Raises BadDataset."""
    path = folder / "dataset.json"
    try:
        if path.exists() and not path.is_file():
            raise BadDataset(f"{path} is not a file.", "Replace it.")  # a pipe: reading it would wait
        description = parse_json(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise BadDataset(
            f"{folder} is not a data set: it has no dataset.json.",
            "Give an nnU-Net raw folder: dataset.json, imagesTr and labelsTr.",
        ) from None
    except json.JSONDecodeError as problem:
        raise BadDataset(
            f"{path} is not JSON: line {problem.lineno}, column {problem.colno}: {problem.msg}.", "Correct that line."
        ) from None
    except (OSError, ValueError) as problem:
        raise BadDataset(f"{path} cannot be read ({problem}).", "Correct it, and save it as JSON in UTF-8.") from None
    if not isinstance(description, dict) or not isinstance(description.get("labels"), dict):
        raise BadDataset(f"{path} has no labels.", 'It needs "labels": {"background": 0, "organ": 1}.')
    return description


def declared(description: dict[str, Any], path: Path) -> dict[str, tuple[int, ...]]:
    """label -> values, background left out. Raises BadDataset, naming ``path``."""
    names: dict[str, tuple[int, ...]] = {}
    for key, entry in description["labels"].items():
        # version 2 of the format maps names to values, version 1 values to names
        old = isinstance(entry, str) and key.strip().isdecimal()
        name, given = (entry, [key]) if old else (key, entry if isinstance(entry, list) else [entry])
        name, values = printable(name), tuple(map(_value, given))
        if values == (0,):
            continue
        if not values or not all(0 < value <= LARGEST_VALUE for value in values) or plain(name) == "background":
            raise BadDataset(
                f"{path} gives the label {name or 'without a name'} the value {key if old else entry}.",
                f"Values are whole numbers from 1 to {LARGEST_VALUE}; 0 is the background.",
            )
        if not name:
            raise BadDataset(f"{path} has a label without a name, of the value {values[0]}.", "Give it a name.")
        same = next((other for other, theirs in names.items() if set(theirs) == set(values)), "")
        if same:
            raise BadDataset(f"{path} gives {same} and {name} the same value {entry}.", "Correct one of them.")
        if find_label(name, names):
            raise BadDataset(f"{path} names two labels {name}, give or take case and hyphens.", "Rename one of them.")
        names[name] = values
    if {plain(name) for name in names} <= {IGNORE}:
        raise BadDataset(f"{path} names no label but the background.", 'Add the organ to "labels".')
    return names


def _value(given: Any) -> int:
    """A label's value as dataset.json has it: 1, "1" or 1.0; -1 for anything else."""
    whole = re.fullmatch(r"(\d{1,9})(\.0*)?", str(given).strip())
    return int(whole[1]) if whole else -1


def region_order(description: dict[str, Any], names: Names, path: Path) -> list[int] | None:
    """Values of the labels for results, where some are regions; nnU-Net, too, takes the order for nothing else."""
    order = description.get("regions_class_order")
    learnt = [values for name, values in names.items() if plain(name) != IGNORE]
    if order is None or all(len(values) == 1 for values in learnt):
        return None
    values = list(map(_value, order)) if isinstance(order, list) else []
    if len(set(values)) != len(learnt) or not all(0 < value <= LARGEST_VALUE for value in values):
        what = f"{path} has a regions_class_order that is no list of {len(learnt)} different values."
        raise BadDataset(what, "Give one value per label, without the background and ignore.")
    return values
