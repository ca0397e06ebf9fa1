"""The module ``qt`` as Slicer's Python sees it, over PySide6.

Slicer reaches Qt through PythonQt, PySide6 is another binding of the same library. Three differences matter to a
widget file, and this facade removes them: in PythonQt every Q_PROPERTY is an attribute (``button.text``, never
``button.text()``), ``QtCore``, ``QtGui`` and ``QtWidgets`` are one namespace, and ``exec_`` keeps its underscore.
A ``.ui`` file names CTK and MRML widgets; ``register`` tells the loader which Python class stands in for each.
"""

from __future__ import annotations

from typing import Any

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets
from PySide6.QtCore import *  # noqa: F403
from PySide6.QtGui import *  # noqa: F403
from PySide6.QtWidgets import *  # noqa: F403

_MODULES = (QtCore, QtGui, QtWidgets)
_STATIC_WINS = {("QTimer", "singleShot")}  # a static function hides the property of that name, in Slicer too
_standIns: dict[str, type] = {}


def _attribute(name: str) -> property:
    def read(self: QtCore.QObject) -> Any:
        return QtCore.QObject.property(self, name)

    def write(self: QtCore.QObject, value: Any) -> None:
        QtCore.QObject.setProperty(self, name, value)

    return property(read, write)


def _connect(self: QtCore.QObject, signal: str, slot: Any) -> Any:
    """``button.connect("clicked(bool)", slot)``, the older spelling that Slicer's templates use."""
    return getattr(self, signal.split("(")[0]).connect(slot)


def _disconnect(self: QtCore.QObject, signal: str, slot: Any) -> Any:
    return getattr(self, signal.split("(")[0]).disconnect(slot)


def _behaveAsPythonQt(cls: type) -> None:
    meta = cls.staticMetaObject
    for index in range(meta.propertyOffset(), meta.propertyCount()):
        name = meta.property(index).name()
        if (cls.__name__, name) not in _STATIC_WINS:
            setattr(cls, name, _attribute(name))
    cls.connect, cls.disconnect = _connect, _disconnect
    if hasattr(cls, "exec"):
        cls.exec_ = cls.exec


for _module in _MODULES:
    for _class in list(vars(_module).values()):
        if isinstance(_class, type) and issubclass(_class, QtCore.QObject) and hasattr(_class, "staticMetaObject"):
            _behaveAsPythonQt(_class)
QtCore.QObject.name = _attribute("objectName")


def register(*classes: type) -> None:
    """Lets ``.ui`` files create these classes under their own names."""
    _standIns.update({cls.__name__: cls for cls in classes})


class QUiLoader(QtUiTools.QUiLoader):
    """Loads Slicer's ``.ui`` files: CTK and MRML widgets come from the stand-ins."""

    def createWidget(self, className: str, parent: Any = None, name: str = "") -> Any:
        if className not in _standIns:
            if className.startswith(("ctk", "qMRML", "qSlicer")):
                raise NotImplementedError(f"The test host has no stand-in for {className}.")
            return super().createWidget(className, parent, name)
        widget = _standIns[className](parent)
        widget.setObjectName(name)
        return widget
