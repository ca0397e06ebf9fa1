"""What is lost when a job is killed at any moment, when two run at once, and when the disk is full (Linux).

    python benchmarks/kills.py --output benchmarks/results/kills.md [--kills 30] [--pairs 10] [--sizes 10] [--seed 0]

Training, segmenting and downloading run on tiny data with the tests' stand-in for an encoder and for the arithmetic of
a training step, each in a process of its own. A kill is `kill -9` at a moment drawn at random from the time that an
undisturbed run takes. A full disk is a tmpfs of a part of the bytes that the job needs (root only; otherwise a limit on
the size of every file). Then the job is started again, and must end with what an undisturbed one gives. "Half" are
files under their final name that cannot be read, "lost" is work that was announced, or an older result, and is gone;
"mixed" are results other than the undisturbed one's; "unclear" are ends without a sentence on what to do; "left" are
files that nobody asked for after the new start.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import http.server
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from desam_cli import app
from DeSAMSegmentLib import files
from DeSAMSegmentLib.data.cases import Case
from DeSAMSegmentLib.data.reading import read_volume
from DeSAMSegmentLib.data.writing import write_labelmap
from DeSAMSegmentLib.engine.events import EpochDone
from DeSAMSegmentLib.engine.options import TrainOptions
from DeSAMSegmentLib.engine.runtime.loading import DeSAM
from DeSAMSegmentLib.engine.runtime.session import Session
from DeSAMSegmentLib.engine.train.run_folder import RunFolder, read_config
from DeSAMSegmentLib.engine.train.step import Batch, Learner
from DeSAMSegmentLib.engine.train.train import train
from DeSAMSegmentLib.errors import DeSAMError
from DeSAMSegmentLib.store import download, weights

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Testing"))
from standin import ball_volume, stand_in_encoder

FORK = multiprocessing.get_context("fork")
OPTIONS = TrainOptions(
    name="small", mode="box", variant="pdmm_only", epochs=3, batch_size=4, styles=0, validation_fraction=0
)
BODY = np.random.default_rng(0).bytes(3_000_000)
FAULTS = ("half", "lost", "mixed", "unclear", "left")
SHAPE = (2, 40, 36)
CLEAN, UNCLEAR = 2, 3  # exit codes
ASIDE = 100_000  # bytes that a volume is written with beside the older one
ENOUGH = "200m"  # of a tmpfs


@dataclass(frozen=True)
class Job:
    """One kind of work in a folder.

    work: does it, going on where it was left; writes to a descriptor what it announces as done.
    prepare: what lies in the folder before. halves: names of final files that cannot be read.
    kept: how much of the work is there, comparable with what was announced. result: what it is in the end.
    expected: every file in the end.
    """

    name: str
    work: Callable[[Path, int], None]
    prepare: Callable[[Path], None]
    halves: Callable[[Path], list[str]]
    kept: Callable[[Path], int]
    result: Callable[[Path], str]
    expected: frozenset[str]


# ---- the three jobs -------------------------------------------------------------------------------------------------


def training() -> Job:
    volume, labels = ball_volume(shape=SHAPE)

    def work(folder: Path, told: int) -> None:
        resume = (folder / "run" / "state.pt").exists()
        for event in train([Case("ball", volume, labels)], {1: "ball"}, folder / "run", OPTIONS, resume=resume):
            if isinstance(event, EpochDone):
                os.write(told, b"x")

    def halves(folder: Path) -> list[str]:
        run = RunFolder(folder / "run")
        readers: dict[Path, Callable[[], object]] = {
            run.best: lambda: DeSAM.load(run.best),
            run.last: lambda: DeSAM.load(run.last),
            run.state: lambda: torch.load(run.state, weights_only=True),
            run.config: lambda: read_config(run.path),
            run.path / "metrics.csv": lambda: [float(row["seconds"]) for row in _rows(run)],
        }
        return [path.name for path, read in readers.items() if path.exists() and not _can(read)]

    def kept(folder: Path) -> int:
        try:
            return int(torch.load(folder / "run" / "state.pt", weights_only=True)["state"]["epoch"])
        except Exception:  # absent, or half
            return 0

    def result(folder: Path) -> str:
        run = RunFolder(folder / "run")
        rows = [{**row, "seconds": ""} for row in _rows(run)]
        tensors = DeSAM.load(run.last).tensors()
        return _digest(b"".join(tensor.numpy().tobytes() for tensor in tensors.values()) + repr(rows).encode())

    names = ("best.desam", "last.desam", "state.pt", "config.json", "metrics.csv", "curves.png", ".lock")
    return Job("train", work, lambda folder: None, halves, kept, result, frozenset(f"run/{name}" for name in names))


def segmenting(model: Path) -> Job:
    """An older result lies where the new one goes."""
    volume, labels = ball_volume(1, SHAPE)

    def work(folder: Path, told: int) -> None:
        arguments = ["segment", folder / "in.nii.gz", folder / "out.seg.nrrd", "--model", model, "--no-cache"]
        code = app.run([*map(str, arguments), "--confidence", "--device", "cpu"])
        if code:
            sys.exit(code)

    def prepare(folder: Path) -> None:
        write_labelmap(folder / "in.nii.gz", volume.array, volume)
        shutil.copyfile(Path(__file__), folder / "ball.confidence.csv")
        write_labelmap(folder / "out.seg.nrrd", labels, volume)

    def result(folder: Path) -> str:
        return _digest(read_volume(folder / "out.seg.nrrd").array.tobytes() + (folder / TABLE).read_bytes())

    def halves(folder: Path) -> list[str]:
        return [] if _can(lambda: read_volume(folder / "out.seg.nrrd")) else ["out.seg.nrrd"]

    TABLE = "in.confidence.csv"
    names = frozenset({"in.nii.gz", "out.seg.nrrd", TABLE, "ball.confidence.csv"})
    return Job("segment", work, prepare, halves, lambda folder: int((folder / "out.seg.nrrd").exists()), result, names)


def downloading(url: str) -> Job:
    info = replace(weights.WEIGHTS["vit_b"], url=url, sha256=_digest(BODY), bytes=len(BODY))
    target = Path("home", "weights", info.file)

    def work(folder: Path, told: int) -> None:
        os.environ["DESAM_HOME"] = str(folder / "home")
        weights.WEIGHTS["vit_b"], download.RESERVE, said = info, 0, 0

        def progress(done: int, total: int) -> None:
            nonlocal said
            os.write(told, b"x" * (done // MEGABYTE - said))
            said = done // MEGABYTE

        weights.download("vit_b", progress)

    def kept(folder: Path) -> int:
        """Whole megabytes, less the block that was not yet written out."""
        part = folder / f"{target}{download.PART}"
        return next((path.stat().st_size + BUFFER for path in (folder / target, part) if path.exists()), 0) // MEGABYTE

    def halves(folder: Path) -> list[str]:
        path = folder / target
        return [path.name] if path.exists() and path.read_bytes() != BODY else []

    note = f"{target}.*.sha256.json"
    expected = frozenset({str(target), note, f"home/.{info.file}.lock"})
    return Job(
        "download", work, lambda folder: None, halves, kept, lambda f: _digest((f / target).read_bytes()), expected
    )


MEGABYTE, BUFFER = 1_000_000, download.BLOCK


@contextmanager
def serving() -> Iterator[str]:
    """A slow server of BODY in a process of its own; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(BODY) - start))
            self.end_headers()
            for at in range(start, len(BODY), 50_000):
                with suppress(ConnectionError):
                    self.wfile.write(BODY[at : at + 50_000])
                time.sleep(0.01)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    process = FORK.Process(target=server.serve_forever, daemon=True)
    process.start()
    yield f"http://127.0.0.1:{server.server_port}/file"
    process.kill()
    process.join()


# ---- running, killing, starting again -------------------------------------------------------------------------------


def quick_step(learner: Learner, batch: Batch, rate: float, rng: np.random.Generator) -> np.ndarray:
    """In the place of ``Learner.step``: the optimizer moves all parameters by the run's random numbers."""
    for parameter in learner.parameters:
        parameter.grad = torch.full_like(parameter, rng.normal())
    learner.optimizer.step()
    return rng.random(4)


class Run:
    """A job in a process of its own. ``ended`` waits: exit code, and units of work that it had announced."""

    def __init__(self, job: Job, folder: Path, largest_file: int = 0) -> None:
        self.told, write = os.pipe()
        _scratch_of(folder).mkdir(exist_ok=True)
        self.process = FORK.Process(target=_child, args=(job, folder, write, largest_file))
        self.process.start()
        os.close(write)

    def ended(self) -> tuple[int, int]:
        self.process.join()
        said = b""
        while block := os.read(self.told, 1000):
            said += block
        os.close(self.told)
        return self.process.exitcode or 0, len(said)


def _child(job: Job, folder: Path, told: int, largest_file: int) -> None:
    log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    tempfile.tempdir = str(_scratch_of(folder))
    files._sweep_once.cache_clear()
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    try:
        job.work(folder, told)
    except DeSAMError as error:
        print(error, file=sys.stderr)
        os._exit(CLEAN)
    except SystemExit as end:
        os._exit(int(end.code or 0))
    except BaseException:
        traceback.print_exc()
        os._exit(UNCLEAR)
    os._exit(0)


def faults_after(job: Job, folder: Path, announced: int, right: str) -> Counter[str]:
    """What is wrong now, and after a new start."""
    found: Counter[str] = Counter()
    found["half"] += len(job.halves(folder))
    found["lost"] += job.kept(folder) < announced
    code, _ = Run(job, folder).ended()
    found["unclear"] += code != 0
    found["mixed"] += not (code or job.result(folder) == right)
    here = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    left = [path for path in here if not any(path.match(each) for each in job.expected)]
    left += _scratch_of(folder).iterdir()
    found["left"] += len(left)
    for path in left:
        print(f"    left: {path}")
    return found


@contextmanager
def prepared(job: Job, is_disk: bool = False) -> Iterator[Path]:
    """The folder of a job, with its scratch folder beside it; on request a small disk."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "work")
        folder.mkdir()
        if is_disk:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ENOUGH}", "tmpfs", folder], check=True)
        try:
            job.prepare(folder)
            yield folder
        finally:
            if is_disk:
                subprocess.run(["umount", folder], check=True)


def killed(job: Job, seconds: float, right: str, rng: np.random.Generator) -> Counter[str]:
    with prepared(job) as folder:
        run = Run(job, folder)
        run.process.join(rng.uniform(0, seconds))
        run.process.kill()
        code, announced = run.ended()
        found = faults_after(job, folder, announced, right)
        found["disturbed"] += code < 0
        return found


def together(job: Job, right: str, rng: np.random.Generator) -> Counter[str]:
    """Two start within a tenth of a second; one may be refused with a sentence, and at least one must succeed."""
    with prepared(job) as folder:
        first = Run(job, folder)
        time.sleep(rng.uniform(0, 0.1))
        second = Run(job, folder)
        codes = [first.ended()[0], second.ended()[0]]
        found = Counter(disturbed=codes.count(CLEAN), unclear=int(sorted(codes) not in ([0, 0], [0, CLEAN])))
        found["mixed"] += job.result(folder) != right
        return found + faults_after(job, folder, 0, right)


def filled(job: Job, size: int, right: str, is_root: bool) -> Counter[str]:
    """``size``: bytes that are free before the job."""
    with prepared(job, is_root) as folder:
        if is_root:
            used = shutil.disk_usage(folder).used
            subprocess.run(["mount", "-o", f"remount,size={used + size}", folder], check=True)
        code, announced = Run(job, folder, 0 if is_root else size).ended()
        found = Counter(disturbed=int(code != 0), unclear=int(code not in (0, CLEAN)))
        if is_root:
            subprocess.run(["mount", "-o", f"remount,size={ENOUGH}", folder], check=True)
        return found + faults_after(job, folder, announced, right)


# ---- helpers --------------------------------------------------------------------------------------------------------


def _scratch_of(folder: Path) -> Path:
    return folder.with_name("scratch-of-" + folder.name)


def _rows(run: RunFolder) -> list[dict[str, str]]:
    return list(csv.DictReader((run.path / "metrics.csv").open()))


def _can(read: Callable[[], object]) -> bool:
    try:
        read()
    except Exception:
        return False
    return True


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


LOG = Path(tempfile.gettempdir(), f"desam-kills-{os.getpid()}.log")


def undisturbed(job: Job, folder: Path) -> tuple[float, str, int]:
    """Seconds, result, and about how many bytes it needs on disk."""
    job.prepare(folder)
    begun = time.monotonic()
    code, _ = Run(job, folder).ended()
    if code:
        raise SystemExit(f"{job.name} fails undisturbed:\n{LOG.read_text()}")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return time.monotonic() - begun, job.result(folder), size + ASIDE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, number in (("kills", 30), ("pairs", 10), ("sizes", 10), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    Session.begin = lambda session, backbone: setattr(session, "_encoder", ENCODER) or ENCODER  # type: ignore
    Learner.step = quick_step  # type: ignore
    is_root = os.geteuid() == 0
    disk = "a tmpfs" if is_root else "a limit on the size of files"
    lines = [f"| job | disturbed by | times | stopped | {' | '.join(FAULTS)} |", "|---" * (4 + len(FAULTS)) + "|"]

    def row(job: Job, what: str, found: list[Counter[str]]) -> None:
        total = sum(found, Counter())
        cells = (job.name, what, len(found), total["disturbed"], *(total[fault] for fault in FAULTS))
        lines.append(f"| {' | '.join(map(str, cells))} |")
        print(lines[-1], flush=True)

    with tempfile.TemporaryDirectory() as name, serving() as url:
        os.environ["DESAM_HOME"] = str(Path(name, "home"))
        folders = [Path(name, str(number)) for number in range(3)]
        for folder in folders:
            folder.mkdir()
        jobs = (training, lambda: segmenting(folders[0] / "run" / "last.desam"), lambda: downloading(url))
        for make, folder in zip(jobs, folders, strict=True):
            job, rng = make(), np.random.default_rng(options.seed)
            with prepared(job) as other, open(os.devnull, "w") as told, redirect_stdout(told), redirect_stderr(told):
                job.work(other, told.fileno())  # what is imported late is imported now
            seconds, right, needed = undisturbed(job, folder)
            print(f"{job.name}: {seconds:.1f} s and {needed / 1e6:.1f} MB undisturbed", flush=True)
            row(job, "`kill -9`", [killed(job, seconds, right, rng) for _ in range(options.kills)])
            row(job, "a second one", [together(job, right, rng) for _ in range(options.pairs)])
            parts = (np.arange(options.sizes) + 0.5) / options.sizes
            row(job, f"a full disk ({disk})", [filled(job, int(each * needed), right, is_root) for each in parts])
    if options.output:
        title = f"# Jobs disturbed at random (`benchmarks/kills.py`, seed {options.seed})"
        options.output.write_text("\n".join([title, "", *lines]) + "\n")
    LOG.unlink()


ENCODER = stand_in_encoder()

if __name__ == "__main__":
    main()
