"""The module ``qt`` as Slicer's Python sees it.

Slicer reaches Qt through PythonQt; PyQt5 and PySide6 (``binding.py``) are other bindings of the same library. What
PythonQt does differently, this facade does as well:

- Every Q_PROPERTY is an attribute: ``button.text``, and ``button.text()`` fails. Nothing else can be assigned.
- ``connect("clicked(bool)", slot)`` names a signal with its arguments; the slot gets those that it takes.
- ``QtCore``, ``QtGui`` and ``QtWidgets`` are one namespace; dialogs' static functions return one value.

A ``.ui`` file names CTK and MRML widgets; ``register`` tells the loader which Python class stands in for each.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .binding import Property, QtCore, QtGui, QtWidgets, loadForm

_STATIC_WINS = {("QTimer", "singleShot")}  # a static function hides the property of that name, in Slicer too
# Qt itself asks Python for these: as attributes they would ask back
_VIRTUAL = ("sizeHint", "minimumSizeHint")
_VIRTUAL_OF = {("QProgressBar", "text")}
_MADE_OTHERWISE = ("Signal", "Slot", "Property", "pyqtSignal", "pyqtSlot", "pyqtProperty")  # of Python, not of Qt
_standIns: dict[str, type] = {}

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...


def _attribute(name: str) -> property:
    def read(self: QtCore.QObject) -> Any:
        return QtCore.QObject.property(self, name)

    def write(self: QtCore.QObject, value: Any) -> None:
        if not QtCore.QObject.setProperty(self, name, value):
            raise AttributeError(f"{type(self).__name__}.{name} cannot be set to {value!r}")

    return property(read, write)


def _checkAssignment(self: QtCore.QObject, name: str) -> None:
    """Only properties; the stand-ins, which are C++ in Slicer, also keep what begins with an underscore."""
    isProperty = isinstance(inspect.getattr_static(type(self), name, None), (property, Property))
    isOwn = name.startswith("_") and type(self).__module__.startswith("host.")
    if not (isProperty or isOwn or QUiLoader.isLoading):
        raise AttributeError(f"{type(self).__name__} has no property {name} that could be assigned")


def _connect(self: QtCore.QObject, signal: str, slot: Callable[..., Any]) -> bool:
    """``button.connect("clicked(bool)", slot)``: in PythonQt, the one way to name a signal that has overloads."""
    meta = QtCore.QObject.metaObject(self)
    signature = bytes(QtCore.QMetaObject.normalizedSignature(signal).data()).decode()
    name, _, rest = signature.rstrip(")").partition("(")
    arguments = tuple(filter(None, rest.split(",")))
    bound: Any = getattr(self, name, None)
    if signature not in getattr(self, "SIGNALS", ()):  # whose arguments are no types of Qt
        if meta.indexOfSignal(signature) < 0:
            raise AttributeError(f"{meta.className()} has no signal {signal}")
        bound = bound[arguments] if arguments else bound
    count = min(len(arguments), _argumentsOf(slot))
    bound.connect(lambda *given: slot(*given[:count]))
    return True


def _argumentsOf(slot: Callable[..., Any]) -> int:
    """How many arguments PythonQt would pass at most: to a Python function, as many as it has."""
    code = getattr(slot, "__code__", None)
    if code is None or code.co_flags & inspect.CO_VARARGS:
        return 99
    return int(code.co_argcount) - isinstance(slot, types.MethodType)


def _behaveAsPythonQt(cls: type) -> None:
    meta = cls.staticMetaObject
    for index in range(meta.propertyOffset(), meta.propertyCount()):
        name = meta.property(index).name()
        if (cls.__name__, name) not in _STATIC_WINS | _VIRTUAL_OF and name not in _VIRTUAL:
            setattr(cls, name, _attribute(name))
    if hasattr(cls, "exec"):
        cls.exec_ = cls.exec


def _asInSlicer(cls: type) -> type:
    """A subclass with PythonQt's ``connect``: PySide6 lets nobody replace that method on its own classes."""

    def assign(self: QtCore.QObject, name: str, value: Any) -> None:
        _checkAssignment(self, name)
        super(made, self).__setattr__(name, value)

    isTrue = lambda self: True  # noqa: E731  PyQt5 counts what is inside
    made = type(cls.__name__, (cls,), {"connect": _connect, "__setattr__": assign, "__bool__": isTrue})
    return made


for _module in (QtCore, QtGui, QtWidgets):
    for _name in dir(_module):
        if _name.startswith("_") or _name in _MADE_OTHERWISE:
            continue
        globals()[_name] = _thing = getattr(_module, _name)
        if isinstance(_thing, type) and issubclass(_thing, QtCore.QObject) and hasattr(_thing, "staticMetaObject"):
            _behaveAsPythonQt(_thing)
            if "Application" not in _name:
                globals()[_name] = _asInSlicer(_thing)
QtCore.QObject.name = _attribute("objectName")


def _firstOf(method: Any) -> Any:
    """Both bindings return (value, filter or whether it was accepted), PythonQt the value."""
    return staticmethod(lambda *arguments: method(*arguments)[0])


for _dialog, _name in (
    ("QFileDialog", "getOpenFileName"),
    ("QFileDialog", "getSaveFileName"),
    ("QInputDialog", "getText"),
):
    setattr(globals()[_dialog], _name, _firstOf(getattr(getattr(QtWidgets, _dialog), _name)))


def register(*classes: type) -> None:
    """Lets ``.ui`` files create these classes under their own names."""
    for cls in classes:
        cls.connect = _connect  # a class with signals of its own gets PySide6's again
        _standIns[cls.__name__] = cls


def _find(className: str) -> Any:
    if className not in _standIns and className.startswith(("ctk", "qMRML", "qSlicer")):
        raise NotImplementedError(f"The test host has no stand-in for {className}.")
    return _standIns.get(className) or globals().get(className)


class QUiLoader:
    """Loads Slicer's ``.ui`` files: CTK and MRML widgets come from the stand-ins, the rest from this module."""

    isLoading = False  # children then become attributes, as PythonQt has them

    def load(self, file: Any) -> Any:
        QUiLoader.isLoading = True
        try:
            return loadForm(file, _find)
        finally:
            QUiLoader.isLoading = False
