"""Twenty volumes in one go from the panel, three of them broken, one over which the worker is killed.

    QT_QPA_PLATFORM=offscreen python benchmarks/queue_of_volumes.py --output benchmarks/results/queue.md

Twelve small volumes and three frames of the scene, five files; the panel runs headless (``Testing/host``), with its own
worker and the embedded encoder, and a model that was never trained.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Testing"))


def report(folder: Path) -> list[str]:
    """The table's lines."""
    os.environ["DESAM_HOME"] = str(folder / "home")
    import host

    host.start()
    from host.desk import Desk
    from host.models import writeModel
    from queue_of_twenty import KILLED, column, runTwenty

    writeModel("blobs")
    desk = Desk()
    desk.chooseModel("blobs")
    desk.segment.modeSelector.setCurrentIndex(2)
    begun = time.monotonic()
    items, workers = runTwenty(desk, folder)
    seconds = time.monotonic() - begun
    rows = ["| volume | state | what was written | what was said |", "|---|---|---|---|"]
    for number, (item, state) in enumerate(zip(items, column(desk, 1), strict=True)):
        found = item.result
        kept = "-" if found is None else found.name if isinstance(found, Path) else found.GetName()
        title = f"{item.title} (worker killed)" if number == KILLED else item.title
        rows.append(f"| {title} | {state} | {kept} | {' '.join(item.text.split())} |")
    said = f"{desk.segmentMany.ui.manyStatusLabel.text} {len(workers)} processes, {seconds:.0f} s, beside other jobs."
    desk.close()
    return [
        "# Twenty volumes in one go, three broken, one kill",
        f"Made by `benchmarks/queue_of_volumes.py`. {said}",
        "\n".join(rows),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    output = parser.parse_args().output
    with tempfile.TemporaryDirectory() as folder:
        output.write_text("\n\n".join(report(Path(folder))) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
