"""``_``: Slicer's translation of a text, or the text itself in a Slicer from before translations (5.4)."""

from __future__ import annotations

try:
    from slicer.i18n import tr as _
except ImportError:

    def _(text: str) -> str:
        return text


__all__ = ["_"]
