"""The test host does as PythonQt does, on either binding of Qt: what fails in Slicer fails here."""

from __future__ import annotations

from typing import Any

import pytest
from host import binding, qt
from host.fixtures import *  # noqa: F403
from host.fixtures import slicer


def test_a_property_is_read_and_assigned_and_never_called(scene: Any) -> None:
    label = qt.QLabel("a")
    label.text = "b"
    assert label.text == "b"
    with pytest.raises(TypeError, match="not callable"):
        label.text()
    assert label.isHidden(), "what is no property stays a method"


@pytest.mark.parametrize(("name", "value"), [("txet", "c"), ("setText", None), ("width", 3), ("visible_", True)])
def test_nothing_but_a_property_that_can_be_written_is_assigned(scene: Any, name: str, value: Any) -> None:
    with pytest.raises(AttributeError):
        setattr(qt.QLabel("a"), name, value)


def test_a_line_that_is_asked_for_has_no_property_for_its_text(scene: Any) -> None:
    assert callable(qt.QInputDialog().textValue)


def test_a_list_without_items_counts_as_true(scene: Any) -> None:
    assert qt.QListWidget()
    assert qt.QComboBox()


def test_a_signal_is_named_with_its_arguments(scene: Any) -> None:
    box = qt.QSpinBox()
    for signal in ("valueChanged", "valueChanged(float)", "changed(int)"):
        with pytest.raises(AttributeError, match="no signal"):
            box.connect(signal, print)
    with pytest.raises(AttributeError, match="no signal"):
        slicer.qMRMLNodeComboBox().connect("currentNodeChanged(QObject*)", print)


def test_a_slot_gets_as_many_arguments_as_signal_and_function_have(scene: Any) -> None:
    got: list[Any] = []

    class Receiver:
        def nothing(self) -> None:
            got.append("nothing")

        def one(self, value: Any = "default") -> None:
            got.append(value)

    button, receiver = qt.QPushButton(), Receiver()
    button.setCheckable(True)
    button.connect("clicked(bool)", receiver.nothing)
    button.connect("clicked(bool)", receiver.one)
    button.connect("clicked()", receiver.one)
    button.connect("toggled(bool)", lambda *arguments: got.append(arguments))
    button.click()
    assert sorted(got, key=str) == [(True,), True, "default", "nothing"]


def test_the_binding_that_was_asked_for_is_the_one_that_runs(scene: Any) -> None:
    isQt5 = binding.NAME == "PyQt5"
    assert qt.qVersion().startswith("5.15." if isQt5 else "6.")
    assert hasattr(qt.QMouseEvent, "position") is not isQt5
