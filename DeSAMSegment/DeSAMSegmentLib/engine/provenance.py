"""What a model card says about the program that made it."""

from __future__ import annotations

import platform
from datetime import datetime, timezone
from importlib import metadata

PACKAGES = ("desam-segment", "torch", "monai", "numpy", "SimpleITK")


def software() -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # inside Slicer the extension itself is not an installed distribution
    return versions


def utc_now() -> str:
    """Now, as ISO 8601 in UTC, to the second."""
    return datetime.now(timezone.utc).replace(microsecond=0).isoformat()
