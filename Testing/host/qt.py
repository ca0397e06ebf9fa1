"""The module ``qt`` as Slicer's Python sees it, over PySide6.

Slicer reaches Qt through PythonQt, PySide6 is another binding of the same library. Three differences matter to a
widget file, and this facade removes them: in PythonQt every Q_PROPERTY is an attribute (``button.text``, never
``button.text()``), ``QtCore``, ``QtGui`` and ``QtWidgets`` are one namespace, and ``exec_`` keeps its underscore.
A ``.ui`` file names CTK and MRML widgets; ``register`` tells the loader which Python class stands in for each.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets
from PySide6.QtCore import *  # noqa: F403
from PySide6.QtGui import *  # noqa: F403
from PySide6.QtWidgets import *  # noqa: F403

if sys.version_info < (3, 12):
    # PySide6's wheels count on None, True and False being immortal, as they are from Python 3.12. In 3.11 each void
    # call takes one reference of None away, until the interpreter dies; so they get more than can ever be used up.
    for _constant in (None, True, False):
        ctypes.c_ssize_t.from_address(id(_constant)).value += 1 << 60

_MODULES = (QtCore, QtGui, QtWidgets)
_STATIC_WINS = {("QTimer", "singleShot")}  # a static function hides the property of that name, in Slicer too
# Qt itself asks Python for these: as attributes they would ask back
_VIRTUAL = ("sizeHint", "minimumSizeHint")
_VIRTUAL_OF = {("QProgressBar", "text")}
_standIns: dict[str, type] = {}


def _attribute(name: str) -> property:
    def read(self: QtCore.QObject) -> Any:
        return QtCore.QObject.property(self, name)

    def write(self: QtCore.QObject, value: Any) -> None:
        QtCore.QObject.setProperty(self, name, value)

    return property(read, write)


def _connect(self: QtCore.QObject, signal: str, slot: Any) -> Any:
    """``button.connect("clicked(bool)", slot)``: in PythonQt, the one way to name a signal that has overloads."""
    name = signal.split("(")[0]
    meta = QtCore.QObject.metaObject(self)
    signature = QtCore.QMetaObject.normalizedSignature(signal).data()
    isOwn = type(self).__module__.startswith("host.") and name in {key for t in type(self).__mro__ for key in vars(t)}
    if meta.indexOfSignal(bytes(signature).decode()) < 0 and not isOwn:
        raise AttributeError(f"{meta.className()} has no signal {signal}")
    overloads = {m.methodSignature().data() for m in map(meta.method, range(meta.methodCount())) if m.name() == name}
    bound = getattr(self, name)
    return (bound[_argumentTypes(signal)] if len(overloads) > 1 and not isOwn else bound).connect(slot)


def _argumentTypes(signal: str) -> Any:
    """Turns "clicked(bool)" into bool, as PySide6 selects an overload."""
    names = [name for name in signal.split("(")[1].rstrip(")").split(",") if name]
    known = {"int": int, "bool": bool, "double": float, "QString": str}
    types = tuple(known.get(name.strip(), name.strip()) for name in names)
    return types[0] if len(types) == 1 else types


def _behaveAsPythonQt(cls: type) -> None:
    meta = cls.staticMetaObject
    for index in range(meta.propertyOffset(), meta.propertyCount()):
        name = meta.property(index).name()
        if (cls.__name__, name) not in _STATIC_WINS | _VIRTUAL_OF and name not in _VIRTUAL:
            setattr(cls, name, _attribute(name))
    if hasattr(cls, "exec"):
        cls.exec_ = cls.exec


def _withConnect(cls: type) -> type:
    """A subclass with PythonQt's ``connect``: PySide6 lets nobody replace that method on its own classes."""
    return type(cls.__name__, (cls,), {"connect": _connect})


for _module in _MODULES:
    for _name, _class in list(vars(_module).items()):
        if isinstance(_class, type) and issubclass(_class, QtCore.QObject) and hasattr(_class, "staticMetaObject"):
            _behaveAsPythonQt(_class)
            if "Application" not in _name:
                globals()[_name] = _withConnect(_class)
QtCore.QObject.name = _attribute("objectName")


def _pathOnly(method: Any) -> Any:
    """PySide6 returns (path, filter), PythonQt the path."""
    return staticmethod(lambda *arguments: method(*arguments)[0])


QFileDialog.getOpenFileName = _pathOnly(QtWidgets.QFileDialog.getOpenFileName)  # noqa: F405
QFileDialog.getSaveFileName = _pathOnly(QtWidgets.QFileDialog.getSaveFileName)  # noqa: F405


QInputDialog.getText = _pathOnly(QtWidgets.QInputDialog.getText)  # noqa: F405


def register(*classes: type) -> None:
    """Lets ``.ui`` files create these classes under their own names."""
    for cls in classes:
        cls.connect = _connect
    _standIns.update({cls.__name__: cls for cls in classes})


class QUiLoader(QtUiTools.QUiLoader):
    """Loads Slicer's ``.ui`` files: CTK and MRML widgets come from the stand-ins, the rest from this module."""

    def createWidget(self, className: str, parent: Any = None, name: str = "") -> Any:
        if className not in _standIns and className.startswith(("ctk", "qMRML", "qSlicer")):
            raise NotImplementedError(f"The test host has no stand-in for {className}.")
        cls = _standIns.get(className) or globals()[className]
        widget = cls(parent)
        widget.setObjectName(name)
        return widget
