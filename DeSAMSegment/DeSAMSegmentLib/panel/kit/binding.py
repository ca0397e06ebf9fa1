"""Widgets and parameters, kept equal in both directions; and rows of widgets for declared options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import qt
from slicer.i18n import tr as _

from ..scene.parameters import Parameters, declaredAs

READ_WRITE: dict[str, tuple[str, str]] = {  # widget kind -> changed signal, property
    "spin": ("valueChanged(int)", "value"),
    "double": ("valueChanged(double)", "value"),
    "check": ("toggled(bool)", "checked"),
    "text": ("textChanged(QString)", "text"),
}
LARGEST = 1_000_000  # of a number without an upper limit: what a spin box needs one for
MENU_KEYS = "fevh"  # of Slicer's menus File, Edit, View and Help
PAIR_START = (0, 400)  # what a pair of numbers shows before it was chosen


class Binder:
    """Call ``bind...`` once per widget; afterwards the user and the scene may each change either side."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._show: dict[str, Callable[[], None]] = {}
        self._isShowing = False
        self.pairs: dict[str, tuple[Any, Any, Any]] = {}  # option -> check box and the two numbers
        self.isPaused = False  # while a scene comes or goes, node lists choose by themselves: that is no decision
        parameters.changed.connect(self._onChanged)

    # ---- single widgets -------------------------------------------------------------------------------------------

    def bind(self, kind: str, widget: Any, name: str, toWidget: Any = None, toValue: Any = None) -> None:
        """A spin box, check box or line edit.

        Arguments:
          toWidget, toValue: what the widget shows for a value, and the other way round; default: the same.
        """
        signal, attribute = READ_WRITE[kind]
        toWidget, toValue = toWidget or _same, toValue or _same
        widget.connect(signal, lambda *_: self._store(name, toValue(getattr(widget, attribute))))
        self._add(name, lambda: self._assign(widget, attribute, toWidget(self._parameters.get(name))))

    def bindChoice(self, widget: Any, name: str, choices: list[tuple[str, Any]]) -> None:
        """A combo box of (text, value); the value is stored."""
        for text, _value in choices:
            widget.addItem(text)
        values = [value for _text, value in choices]
        widget.connect("currentIndexChanged(int)", lambda index: self._store(name, values[index]))
        self._add(name, lambda: widget.setCurrentIndex(values.index(self._parameters.get(name))))

    def bindNode(self, widget: Any, role: str) -> None:
        """A node combo box; a node the widget selects by itself (the only volume) is stored as well."""

        def store(*_: Any) -> None:
            if not self._isShowing and not self.isPaused:
                self._parameters.setNode(role, widget.currentNode())

        def show() -> None:
            node = self._parameters.getNode(role)
            if node is None and not widget.noneEnabled and widget.currentNode() is not None:
                self._parameters.setNode(role, widget.currentNode())
            else:
                widget.setCurrentNode(node)

        widget.connect("currentNodeChanged(vtkMRMLNode*)", store)
        self._add(role, show)

    # ---- rows for declared options --------------------------------------------------------------------------------

    def addRows(
        self, form: Any, group: str, names: list[str], row: int = 0, taken: Iterable[str] = ()
    ) -> dict[str, Any]:
        """Inserts a row per option into a form layout, from ``row`` on; option name to its widget.

        Arguments:
          taken: texts of the section whose shortcuts the labels leave alone.
        """
        widgets: dict[str, Any] = {}
        keys = {*MENU_KEYS, *(text[text.index("&") + 1].lower() for text in taken if "&" in text[:-1])}
        for place, name in enumerate(names, row):
            widgets[name] = self.optionWidget(f"{group}.{name}")
            declared = declaredAs(f"{group}.{name}")
            assert declared is not None
            label = qt.QLabel(_("{label}:").format(label=_withShortcut(_(declared.label), keys)))
            label.setBuddy(self.pairs.get(f"{group}.{name}", (widgets[name],))[0])
            form.insertRow(place, label, widgets[name])
        return widgets

    def optionWidget(self, name: str) -> Any:
        """The widget that suits an option, bound to it."""
        declared = declaredAs(name)
        assert declared is not None
        if declared.kind is tuple:
            widget = self._pairWidget(name, _(declared.tip))
        elif declared.choices is not None or (declared.kind is bool and declared.recommended):
            widget = qt.QComboBox()
            widget.setSizeAdjustPolicy(qt.QComboBox.AdjustToMinimumContentsLengthWithIcon)
            widget.setMinimumContentsLength(8)  # long words do not widen the panel
            words: Mapping[Any, str] = declared.choices or {True: _("Yes"), False: _("No")}
            start = [(asRecommended(), None)] if declared.recommended else []
            self.bindChoice(widget, name, start + [(_(text) or str(value), value) for value, text in words.items()])
        elif declared.kind is bool:
            widget = qt.QCheckBox()
            self.bind("check", widget, name)
        elif declared.kind is str:
            widget = qt.QLineEdit()
            self.bind("text", widget, name)
        else:
            widget = self._numberWidget(name)
        widget.setToolTip(_(declared.tip))
        return widget

    def _numberWidget(self, name: str) -> Any:
        """A spin box; of an option that a model may recommend, one step below its range stands for None."""
        declared = declaredAs(name)
        assert declared is not None
        isWhole = declared.kind is int
        widget = qt.QSpinBox() if isWhole else qt.QDoubleSpinBox()
        low = declared.range.low if declared.range else -LARGEST
        high = min(LARGEST, declared.range.high) if declared.range else LARGEST
        step = declared.step
        if not isWhole:
            widget.setDecimals(2 if step < 0.1 else 1)
        lowest = low - step if declared.recommended else low
        number = int if isWhole else float
        widget.setMinimum(number(lowest))
        widget.setMaximum(number(high))
        widget.setSingleStep(number(step))
        if declared.unit:
            widget.setSuffix(f" {declared.unit}")
        kind = "spin" if isWhole else "double"
        if not declared.recommended:
            self.bind(kind, widget, name)
            return widget
        widget.setSpecialValueText(asRecommended())

        def shown(value: Any) -> Any:
            # the first step away from a recommendation leads to what is usual, not to the smallest number there is
            widget.setSingleStep(number(declared.fallback - lowest if value is None else step))
            return number(lowest) if value is None else value

        self.bind(kind, widget, name, shown, lambda value: None if value < low else value)
        return widget

    def _pairWidget(self, name: str, tip: str) -> Any:
        """A check box, which turns the limits on, and two numbers."""
        frame = qt.QWidget()
        row = qt.QHBoxLayout(frame)
        row.setContentsMargins(0, 0, 0, 0)
        check, first, last = qt.QCheckBox(_("from")), qt.QSpinBox(), qt.QSpinBox()
        for box in (first, last):
            box.setRange(-LARGEST, LARGEST)
        for part in (check, first, qt.QLabel(_("to")), last):
            part.setToolTip(tip)
            row.addWidget(part)
        row.addStretch(1)
        self.pairs[name] = (check, first, last)
        first.setValue(PAIR_START[0])
        last.setValue(PAIR_START[1])

        def store(*_: Any) -> None:
            self._store(name, (first.value, last.value) if check.checked else None)

        def show() -> None:
            pair = self._parameters.get(name)
            self._assign(check, "checked", pair is not None)
            if pair is not None:
                self._assign(first, "value", int(pair[0]))
                self._assign(last, "value", int(pair[1]))
            for box in (first, last):
                box.enabled = pair is not None

        check.connect("toggled(bool)", store)
        first.connect("valueChanged(int)", store)
        last.connect("valueChanged(int)", store)
        self._add(name, show)
        return frame

    # ---- both directions ------------------------------------------------------------------------------------------

    def show(self) -> None:
        """Brings every widget up to date."""
        self._onChanged("")

    def _add(self, name: str, show: Callable[[], None]) -> None:
        self._show[name] = show

    def _store(self, name: str, value: Any) -> None:
        if not self._isShowing and not self.isPaused:
            self._parameters.set(name, value)

    @staticmethod
    def _assign(widget: Any, attribute: str, value: Any) -> None:
        if getattr(widget, attribute) != value:  # a text that is being typed keeps its cursor
            setattr(widget, attribute, value)

    def _onChanged(self, name: str) -> None:
        previous, self._isShowing = self._isShowing, True
        try:
            for key, show in self._show.items():
                if name in ("", key):
                    show()
        finally:
            self._isShowing = previous


def _withShortcut(label: str, keys: set[str]) -> str:
    """The label with & before a letter that is no key of the section yet, better at the start of a word."""
    starts = [place for place in range(len(label)) if place == 0 or label[place - 1] == " "]
    for place in (*starts, *range(len(label))):
        key = label[place].lower()
        if key.isalpha() and key not in keys:
            keys.add(key)
            return f"{label[:place]}&{label[place:]}"
    return label


def asRecommended() -> str:
    return str(_("As the model recommends"))


def _same(value: Any) -> Any:
    return value
