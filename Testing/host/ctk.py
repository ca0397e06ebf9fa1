"""The CTK widgets that the panel uses, with CTK's names, properties and signals."""

from __future__ import annotations

from typing import Any

from . import qt
from .binding import Property, Qt, QtWidgets, Signal


class ctkCollapsibleButton(qt.QWidget):
    """A titled section: pressing the title hides or shows everything laid out inside."""

    contentsCollapsed = Signal(bool)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._collapsed = self._isChanging = False
        self._title: Any = None
        self._wanted: dict[Any, bool] = {}  # child to whether the module wants it shown
        self._title = qt.QToolButton(self)
        self._title.setToolButtonStyle(Qt.ToolButtonTextBesideIcon)
        self._title.setAutoRaise(False)
        self._title.setCheckable(True)
        self._title.setChecked(True)
        self._title.setSizePolicy(qt.QSizePolicy.Expanding, qt.QSizePolicy.Fixed)
        self._title.setArrowType(Qt.DownArrow)
        self._title.clicked.connect(lambda checked: self._setCollapsed(not checked))
        self._place()

    def _titleHeight(self) -> int:
        return self._title.sizeHint().height() + 4

    def _place(self) -> None:
        self._title.setGeometry(0, 0, self.size.width(), self._titleHeight())
        self.setContentsMargins(0, self._titleHeight(), 0, 0)
        self.setMaximumHeight(self._titleHeight() if self._collapsed else 16777215)

    def resizeEvent(self, event: Any) -> None:
        self._place()
        super().resizeEvent(event)

    def changeEvent(self, event: Any) -> None:
        if event.type() in (qt.QEvent.FontChange, qt.QEvent.StyleChange):
            self._place()
        super().changeEvent(event)

    def minimumSizeHint(self) -> Any:
        inner = self.layout().minimumSize() if self.layout() and not self._collapsed else qt.QSize(0, 0)
        return qt.QSize(max(inner.width(), 80), max(inner.height(), self._titleHeight()))

    def childEvent(self, event: Any) -> None:
        if event.type() == qt.QEvent.ChildAdded and event.child().isWidgetType() and hasattr(self, "_wanted"):
            event.child().installEventFilter(self)
        super().childEvent(event)

    def eventFilter(self, child: Any, event: Any) -> bool:
        """As in CTK: what the module shows or hides while collapsed takes effect when the section is opened."""
        isOurs = self._isChanging or child is self._title
        if event.type() in (qt.QEvent.ShowToParent, qt.QEvent.HideToParent) and not isOurs:
            self._wanted[child] = event.type() == qt.QEvent.ShowToParent
            if self._collapsed and self._wanted[child]:
                self._show(child, False)
        return False

    def _show(self, child: Any, isShown: bool) -> None:
        before, self._isChanging = self._isChanging, True
        child.setVisible(isShown)
        self._isChanging = before

    def _children(self) -> list[Any]:
        return [
            w for w in self.findChildren(QtWidgets.QWidget, options=Qt.FindDirectChildrenOnly) if w is not self._title
        ]

    def _setCollapsed(self, collapsed: bool) -> None:
        if bool(collapsed) == self._collapsed:
            return
        self._collapsed = bool(collapsed)
        self._title.setChecked(not self._collapsed)
        self._title.setArrowType(Qt.RightArrow if self._collapsed else Qt.DownArrow)
        for child in self._children():
            self._show(child, not self._collapsed and self._wanted.get(child, not child.isHidden() or self._collapsed))
        self._place()
        self.updateGeometry()
        self.contentsCollapsed.emit(self._collapsed)

    def setCollapsed(self, collapsed: bool) -> None:
        self._setCollapsed(collapsed)

    text = Property(str, lambda self: self._title.text, lambda self, text: self._title.setText(text))
    collapsed = Property(bool, lambda self: self._collapsed, _setCollapsed)
    flat = Property(bool, lambda self: False, lambda self, value: None)


class ctkPathLineEdit(qt.QWidget):
    """A line for a path with a browse button."""

    Files, Dirs = 1, 2  # QDir::Filter's words in CTK's numbers do not matter here
    currentPathChanged = Signal(str)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._nameFilters: list[str] = []
        self._filters, self._settingKey = 0, ""
        layout = qt.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._line, self._browse = qt.QLineEdit(self), qt.QToolButton(self)
        self._browse.setText("...")
        layout.addWidget(self._line)
        layout.addWidget(self._browse)
        self._line.textChanged.connect(self.currentPathChanged.emit)

    def setCurrentPath(self, path: str) -> None:
        self._line.setText(path)

    currentPath = Property(str, lambda self: self._line.text, setCurrentPath)
    filters = Property(int, lambda self: self._filters, lambda self, value: setattr(self, "_filters", value))
    nameFilters = Property(
        "QStringList", lambda self: self._nameFilters, lambda self, value: setattr(self, "_nameFilters", value)
    )
    settingKey = Property(str, lambda self: self._settingKey, lambda self, v: setattr(self, "_settingKey", v))


qt.register(ctkCollapsibleButton, ctkPathLineEdit)
