"""Names, colours and SNOMED codes of common labels, as 3D Slicer's terminology knows them.

Codes and colours follow Slicer's "Segmentation category and type - 3D Slicer General Anatomy list" (DICOM CID 7150 and
others). What is not in the table is generic tissue in a colour of its own.
"""

from __future__ import annotations

import colorsys
import re
from collections.abc import Mapping
from dataclasses import replace

from .card import LabelInfo

CONTEXT = "Segmentation category and type - 3D Slicer General Anatomy list"
ANATOMY = ("123037004", "Anatomical Structure")
TISSUE = ("85756007", "Tissue")
ABNORMAL = ("49755003", "Morphologically Altered Structure")
RIGHT, LEFT = ("24028007", "Right"), ("7771000", "Left")
NO_SIDE = "^^"

Code = tuple[str, str]
# words all of which occur in the name -> (category, type, side, colour); the first match counts
TABLE: tuple[tuple[tuple[str, ...], Code, Code, Code | None, tuple[int, int, int]], ...] = (
    (("tumor",), ABNORMAL, ("4147007", "Mass"), None, (144, 238, 144)),
    (("neoplasm",), ABNORMAL, ("4147007", "Mass"), None, (144, 238, 144)),
    (("lesion",), ABNORMAL, ("52988006", "Lesion"), None, (253, 135, 86)),
    (("oedema",), ABNORMAL, ("79654002", "Edema"), None, (140, 224, 228)),
    (("edema",), ABNORMAL, ("79654002", "Edema"), None, (140, 224, 228)),
    (("prostate",), ANATOMY, ("41216001", "Prostate"), None, (230, 158, 140)),
    (("spleen",), ANATOMY, ("78961009", "Spleen"), None, (157, 108, 162)),
    (("liver",), ANATOMY, ("10200004", "Liver"), None, (221, 130, 101)),
    (("kidney", "right"), ANATOMY, ("64033007", "Kidney"), RIGHT, (185, 102, 83)),
    (("kidney", "left"), ANATOMY, ("64033007", "Kidney"), LEFT, (185, 102, 83)),
    (("kidney",), ANATOMY, ("64033007", "Kidney"), None, (185, 102, 83)),
    (("ventricle", "right"), ANATOMY, ("53085002", "Right ventricle"), None, (181, 85, 57)),
    (("ventricle", "left"), ANATOMY, ("87878005", "Left ventricle"), None, (152, 55, 13)),
    (("myocardium",), ANATOMY, ("74281007", "Myocardium"), None, (192, 104, 88)),
    (("grey", "matter"), ANATOMY, ("389080008", "Grey matter of brain"), None, (200, 200, 215)),
    (("white", "matter"), ANATOMY, ("68523003", "Cerebral white matter"), None, (250, 250, 225)),
    (("spinal", "cord"), ANATOMY, ("2748008", "Spinal cord"), None, (244, 214, 49)),
    (("cord",), ANATOMY, ("2748008", "Spinal cord"), None, (244, 214, 49)),
    (("brain",), ANATOMY, ("12738006", "Brain"), None, (250, 250, 225)),
    (("lung", "right"), ANATOMY, ("39607008", "Lung"), RIGHT, (172, 138, 115)),
    (("lung", "left"), ANATOMY, ("39607008", "Lung"), LEFT, (172, 138, 115)),
    (("lung",), ANATOMY, ("39607008", "Lung"), None, (172, 138, 115)),
    (("heart",), ANATOMY, ("80891009", "Heart"), None, (206, 110, 84)),
    (("pancreas",), ANATOMY, ("15776009", "Pancreas"), None, (249, 180, 111)),
    (("bladder", "urinary"), ANATOMY, ("89837001", "Urinary bladder"), None, (222, 154, 132)),
)
SPELLINGS = {"tumour": "tumor", "gray": "grey", "lv": "left ventricle", "rv": "right ventricle", "myo": "myocardium",
             "gm": "grey matter", "wm": "white matter", "hepatic": "liver"}  # fmt: skip


def default_label(value: int, name: str) -> LabelInfo:
    """A label with the colour and terminology its name suggests: "kidney_left", "Left kidney", "LV"."""
    words = [SPELLINGS.get(word, word) for word in re.findall(r"[a-z]+", name.lower())]
    present = set(" ".join(words).split())
    for wanted, category, kind, side, colour in TABLE:
        if present.issuperset(wanted):
            return LabelInfo(value, name, colour, entry(category, kind, side))
    return LabelInfo(value, name, _colour(value), entry(TISSUE, TISSUE, None))


def default_labels(names: Mapping[int, str]) -> tuple[LabelInfo, ...]:
    """The labels of one model, background (0) left out, by value: value -> name.

    No two have the same colour, but for the two sides of an organ, which Slicer shows alike.
    """
    labels: list[LabelInfo] = []
    for value, name in sorted(names.items()):
        label = default_label(value, name)
        taken, other = {each.color for each in labels}, value
        while label.color in taken and label.terminology.split("~")[3] == NO_SIDE:
            label = replace(label, color=_colour(other))
            other += 1
        if value:
            labels.append(label)
    return tuple(labels)


def entry(category: Code, kind: Code, side: Code | None) -> str:
    """Slicer's serialised terminology entry: context, category, type, modifier, then an empty anatomic region."""
    modifier = f"SCT^{side[0]}^{side[1]}" if side else NO_SIDE
    return "~".join(
        (
            CONTEXT,
            f"SCT^{category[0]}^{category[1]}",
            f"SCT^{kind[0]}^{kind[1]}",
            modifier,
            "Anatomic codes - DICOM master list",
            "^^",
            "^^",
        )
    )


def _colour(value: int) -> tuple[int, int, int]:
    """Distinct colours for values 1, 2, 3...: hues a golden angle apart."""
    red, green, blue = colorsys.hsv_to_rgb((0.33 + value * 0.381966) % 1.0, 0.55, 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)
