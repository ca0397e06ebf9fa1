"""The ``desam`` command: the engines from a shell. ``desam --help`` loads no torch."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code (``app.py`` lists them)."""
    from .app import run

    return run(arguments)
