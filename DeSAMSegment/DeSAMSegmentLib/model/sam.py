"""The parts of the segment-anything package this project builds on, without torchvision.

``import segment_anything`` imports its predictor, which imports torchvision: gigabytes that nothing here
uses, and on a CPU build of torch often an import error. The network definitions in
``segment_anything.modeling`` need none of it, so when the plain import fails the package is entered by its
side door: an empty package object that only knows where the files lie. It is taken away again, so that other
code in this process sees the package as it found it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType


def _modeling() -> ModuleType:
    """The module segment_anything.modeling. Raises ImportError if the package is not installed."""
    try:
        return importlib.import_module("segment_anything.modeling")
    except (ImportError, RuntimeError, OSError):  # torchvision absent, or built for another torch
        spec = importlib.util.find_spec("segment_anything")
        if spec is None or spec.submodule_search_locations is None:
            raise
    package = ModuleType("segment_anything")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["segment_anything"] = package
    try:
        return importlib.import_module("segment_anything.modeling")
    finally:
        del sys.modules["segment_anything"]


_found = _modeling()
_decoder = sys.modules[_found.__name__ + ".mask_decoder"]

ImageEncoderViT = _found.ImageEncoderViT
MaskDecoder = _found.MaskDecoder
PromptEncoder = _found.PromptEncoder
TwoWayTransformer = _found.TwoWayTransformer
MLP = _decoder.MLP
