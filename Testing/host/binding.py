"""The binding of Qt that the tests run on, chosen by the environment variable ``DESAM_TEST_QT``.

PyQt5 is Qt 5.15, as official builds of Slicer have it; PySide6, the default, is Qt 6, which Slicer is moving to. What
the two spell differently for the host stands here and nowhere else.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

NAME = os.environ.get("DESAM_TEST_QT") or "PySide6"

if TYPE_CHECKING or NAME == "PySide6":
    from PySide6 import QtCore, QtGui, QtWidgets
    from PySide6.QtCore import Property, Qt, Signal
    from PySide6.QtUiTools import QUiLoader

    if sys.version_info < (3, 12):
        # PySide6's wheels count on None, True and False being immortal, as they are from Python 3.12. In 3.11 each void
        # call takes one reference of None away, until the interpreter dies; so they get more than can ever be used up.
        for _constant in (None, True, False):
            ctypes.c_ssize_t.from_address(id(_constant)).value += 1 << 60

    class _Loader(QUiLoader):
        def __init__(self, find: Callable[[str], type]) -> None:
            super().__init__()
            self._find = find

        def createWidget(self, className: str, parent: Any = None, name: str = "") -> Any:
            widget = self._find(className)(parent)
            widget.setObjectName(name)
            return widget

    def loadForm(file: Any, find: Callable[[str], type]) -> Any:
        """The widget in a ``.ui`` file (an open QFile); ``find`` gives the class of a name."""
        return _Loader(find).load(file)

elif NAME == "PyQt5":
    import io
    import types
    from unittest import mock
    from xml.etree import ElementTree

    from PyQt5 import QtCore, QtGui, QtWidgets
    from PyQt5.QtCore import Qt
    from PyQt5.QtCore import pyqtProperty as Property
    from PyQt5.QtCore import pyqtSignal as Signal
    from PyQt5.uic.Loader.loader import DynamicUILoader

    def _objectName(self: Any) -> str:
        """Which uic calls; ``qt.py`` has made an attribute of it."""
        return str(QtCore.QObject.property(self, "objectName"))

    def loadForm(file: Any, find: Callable[[str], type]) -> Any:
        """The widget in a ``.ui`` file (an open QFile); ``find`` gives the class of a name."""
        form = ElementTree.fromstring(bytes(file.readAll()))
        for widget in form.iter("widget"):
            if not widget.get("class", "").startswith("Q"):  # uic calls setters, which the stand-ins do not have
                for each in widget.findall("property"):
                    each.set("stdset", "0")
        loader = DynamicUILoader("")
        loader.factory._modules.insert(0, types.SimpleNamespace(search=find))
        with mock.patch.object(QtCore.QObject, "objectName", _objectName):
            return loader.loadUi(io.BytesIO(ElementTree.tostring(form)), None, "")

else:
    raise ImportError(f"DESAM_TEST_QT is {NAME}; it can be PySide6 or PyQt5.")

__all__ = ["NAME", "Property", "Qt", "QtCore", "QtGui", "QtWidgets", "Signal", "loadForm"]
