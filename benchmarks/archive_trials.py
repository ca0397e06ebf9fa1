"""The trials of ``benchmarks/archive.py``: many small volumes under ``kill -9``, and a DICOM tree with bad series."""

from __future__ import annotations

import hashlib
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "Testing"))

PARTS = [("--part", f"{number}/4") for number in (1, 2, 3, 4)]
ABOUT_KILLS = (
    "Volumes of 36 x 40 x 1, untrained U-Net. The first two lines run without a kill. Parts: three rounds, in each all "
    "four are killed at random moments once 30 to 45 more are written, then they end by `--resume`; a kill between a "
    "file and its line in the manifest does that case again. dask: one of four workers is killed at a third."
)
HEAD_KILLS = (
    "Calls", "Seconds", "Volumes per minute", "Killed", "Files", "In the manifest", "Recorded twice", "Torn lines",
    "Half or not as recorded", "Strays",
)  # fmt: skip
ABOUT_DICOM = "30 series in 6 patients, in folders of their own or shared; the last five cannot be used."
HEAD_DICOM = ("Series", "Written", "What was said", "What to do")


def table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> list[str]:
    return ["| " + " | ".join(map(str, row)) + " |" for row in (head, ("---",) * len(head), *rows)]


def under_kills(folder: Path, start: Callable[..., psutil.Popen], cases: int = 200) -> list[str]:
    """The section of ``cases`` volumes by one process, four parts and dask. ``start(source, out, *options)``."""
    from conftest import blob, write_nifti

    root, rng, rows = folder / "in", random.Random(0), list[tuple[object, ...]]()
    for k in range(cases):
        write_nifti(root / f"p{k // 10}" / f"v{k}.nii.gz", blob(shape=(1, 40, 36), seed=k)[0])

    def trial(name: str, calls: Sequence[tuple[str, ...]], kill: Callable[[list[psutil.Popen], Path], int]) -> None:
        out, begun = folder / name.strip("`- ").replace("/", "-").replace(" ", ""), time.perf_counter()
        processes = [start(root, out, "--recursive", *options) for options in calls]
        while killed := kill(processes, out):
            processes = [start(root, out, "--recursive", "--resume", *options) for options in calls]
            deaths.append(killed)
        codes = [each.wait() for each in processes]
        assert not any(codes), f"{name} ended with {codes}"
        seconds = time.perf_counter() - begun
        rows.append((name, f"{seconds:.0f}", f"{60 * cases / seconds:.0f}", sum(deaths), *_state(out)))
        deaths.clear()
        print(rows[-1], flush=True)

    def parts_die(processes: list[psutil.Popen], out: Path) -> int:
        goal = _written(out) + rng.randint(30, 45) if len(deaths) < 3 else cases + 1
        while _written(out) < goal and any(each.poll() is None for each in processes):
            time.sleep(0.05)
        return sum(_killed(each, rng) for each in processes) if goal <= cases else 0

    def worker_dies(processes: list[psutil.Popen], out: Path) -> int:
        while _written(out) < cases // 3:
            time.sleep(0.05)
        workers = [each for each in processes[0].children() if "spawn_main" in " ".join(each.cmdline())]
        deaths.append(_killed(rng.choice(workers), rng))
        return 0

    deaths: list[int] = []
    trial("one process", [()], lambda *_: 0)
    trial("four `--part`", PARTS, lambda *_: 0)
    trial("four `--part`, killed", PARTS, parts_die)
    trial("`--workers 4`, killed", [("--workers", "4")], worker_dies)
    return [ABOUT_KILLS, "", *table(HEAD_KILLS, rows)]


def _written(out: Path) -> int:
    return len(list(out.rglob("*.seg.nrrd")))


def _killed(process: psutil.Process, rng: random.Random) -> int:
    """Kills after a moment; 0 where there was nothing left to kill."""
    time.sleep(1.5 * rng.random())
    if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
        return 0
    process.kill()
    process.wait()
    return 1


def _state(out: Path) -> tuple[int, ...]:
    """The columns of ``HEAD_KILLS`` from "Files" on."""
    from DeSAMSegmentLib.data.reading import read_labels

    records, torn, wrong = [], 0, 0
    for line in [line for path in out.glob("manifest*.jsonl") for line in path.read_text().splitlines()]:
        try:
            records.append(json.loads(line))
        except ValueError:
            torn += 1
    recorded = {each["output"]: each["output_digest"] for each in records}
    files = list(out.rglob("*.seg.nrrd"))
    for path in files:
        read_labels(path)  # or the trial ends
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        wrong += recorded.get(path.relative_to(out).as_posix()) != digest
    twice = sum(count > 1 for count in Counter(each["output"] for each in records).values())
    strays = [path for path in out.rglob(".*") if path.is_file() and path.suffix != ".lock"]
    return len(files), len(recorded), twice, torn, wrong, len(strays)


def dicom_tree(folder: Path, start: Callable[..., psutil.Popen]) -> list[str]:
    """The section of 30 series, of which five cannot be used."""
    import dicom_files

    def series(path: Path, number: int, **tags: Any) -> list[Path]:
        names: dict[str, Any] = {
            "SeriesNumber": number,
            "SeriesDescription": ("T2 tra", "T1 cor", "DWI b0")[number % 3],
        }
        uids = {"SeriesInstanceUID": f"1.2.3.{number}", "StudyInstanceUID": f"1.2.{number // 3}"}
        dicom_files.series(path, 4, prefix=f"s{number}_", **{**names, **uids, "PatientID": f"P{number // 6}", **tags})
        return sorted(path.glob(f"s{number}_*"))

    root, out = folder / "in", folder / "out"
    for k in range(1, 26):
        series(root / f"patient{k // 6}" / f"study{k // 3}" / (f"series{k}" if k % 2 else "all"), k)
    bad = root / "patient5"
    series(bad / "two slices at one place", 26, places=[0, 0, 3, 6])
    series(bad / "a gap", 27, places=[0, 3, 6, 60])
    for path in series(bad / "headers only", 28):
        path.write_bytes(path.read_bytes()[:200])
    series(bad / "colours", 29, PhotometricInterpretation="RGB")
    cut = series(bad / "a slice cut off", 30)[1]
    cut.write_bytes(cut.read_bytes()[:-40])
    code = start(root, out, "--recursive", "--slice-axis", "acquired").wait()
    records = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    good = [each for each in records if not each["error"]]
    rows: list[tuple[object, ...]] = [(f"{len(good)} others", _written(out), "", "")]
    for each in records:
        if each["error"] or each["note"]:
            said = (each["error"] or each["note"]).replace(str(root), "ROOT")
            rows.append((each["input"], "" if each["error"] else "yes", said, each["remedy"]))
    return [f"{ABOUT_DICOM} Exit code: {code}.", "", *table(HEAD_DICOM, rows)]
