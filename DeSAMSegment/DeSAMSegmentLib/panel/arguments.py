"""What a call at the Python console is given, which can be any object: taken, or refused with the argument's name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from ..data.cases import Case
from ..data.labels import closest, listed, match
from ..engine.declarations import Options, declarations
from ..engine.options import SegmentOptions
from ..errors import BadInput
from .train.cases import AnyCase, SceneCase, caseTitle, validateCases


def casesOf(pairs: Any, segment: str, slices: str) -> list[AnyCase]:
    """(volume node, segmentation node) pairs as cases; ready-made cases pass through."""
    checkText("labels", segment)
    if slices not in ("all", "labelled"):
        raise wrong("slices", '"all" or "labelled"', slices)
    wanted = _("a list of (volume node, segmentation node)")
    if not isinstance(pairs, list | tuple):
        raise wrong("cases", wanted, pairs)
    cases: list[AnyCase] = []
    for pair in pairs:
        if isinstance(pair, SceneCase | Case):
            cases.append(pair)
            continue
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise wrong("cases", wanted, pair)
        checkNode("cases", pair[0])
        checkNode("cases", pair[1], "vtkMRMLSegmentationNode")
        cases.append(SceneCase(pair[0], pair[1], segment, slices))
    return validCases(cases)


def validCases(cases: list[AnyCase]) -> list[AnyCase]:
    problem = validateCases(cases)
    if problem:
        raise BadInput(problem)
    return cases


def checkNode(argument: str, value: Any, className: str = "") -> None:
    """What kind of volume a node is, ``validateVolume`` says."""
    isNode = callable(getattr(value, "IsA", None)) and value.IsA("vtkMRMLNode")
    if isNode and (not className or value.IsA(className)):
        return
    do = ""
    if isinstance(value, str):
        do = _('slicer.util.getNode("{name}") gives the node of that name.').format(name=value)
    elif isNode and value.IsA("vtkMRMLLabelMapVolumeNode"):
        do = _("In the Data module, its context menu converts a label map to a segmentation.")
    raise wrong(argument, _("a segmentation node") if className else _("a volume node"), value, do)


def checkText(argument: str, value: Any) -> None:
    if not isinstance(value, str | Path):
        raise wrong(argument, _("a text"), value)


def folderOf(value: Any) -> Path | None:
    if value is None or value == "":
        return None
    checkText("folder", value)
    return Path(value)


def segmentOptions(given: dict[str, Any]) -> SegmentOptions:
    checkNames(SegmentOptions, given)
    return SegmentOptions(**given).check()


def checkNames(kind: type[Options], given: dict[str, Any]) -> None:
    known = [name for name in declarations(kind) if name not in ("base", "backbone")]  # arguments of their own
    unknown = [name for name in given if name not in known]
    if unknown:
        what = _("There is no option {name}.").format(name=unknown[0])
        raise BadInput(f"{what}{closest(unknown, known)}", _("Options: {names}.").format(names=listed(known)))


def wrong(argument: str, wanted: str, value: Any, do: str = "") -> BadInput:
    if callable(getattr(value, "GetClassName", None)):
        found = f"{value.GetName()} ({value.GetClassName()})" if hasattr(value, "GetName") else value.GetClassName()
    else:
        found = f"{value!r:.60}"
    return BadInput(
        _("{argument} takes {wanted}, not {found}.").format(argument=argument, wanted=wanted, found=found), do
    )


def checkKnown(cases: Sequence[AnyCase], known: list[str]) -> None:
    for case in cases:
        names = list(case.segments().values()) if isinstance(case, SceneCase) else []
        if names and not match(known, names):
            what = _("{case} has no segment that the model knows; it knows {names}.")
            what = what.format(case=caseTitle(case), names=listed(known))
            raise BadInput(f"{what}{closest(known, names)}", _("Rename the segment."))
