"""The panel's forms: a tooltip on everything one can use, labels that lead to their widget, no colours of our own.

Rows for declared options are made while the panel is opened; the same rules hold for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from host.binding import Qt, QtWidgets
from host.desk import Desk
from host.fixtures import *  # noqa: F403

MODULE = Path(__file__).resolve().parents[1] / "DeSAMSegment"
FORMS = sorted((MODULE / "Resources" / "UI").glob("*.ui"))
PASSIVE = {"QLabel", "QFrame", "QWidget"}
SECTIONS = ("segment", "fineTune", "advanced")  # with rows for declared options
ROLES = (QtWidgets.QFormLayout.ItemRole.LabelRole, QtWidgets.QFormLayout.ItemRole.FieldRole)


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
    checkKeys([property_(w, "text") for w in widgets(form)])


def checkKeys(texts: list[str]) -> None:
    """Each shortcut once, and none of Slicer's menus File, Edit, View and Help."""
    keys = [found.group(1).lower() for text in texts if (found := re.search(r"&(\w)", text))]
    assert len(keys) == len(set(keys)), sorted(texts)
    assert not set(keys) & set("fevh"), sorted(texts)


def test_nothing_sets_a_style_of_its_own_which_a_dark_theme_would_break() -> None:
    for path in [*FORMS, *(MODULE / "DeSAMSegmentLib" / "panel").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert "styleSheet" not in text, path.name
        assert "setStyleSheet" not in text, path.name


def test_what_the_user_reads_is_marked_for_translation() -> None:
    """setText and friends never get a bare literal with letters in it."""
    bare = re.compile(r"\.(setText|setToolTip|setTitle|addItem|confirm|tell)\(f?\"[^\"]*[A-Za-z]{3}")
    for path in (MODULE / "DeSAMSegmentLib" / "panel").rglob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert not bare.search(line) or "{" in line, f"{path.name}: {line.strip()}"


@pytest.fixture
def panel(scene: Any) -> Iterator[Desk]:
    """The open panel, on a computer without models."""
    opened = Desk()
    yield opened
    opened.close()


def rows(section: Any) -> list[tuple[Any, Any]]:
    """(label, field) of every row of a section's options form that has both."""
    form = section.ui.optionsForm
    items = [[form.itemAt(row, role) for role in ROLES] for row in range(form.rowCount())]
    return [(label.widget(), field.widget() or field.layout()) for label, field in items if label and field]


def widgetsIn(field: Any) -> list[Any]:
    """The widget of a row, or those of its layout."""
    if isinstance(field, QtWidgets.QWidget):
        return [field]
    return [field.itemAt(place).widget() for place in range(field.count())]


def optionWidgets(panel: Desk) -> dict[str, Any]:
    """Every widget that was made from a declaration, by the name of its parameter."""
    found = {"segment.mode": panel.segment.modeSelector}
    found |= {f"segment.{name}": widget for name, widget in panel.advanced.options.items()}
    return found | {f"train.{name}": widget for name, widget in panel.fineTune.optionWidgets.items()}


def parts(widget: Any) -> list[Any]:
    """What one can use of an option's widget: itself, or the parts of a row of several."""
    if type(widget).__name__ not in PASSIVE:
        return [widget]
    inside = widget.findChildren(QtWidgets.QWidget, options=Qt.FindChildOption.FindDirectChildrenOnly)
    return [part for part in inside if type(part).__name__ not in PASSIVE]


def test_every_declared_option_that_is_not_for_experts_has_one_row(panel: Desk) -> None:
    from DeSAMSegmentLib.engine.declarations import declarations
    from DeSAMSegmentLib.engine.options import SegmentOptions, TrainOptions

    groups = {"segment": SegmentOptions, "train": TrainOptions}
    wanted = [
        f"{group}.{each.name}" for group, kind in groups.items() for each in declarations(kind).values()
        if not each.expert
    ]  # fmt: skip
    widgets = optionWidgets(panel)
    assert sorted(widgets) == sorted(wanted)
    fields = [field for name in SECTIONS for _label, field in rows(getattr(panel, name))]
    for name, widget in widgets.items():
        assert sum(field is widget for field in fields) == 1, name


def test_every_option_explains_itself(panel: Desk) -> None:
    from DeSAMSegmentLib.panel.scene.parameters import declaredAs

    for name, widget in optionWidgets(panel).items():
        declared = declaredAs(name)
        assert declared is not None
        assert parts(widget), name
        for part in parts(widget):
            assert part.toolTip == declared.tip, name


@pytest.mark.parametrize("name", SECTIONS)
def test_every_label_of_an_option_leads_to_its_widget_by_keyboard(panel: Desk, name: str) -> None:
    made = optionWidgets(panel).values()
    for label, field in rows(getattr(panel, name)):
        assert label.text.endswith(":")
        assert "&" in label.text, label.text
        usable = [part for widget in widgetsIn(field) for part in parts(widget)]
        assert label.buddy() in usable, label.text
        assert label.buddy().focusPolicy != Qt.FocusPolicy.NoFocus or field not in made, label.text


@pytest.mark.parametrize("name", SECTIONS)
def test_no_two_widgets_of_an_open_section_share_a_shortcut(panel: Desk, name: str) -> None:
    widget = getattr(panel, name).widget
    kinds = (QtWidgets.QLabel, QtWidgets.QAbstractButton)
    checkKeys([part.text for kind in kinds for part in widget.findChildren(kind)])


def test_long_words_of_a_choice_do_not_widen_the_panel(panel: Desk) -> None:
    choices = [widget for widget in optionWidgets(panel).values() if isinstance(widget, QtWidgets.QComboBox)]
    assert choices
    for widget in choices:
        assert widget.minimumSizeHint().width() < 160
