"""Makes this folder's files from the full parity fixtures: small arrays whole, large ones sampled.

    python Testing/reference/make.py FULL

Every array ``name`` has a companion ``name.steps``, the distance of stored positions along each axis, and, where that
is not 1 throughout, ``name.shape``, the shape of the whole array. Steps over rows and columns are odd, so that the
samples meet every phase of the decoder's upsampling by factors of two.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
LARGE = 10_000  # bytes; smaller arrays are stored whole
STEPS = {  # by the kind of array, which its name ends with: channels, rows, columns
    "_logits": (1, 5, 5),
    "_mask_embedding": (1, 3, 3),
    "": (1, 3, 3),  # levels and necks of encoders, which the full fixtures sample already
}


def steps_of(name: str, array: np.ndarray) -> tuple[int, ...]:
    if array.nbytes < LARGE:
        return (1,) * array.ndim
    chosen = next(steps for kind, steps in STEPS.items() if name.endswith(kind))
    return (1,) * (array.ndim - 3) + chosen[-array.ndim :]


def sampled(array: np.ndarray, steps: tuple[int, ...]) -> np.ndarray:
    return array[tuple(slice(None, None, step) for step in steps)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("full", type=Path, help="the folder with the full fixtures")
    full: Path = parser.parse_args().full
    for path in sorted(full.glob("*.npz")):
        kept: dict[str, np.ndarray] = {}
        with np.load(path) as arrays:
            for name in arrays:
                steps = steps_of(name, arrays[name])
                kept[name], kept[f"{name}.steps"] = sampled(arrays[name], steps), np.array(steps)
                if max(steps) > 1:
                    kept[f"{name}.shape"] = np.array(arrays[name].shape)
        np.savez_compressed(HERE / path.name, allow_pickle=False, **kept)
    for path in sorted(full.glob("state_dict_*.json")):
        shutil.copyfile(path, HERE / path.name)


if __name__ == "__main__":
    main()
