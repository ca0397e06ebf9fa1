"""The panel's forms: a tooltip on everything one can use, labels that lead to their widget, no colours of our own."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

MODULE = Path(__file__).resolve().parents[1] / "DeSAMSegment"
FORMS = sorted((MODULE / "Resources" / "UI").glob("*.ui"))
PASSIVE = {"QLabel", "QFrame", "QWidget"}


def widgets(form: Path) -> list[ElementTree.Element]:
    return list(ElementTree.parse(form).getroot().iter("widget"))


def property_(widget: ElementTree.Element, name: str) -> str:
    found = widget.find(f"property[@name='{name}']")
    return "".join(found.itertext()).strip() if found is not None else ""


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.stem)
def test_everything_one_can_use_explains_itself(form: Path) -> None:
    silent = [w.get("name") for w in widgets(form) if w.get("class") not in PASSIVE and not property_(w, "toolTip")]
    assert silent == []


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.stem)
def test_every_label_of_a_form_leads_to_its_widget_by_keyboard(form: Path) -> None:
    names = {w.get("name") for w in widgets(form)}
    for widget in widgets(form):
        if widget.get("class") == "QLabel" and property_(widget, "text").endswith(":"):
            assert property_(widget, "buddy") in names, property_(widget, "text")
            assert "&" in property_(widget, "text")


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.stem)
def test_no_two_widgets_of_a_section_share_a_shortcut(form: Path) -> None:
    texts = [property_(w, "text") for w in widgets(form)]
    keys = [found.group(1).lower() for text in texts if (found := re.search(r"&(\w)", text))]
    assert len(keys) == len(set(keys)), sorted(keys)


def test_nothing_sets_a_style_of_its_own_which_a_dark_theme_would_break() -> None:
    for path in [*FORMS, *(MODULE / "DeSAMSegmentLib" / "panel").glob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert "styleSheet" not in text, path.name
        assert "setStyleSheet" not in text, path.name


def test_what_the_user_reads_is_marked_for_translation() -> None:
    """setText and friends never get a bare literal with letters in it."""
    bare = re.compile(r"\.(setText|setToolTip|setTitle|addItem|confirm|tell)\(f?\"[^\"]*[A-Za-z]{3}")
    for path in (MODULE / "DeSAMSegmentLib" / "panel").glob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert not bare.search(line) or "{" in line, f"{path.name}: {line.strip()}"
