"""Which cases and labels of a data set a command works on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from DeSAMSegmentLib.data.labels import closest, find_label
from DeSAMSegmentLib.errors import BadDataset, BadInput, BadLabels

if TYPE_CHECKING:
    from DeSAMSegmentLib.data.cases import Case


def choose_cases(cases: Sequence[Case], keep: str, exclude: str, domains: Sequence[str] | None) -> list[Case]:
    """The cases whose name ``keep`` finds and ``exclude`` does not, of the given domains.

    Raises:
      BadDataset: when none is left; the text lists some names.
    """
    wanted, unwanted = pattern("--cases", keep), pattern("--exclude", exclude)
    chosen = [
        case
        for case in cases
        if wanted.search(case.name)
        and not (exclude and unwanted.search(case.name))
        and (not domains or case.domain in domains)
    ]
    if not chosen:
        names = ", ".join(case.name for case in list(cases)[:3]) or "none"
        raise BadDataset("No case of the data set is left to work on.", f"Its cases are {names} ... ({len(cases)}).")
    return chosen


def stored_choice(cases: Sequence[Case], names: Sequence[str]) -> list[Case]:
    """The cases of these names, in this order.

    Raises:
      BadDataset: when the data set lacks one.
    """
    known = {case.name: case for case in cases}
    if absent := [name for name in names if name not in known]:
        raise BadDataset(f"The data set has no case {absent[0]} any more, which the run learns from.", "Put it back.")
    return [known[name] for name in names]


def pattern(option: str, text: str, flags: int = 0) -> re.Pattern[str]:
    """A regular expression of an option.

    Raises:
      BadInput: naming the option, when it is none.
    """
    try:
        return re.compile(text, flags)
    except re.error as error:
        raise BadInput(f"{option} {text} is not a regular expression ({error}).", "Try a part of a name.") from error


def choose_labels(text: str | None, labels: Mapping[int, str]) -> dict[int, str]:
    """The labels (value -> name) of ``"3,myocardium"``, in this order; all of them when nothing was asked for.
    A name may differ in case, blanks and hyphens.

    Raises:
      BadLabels: for a name or value the data set does not have.
    """
    values = {name: value for value, name in labels.items()}
    numbers = {str(value): value for value in labels}
    chosen = {}
    for part in parts(text or "") or numbers:
        name = find_label(part, values)
        value = numbers.get(part) if name is None else values[name]
        if value is None:
            known = ", ".join(f"{value} ({name})" for value, name in sorted(labels.items()))
            question = closest([part], list(values))
            raise BadLabels(f"The data set has no label {part}.{question}", f"It has {known}.")
        chosen[value] = labels[value]
    return chosen


def parts(text: str) -> list[str]:
    """Words separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]
