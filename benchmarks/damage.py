"""What a single changed byte does to every file that is read: a clear error, the right result, or worse.

    python benchmarks/damage.py [--changes 200] [--seed 0] [--output benchmarks/results/damage.md]

Each change sets one byte, drawn at random, to another value, drawn at random. "Clean" is one line that says what to do,
"right" the content as it was, "silent" other content and no word, "traceback" any other exception, "hang" more than
20 seconds. Formats without a checksum cannot notice a changed voxel; the table says which they are.
"""

from __future__ import annotations

import argparse
import json
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from DeSAMSegmentLib.data.cases import Case, read_dataset
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.data.reading import read_volume
from DeSAMSegmentLib.data.volume import Volume
from DeSAMSegmentLib.data.writing import write_labelmap
from DeSAMSegmentLib.engine.options import TrainOptions
from DeSAMSegmentLib.engine.runtime.loading import DeSAM
from DeSAMSegmentLib.engine.runtime.session import Session
from DeSAMSegmentLib.engine.train.run_folder import RunFolder
from DeSAMSegmentLib.engine.train.step import Learner
from DeSAMSegmentLib.engine.train.train import train
from DeSAMSegmentLib.errors import DeSAMError

OUTCOMES = ("clean", "right", "silent", "traceback", "hang")
LONGEST = 20  # seconds for reading one small file


@dataclass(frozen=True)
class Target:
    """A whole file and how it is read: to bytes, equal for equal content."""

    name: str
    path: Path
    read: Callable[[Path], bytes]
    checksum: str  # what notices a change; empty for nothing
    first: int = 0  # only bytes from here
    last: int | None = None  # up to here are changed


def targets(folder: Path, session: Session) -> list[Target]:
    """One small file of every format, made in ``folder``.

    Arguments:
      session: trains the model of one slice, for which it needs a cache and an encoder.
    """
    rng = np.random.default_rng(0)
    array = rng.integers(0, 1000, (4, 24, 20)).astype(np.int16)
    volume = Volume(array, np.diag([0.8, 0.9, 3.0, 1.0]), "small")
    labels = np.zeros(array.shape, np.uint8)
    labels[:, 6:18, 5:15] = 1
    for _ in train([Case("small", volume, labels)], {1: "organ"}, folder / "run", OPTIONS, session):
        pass
    run = RunFolder(folder / "run")
    learner = Learner(DeSAM.load(run.last), OPTIONS, session)
    header = 8 + int.from_bytes(run.last.read_bytes()[:8], "little")
    made = [
        Target(".desam, tensors", run.last, _model, "SHA-256", header),
        Target(".desam, header and card", run.last, _model, "SHA-256", 0, header),
        Target("state.pt", run.state, lambda path: _state(path, learner), "CRC-32 of every part"),
        Target("dataset.json", _dataset(folder / "set", volume, labels), _labels, ""),
    ]
    for suffix in (".nii.gz", ".nii", ".nrrd", ".mha"):
        path = folder / f"small{suffix}"
        write_labelmap(path, labels, volume)
        packed = {".nii.gz": "CRC-32 of the gzip", ".nrrd": "CRC-32, voxels", ".mha": "Adler-32, voxels"}
        made.append(Target(suffix, path, _volume, packed.get(suffix, "")))
    return made


OPTIONS = TrainOptions(name="small", mode="box", epochs=1, batch_size=2, styles=0, validation_fraction=0)


def _model(path: Path) -> bytes:
    model = DeSAM.load(path)
    return model.card.to_json().encode() + _bytes(model.tensors())


def _state(path: Path, learner: Learner) -> bytes:
    state = RunFolder(path.parent).restore(learner)
    kept = {str(number): parameter for number, parameter in enumerate(learner.parameters)}
    return repr(vars(state)).encode() + _bytes(kept) + repr(learner.optimizer.state_dict()).encode()


def _bytes(tensors: Mapping[str, torch.Tensor]) -> bytes:
    return b"".join(name.encode() + tensor.detach().cpu().numpy().tobytes() for name, tensor in tensors.items())


def _volume(path: Path) -> bytes:
    volume = read_volume(path)
    return volume.array.tobytes() + np.round(volume.ijk_to_ras, 4).tobytes() + str(volume.array.shape).encode()


def _dataset(folder: Path, volume: Volume, labels: np.ndarray) -> Path:
    write_labelmap(folder / "imagesTr" / "a_0000.nii.gz", labels, volume)
    write_labelmap(folder / "labelsTr" / "a.nii.gz", labels, volume)
    path = folder / "dataset.json"
    path.write_text(json.dumps({"labels": {"background": 0, "organ": 1}, "file_ending": ".nii.gz"}))
    return path


def _labels(path: Path) -> bytes:
    dataset = read_dataset(path.parent)
    return repr((dataset.labels, [case.name for case in dataset.cases])).encode()


def outcomes(target: Target, changes: int, seed: int) -> Iterator[tuple[str, str]]:
    """What each change did, and what was said; the file is whole again afterwards."""
    whole, right = target.path.read_bytes(), target.read(target.path)
    rng = np.random.default_rng([seed, len(whole)])
    end = len(whole) if target.last is None else target.last
    for _ in range(changes):
        changed = bytearray(whole)
        position = int(rng.integers(target.first, end))
        changed[position] = (changed[position] + int(rng.integers(1, 256))) % 256
        target.path.write_bytes(changed)
        try:
            with _at_most(LONGEST):
                found = target.read(target.path)
            yield ("right", "") if found == right else ("silent", f"byte {position}")
        except DeSAMError as error:
            yield ("clean", str(error)) if error.do and "\n" not in str(error) else ("traceback", str(error))
        except TimeoutError:
            yield "hang", f"byte {position}"
        except Exception as error:
            yield "traceback", f"byte {position}: {type(error).__name__}: {error}"
        finally:
            target.path.write_bytes(whole)


@contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in a block that lasts longer, where the system has alarms."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def ring(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    lines = [f"| file | checksum | {' | '.join(OUTCOMES)} |", "|---" * (len(OUTCOMES) + 2) + "|"]
    with tempfile.TemporaryDirectory() as scratch:
        session = Session("cpu", cache=FeatureCache(Path(scratch, "cache")))
        for target in targets(Path(scratch), session):
            said = list(outcomes(target, options.changes, options.seed))
            counts = Counter(outcome for outcome, _ in said)
            cells = (target.name, target.checksum or "none", *(str(counts[each]) for each in OUTCOMES))
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], flush=True)
            for what in sorted({text for outcome, text in said if outcome in ("traceback", "hang")})[:5]:
                print(f"    {what}")
    if options.output:
        title = f"# {options.changes} single-byte changes of each file (`benchmarks/damage.py`, seed {options.seed})"
        options.output.write_text("\n".join([title, "", *lines]) + "\n")


if __name__ == "__main__":
    main()
