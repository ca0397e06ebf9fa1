"""A tree of volumes in one call, against one call per volume: time, memory, and what a kill costs.

    python benchmarks/archive.py [--cases 16] [--only calls kills dicom] [--output benchmarks/results/archive.md]

The model is an untrained U-Net without an encoder, so that what is measured is mostly everything else: starting,
reading, writing, the manifest, sharing the work. Every line begins with an empty folder, but for the resumed ones.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import psutil

SECTIONS = {"calls": "## Calls", "kills": "## 200 small volumes under kill -9", "dicom": "## A DICOM tree"}
SHAPE = (20, 256, 256)  # K, J, I of each volume
ONE_CALL_EACH = 4  # volumes that the baseline is timed on: its time is a multiple of one volume's
ABOUT = (
    "An untrained U-Net, no encoder. Where a call resumes, volumes that are only verified count as well. With other "
    "jobs on the machine (see the load) lines differ by chance too, those of two processes most."
)
HEAD = ("Calls", "Seconds", "Volumes per minute", "Against one call each", "Memory, MB", "Written again")


def make_model(path: Path) -> Path:
    """A model without an encoder, untrained; the tests use it too."""
    import desam_research  # noqa: F401  # which registers the U-Net
    import torch
    from DeSAMSegmentLib.engine.runtime.loading import DeSAM
    from DeSAMSegmentLib.model.config import DeSAMConfig
    from DeSAMSegmentLib.model.registry import BACKBONES
    from DeSAMSegmentLib.store.card import LabelInfo, ModelCard

    torch.manual_seed(0)
    spec = BACKBONES["pixels"]
    config = DeSAMConfig(backbone=spec.id, input_size=spec.input_size, level_widths=spec.level_widths, variant="unet")
    slices = {"axis": "acquired", "intensity": "percentile"}
    labels = (LabelInfo(1, "blob", (200, 80, 60)),)
    card = ModelCard("quick", labels, spec.id, architecture=config.to_dict(), slices=slices, inference={"mode": "box"})
    DeSAM(config).save(path, card)
    return path


def make_tree(root: Path, cases: int) -> list[Path]:
    """Volumes of noise, five to a folder."""
    import SimpleITK as sitk

    paths = [root / f"patient{k // 5}" / f"{k}.nii.gz" for k in range(cases)]
    for k, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(k).normal(100, 20, SHAPE).astype(np.int16)
        sitk.WriteImage(sitk.GetImageFromArray(noise), str(path))
    return paths


def start(source: Path, out: Path, *options: str, model: Path) -> psutil.Popen:
    """A call of ``desam segment``."""
    command = [sys.executable, "-m", "desam_cli", "segment", str(source), str(out), "-m", str(model), "--no-cache"]
    return psutil.Popen([*command, "--device", "cpu", *options], stdout=subprocess.DEVNULL)


def watch(*processes: psutil.Popen) -> int:
    """Waits; returns the highest memory in MB of the processes and their children together.

    Raises:
      SystemExit: when one of them failed.
    """
    peak = 0
    while any(each.poll() is None for each in processes):
        now = 0
        for each in processes:
            try:
                now += sum(one.memory_info().rss for one in (each, *each.children(recursive=True)))
            except psutil.Error:
                continue
        peak = max(peak, now)
        time.sleep(0.2)
    if any(each.returncode for each in processes):
        sys.exit("A call failed: see above.")
    return peak // 2**20


def again(out: Path) -> int:
    """How many outputs were written more than once."""
    lines = [line for path in out.glob("manifest*.jsonl") for line in path.read_text().splitlines()]
    return sum(n - 1 for n in Counter(json.loads(line)["output"] for line in lines if line.endswith("}")).values())


def kill_half_way(root: Path, out: Path, model: Path, cases: int) -> None:
    process = start(root, out, "--recursive", model=model)
    while process.poll() is None and len(list(out.rglob("*.seg.nrrd"))) < cases // 2:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
    process.wait()


def calls(folder: Path, model: Path, cases: int) -> list[str]:
    """The section of one call each, one for all, parts and workers."""
    paths = make_tree(folder / "in", cases)
    root, lines = folder / "in", list[str]()

    def line(name: str, seconds: float, memory: int, out: Path | None = None) -> None:
        values = (name, f"{seconds:.0f}", f"{60 * cases / seconds:.0f}", f"{each / seconds:.1f}", str(memory))
        lines.append("| " + " | ".join([*values, str(again(out)) if out else ""]) + " |")
        print(lines[-1], flush=True)

    def timed(name: str, out: Path, *calls: tuple[str, ...]) -> None:
        begun = time.perf_counter()
        memory = watch(*(start(root, out, "--recursive", *options, model=model) for options in calls))
        written = len(list(out.rglob("*.seg.nrrd")))
        assert written == cases, f"{written} of {cases} written"
        line(name, time.perf_counter() - begun, memory, out)

    begun = time.perf_counter()
    memory = max(
        watch(start(path, folder / "one" / f"{path.name}.seg.nrrd", model=model)) for path in paths[:ONE_CALL_EACH]
    )
    each = (time.perf_counter() - begun) * cases / ONE_CALL_EACH
    line(f"one for each volume ({ONE_CALL_EACH} timed)", each, memory)
    timed("`--recursive`", folder / "all", ())
    timed("`--resume`, all finished: verified", folder / "all", ("--resume",))
    timed("`--part 1/2` and `--part 2/2` at once", folder / "parts", ("--part", "1/2"), ("--part", "2/2"))
    timed("`--workers 2`", folder / "dask", ("--workers", "2"))
    kill_half_way(root, folder / "killed", model, cases)
    timed("`--resume` after a SIGKILL at half", folder / "killed", ("--resume",))
    about = f"{cases} volumes of {' x '.join(map(str, SHAPE[::-1]))}. {ABOUT}"
    return [about, "", "| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|", *lines]


def main() -> None:
    import archive_trials
    from DeSAMSegmentLib.files import write_text

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=16, help="of the calls; the kills take 200 small ones")
    parser.add_argument(
        "--only", nargs="+", default=list(SECTIONS), choices=SECTIONS, help="the other sections stay as they are"
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "archive.md")
    arguments = parser.parse_args()
    text = arguments.output.read_text() if arguments.output.exists() else ""
    before = [f"## {section}" for section in text.split("\n## ")[1:]]
    found = {part: each for part, title in SECTIONS.items() for each in before if each.startswith(title)}
    for part in arguments.only:
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            model = make_model(folder / "quick.desam")
            begin = partial(start, model=model)
            if part == "calls":
                lines = calls(folder, model, arguments.cases)
            else:
                lines = (archive_trials.under_kills if part == "kills" else archive_trials.dicom_tree)(folder, begin)
        about = f"{os.cpu_count()} cores, load before the start {load:.1f}."
        found[part] = "\n".join([SECTIONS[part], "", about, *lines]) + "\n"
    head = "# A whole archive\n\n    python benchmarks/archive.py\n\n"
    write_text(arguments.output, head + "\n".join(found[part] for part in SECTIONS if part in found))


if __name__ == "__main__":
    main()
