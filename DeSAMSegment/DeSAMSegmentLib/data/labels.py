"""Label maps and what their values are called: labels are matched by name, everywhere by the one rule that is here.

Ground truth reaches training and metrics as *memberships*: an unsigned integer per voxel whose bit ``i`` says whether
the i-th label is there. Segments that overlap so keep their own masks, and a decoder never sees how a file numbers
them. The highest bit of the type marks voxels that nobody labelled (nnU-Net's ``ignore``).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import pairwise

import numpy as np

from ..errors import BadLabels
from .volume import Volume

IGNORE = "ignore"  # nnU-Net's reserved label: voxels that nobody labelled
MOST_LABELS = 63  # of one training: bits of the largest integer, but for the one of ignored voxels

Names = Mapping[str, tuple[int, ...]]  # label -> its values in a label map: one, or all of which a region consists


@dataclass(frozen=True, eq=False)
class LabelMap(Volume):
    """Label values on a grid; ``names`` is what the file calls them, empty where it does not say."""

    names: Names = field(default_factory=dict)


# ---- names ----------------------------------------------------------------------------------------------------------


def plain(name: str) -> str:
    """What is compared: "Left_Ventricle", "left ventricle" and "LEFT-VENTRICLE" are one name, and so is "Gefäß" however
    its letters are put together."""
    return unicodedata.normalize("NFC", re.sub(r"[\s_-]+", " ", name).strip().casefold())


def find_label(name: str, known: Iterable[str]) -> str | None:
    """The known name that is meant: the very same one, or the one that differs in case, blanks and hyphens only."""
    alike = [each for each in known if plain(each) == plain(name)]
    return name if name in alike else alike[0] if alike else None


def listed(names: Iterable[str]) -> str:
    """Names for a sentence; "none" where there is none."""
    return ", ".join(names) or "none"


def closest(names: Iterable[str], known: Sequence[str]) -> str:
    """A question about the first name that resembles a known one, or nothing."""
    by_plain = {plain(each): each for each in known}
    for name in names:
        for found in get_close_matches(plain(name), by_plain, 1, 0.75):
            return f" Is {name} meant to be {by_plain[found]}?"
    return ""


def match(wanted: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """wanted -> known name, for the names that are known. Where there is one of each, they are the same label."""
    pairs = {name: found for name in wanted if (found := find_label(name, known)) is not None}
    return dict(zip(wanted, known, strict=True)) if not pairs and len(wanted) == len(known) == 1 else pairs


def label_values(names: Names, order: object = None) -> dict[int, str]:
    """value -> name for the results of a model that learns these labels: their own values, where they have one.

    Arguments:
      order: values of the labels in their order, as nnU-Net's ``regions_class_order`` gives them for regions.
    """
    learnt = [name for name in names if plain(name) != IGNORE]
    if isinstance(order, list):
        return {int(value): name for value, name in zip(order, learnt, strict=True)}
    values = {names[name][0]: name for name in reversed(learnt) if len(names[name]) == 1}
    free = (value for value in range(1, len(names) + 1) if value not in values)
    rest = [name for name in learnt if name not in values.values()]
    return dict(sorted((values | dict(zip(free, rest, strict=False))).items()))


class Overlay:
    """A label map painted mask by mask; where masks overlap, a value of its own stands for all of them."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.array = np.zeros(shape, np.uint16)
        self._members: list[frozenset[str]] = [frozenset()]  # of each value
        self._painted: list[str] = []

    def paint(self, name: str, mask: np.ndarray) -> None:
        """Adds a label; ``mask`` (K, J, I) is True where it is."""
        self._painted.append(name)
        painted = self.array[mask]
        for value in np.unique(painted):
            members = self._members[value] | {name}
            if members not in self._members:
                self._members.append(members)
            self.array[mask] = np.where(painted == value, self._members.index(members), self.array[mask])

    @property
    def names(self) -> dict[str, tuple[int, ...]]:
        """Each label's values; none for a label that was painted nowhere."""
        return {name: tuple(v for v, members in enumerate(self._members) if name in members) for name in self._painted}


# ---- memberships ----------------------------------------------------------------------------------------------------


def membership_type(labels: int) -> type[np.unsignedinteger]:
    """The smallest integers with a bit for each label and one for ignored voxels.

    Raises:
      BadLabels: for more labels than bits.
    """
    if labels > MOST_LABELS:
        raise BadLabels(f"{labels} labels are too many at once.", f"Choose at most {MOST_LABELS} of them.")
    return next(t for t in (np.uint8, np.uint16, np.uint32, np.uint64) if labels < np.dtype(t).itemsize * 8)


def has(members: np.ndarray, number: int) -> np.ndarray:
    """Where the label of this number is: bool, of the same shape."""
    return np.asarray((members & members.dtype.type(1 << number)) != 0)


def ignored(members: np.ndarray) -> np.ndarray:
    """Where nobody said what there is: bool, of the same shape."""
    return has(members, members.dtype.itemsize * 8 - 1)


def drawn(members: np.ndarray) -> np.ndarray:
    """Where any label is: bool, of the same shape."""
    return np.asarray((members & members.dtype.type((1 << members.dtype.itemsize * 8 - 1) - 1)) != 0)


class Matcher:
    """Finds some labels in the label maps of many cases, by name, and remembers what should be said about them.

    Arguments:
      labels: names, in the order of the model's decoders.
      values: their values where a label map has no names.
      undeclared: what becomes of a label that a case's names lack, for the remark.
    """

    def __init__(
        self, labels: Sequence[str], values: Sequence[int], undeclared: str = "counts as absent there"
    ) -> None:
        self.labels, self.values, self.undeclared = list(labels), list(values), undeclared
        self.type = membership_type(len(labels))
        self._other: dict[str, set[str]] = {}  # remark -> cases
        self._undeclared: dict[int, tuple[int, list[str]]] = {}  # value -> voxels and cases
        self._overlaps: dict[tuple[str, str], int] = {}  # voxels

    def members(self, case: str, labels: LabelMap) -> np.ndarray:
        """Memberships (K, J, I) of one case's label map.

        Raises:
          BadLabels: when it has names, and none of them is one of the labels.
        """
        pairs = self.pairs(labels)
        self._note_names(case, labels, pairs)
        size = max(int(labels.array.max(initial=0)), 255) + 1
        table, declared = np.zeros(size, self.type), np.zeros(size, bool)
        declared[0] = True
        for name, values in labels.names.items():
            declared[[value for value in values if value < size]] = True
            if plain(name) == IGNORE:
                table[[value for value in values if value < size]] = self.type(1 << self.type(0).itemsize * 8 - 1)
        for number, name in enumerate(self.labels):
            if name in pairs:
                table[[value for value in pairs[name] if value < size]] |= self.type(1 << number)
        counts = _counts(labels.array, size)
        if labels.names:
            self._note_undeclared(case, counts, declared)
        self._note_overlaps(table, counts)
        return table[labels.array]

    def pairs(self, labels: LabelMap) -> dict[str, tuple[int, ...]]:
        """label -> its values in a label map, for the labels that it declares.

        Raises:
          BadLabels: as ``members``.
        """
        names = {name: values for name, values in labels.names.items() if plain(name) != IGNORE}
        if not names:
            return {name: (value,) for name, value in zip(self.labels, self.values, strict=True)}
        pairs = match(self.labels, list(names))
        if not pairs:
            raise BadLabels(
                f"{labels.title} has none of the labels {listed(self.labels)}; it has {listed(names)}."
                f"{closest(names, self.labels)}",
                "Rename its labels, or choose others.",
            )
        return {name: names[other] for name, other in pairs.items()}

    def _note_names(self, case: str, labels: LabelMap, pairs: Names) -> None:
        by_values = {values: name for name, values in labels.names.items()}
        unmatched = [other for values, other in by_values.items() if values not in pairs.values()]
        for name in self.labels:
            other = by_values.get(pairs[name], name) if name in pairs else ""
            if not other:
                text = f"there is no label {name}; it {self.undeclared}.{closest(unmatched, [name])}"
                self._note(text, case)
            elif other != name and name not in labels.names:
                self._note(f"{other} is taken for the label {name}.", case)

    def _note(self, remark: str, case: str) -> None:
        self._other.setdefault(remark, set()).add(case)

    def _note_undeclared(self, case: str, counts: np.ndarray, declared: np.ndarray) -> None:
        for value in np.flatnonzero((counts > 0) & ~declared).tolist():
            voxels, cases = self._undeclared.get(value, (0, []))
            self._undeclared[value] = voxels + int(counts[value]), [*cases, case]

    def _note_overlaps(self, table: np.ndarray, counts: np.ndarray) -> None:
        for value in np.flatnonzero((counts > 0) & ((table & (table - 1)) != 0)).tolist():
            names = [name for number, name in enumerate(self.labels) if has(table[value], number)]
            for pair in pairwise(names):
                self._overlaps[pair] = self._overlaps.get(pair, 0) + int(counts[value])

    def remarks(self) -> list[str]:
        """What should be said about the cases so far, a sentence each; each is said once."""
        said = [
            f"The label maps of {_cases(cases)} have {voxels:,} voxels of value {value}, which no label is declared "
            "for: they count as background."
            for value, (voxels, cases) in sorted(self._undeclared.items())
        ]
        said += [f"{_cases(sorted(cases))}: {remark}" for remark, cases in self._other.items()]
        said += [
            f"{first} and {second} overlap in {voxels:,} voxels: each is learnt and scored with its own mask."
            for (first, second), voxels in self._overlaps.items()
        ]
        self._undeclared, self._other, self._overlaps = {}, {}, {}
        return said


def _counts(array: np.ndarray, size: int) -> np.ndarray:
    counts = np.zeros(size, np.int64)
    for plane in array:
        counts += np.bincount(plane.ravel(), minlength=size)
    return counts


def _cases(names: Sequence[str]) -> str:
    """``c0``, ``c0, c1 and c2``, ``c0, c1, c2 and 7 other cases``."""
    shown, rest = list(names[:3]), len(names) - 3
    if rest > 0:
        return f"{', '.join(shown)} and {rest} other case{'s' if rest > 1 else ''}"
    return " and ".join(part for part in (", ".join(shown[:-1]), shown[-1]) if part)
