"""Features on disk: bytes, write and read times per slice, and what each codec costs in Dice.

    python benchmarks/features.py                                     real lite_medsam features, and the ViT-H shape
    python benchmarks/features.py --model M.desam --dataset FOLDER    also the Dice of a trained model per codec

Compared are the published way (numpy.savez_compressed of float32) and the cache's codecs. Times are medians of warm
reads; "used" is a read plus all values as float32 arrays.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "DeSAMSegment"))

from DeSAMSegmentLib.data.feature_cache import CODECS, FeatureCache, StoredFeatures
from DeSAMSegmentLib.data.reading import read_volume
from DeSAMSegmentLib.data.slices import Slices, SliceSpec
from DeSAMSegmentLib.engine.runtime import features as runtime
from DeSAMSegmentLib.engine.runtime.session import Session
from DeSAMSegmentLib.model.types import Features

SHAPES = {"level0": (1280, 64, 64), "level1": (1280, 64, 64), "level2": (1280, 64, 64), "neck": (256, 64, 64)}
Arrays = dict[str, np.ndarray]


def vit_h() -> Arrays:
    """Random features of ViT-H's shape (compress as badly as real ones)."""
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in SHAPES.items()}


def lite_medsam() -> Arrays:
    """Features of the middle slice of the MNI152 head inside the nilearn wheel."""
    spec = find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise SystemExit("Install nilearn for its MNI152 volume.")
    volume = read_volume(next(Path(spec.origin).parent.glob("datasets/data/mni_icbm152_t1_*.nii.gz")))
    slices = Slices(volume, SliceSpec.for_volume(volume))
    features = Session("cpu").begin("lite_medsam").encode(slices.image(len(slices) // 2)[None])
    named = dict(zip(runtime.LEVELS, features.levels, strict=True)) | {"neck": features.neck}
    return {name: tensor[0].float().numpy() for name, tensor in named.items()}


def median_ms(job: Callable[[], object], repeats: int) -> float:
    job()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def published(arrays: Arrays, folder: Path, repeats: int) -> dict[str, float]:
    """One compressed npz per slice, inflated for every use."""
    path = folder / "published.npz"

    def read() -> Arrays:
        with np.load(path) as file:
            return {name: file[name] for name in file}

    write = median_ms(lambda: np.savez_compressed(path, allow_pickle=True, **arrays), max(1, repeats // 5))
    used = median_ms(read, repeats)
    return {"megabytes": path.stat().st_size / 1e6, "write_ms": write, "read_ms": used, "used_ms": used, "error": 0.0}


def cached(arrays: Arrays, folder: Path, codec: str, repeats: int) -> dict[str, float]:
    """As the product does it: quantised in torch, and widened there when they are used."""
    cache = FeatureCache(folder / codec, codec=codec)
    named = {name: torch.from_numpy(array)[None] for name, array in arrays.items()}
    features = Features([named[name] for name in runtime.LEVELS], named["neck"])

    def read() -> StoredFeatures:
        stored = cache.get("slice")
        assert stored is not None
        return stored

    def used() -> Features:
        return runtime.to_features(read(), torch.device("cpu"))

    write = median_ms(lambda: cache.put("slice", runtime.to_stored(runtime.quantise(features, codec))), repeats)
    pairs = zip((*used().levels, used().neck), (*features.levels, features.neck), strict=True)
    square = sum(float(((back - given) ** 2).sum()) for back, given in pairs)
    return {
        "megabytes": cache.size_bytes() / 1e6,
        "write_ms": write,
        "read_ms": median_ms(read, repeats),
        "used_ms": median_ms(used, repeats),
        "error": (square / sum(float((a**2).sum()) for a in arrays.values())) ** 0.5,
    }


def storage(repeats: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for title, make in (("lite_medsam, MNI152", lite_medsam), ("ViT-H shape, random", vit_h)):
        arrays = make()
        with tempfile.TemporaryDirectory() as folder:
            baseline = published(arrays, Path(folder), repeats)
            rows.append({"features": title, "codec": "float32 npz (published)", **baseline})
            for codec in CODECS:
                rows.append({"features": title, "codec": codec, **cached(arrays, Path(folder), codec, repeats)})
        for row in rows[-len(CODECS) - 1 :]:
            row["times_faster"] = baseline["read_ms"] / row["read_ms"]
    return rows


def dice_per_codec(model: str, dataset: str, match: str, slices: int) -> list[dict[str, Any]]:
    """Mean 3-D Dice with features that went through each codec, over the middle slices (0: all of them).

    "float32" is what the encoder says, never quantised.
    """
    from DeSAMSegmentLib.data.cases import load_case, read_dataset
    from DeSAMSegmentLib.engine.events import Finished
    from DeSAMSegmentLib.engine.options import SegmentOptions
    from DeSAMSegmentLib.engine.segment.segment import segment

    session = Session()
    loaded = session.model(model)
    values = [label.value for label in loaded.card.labels]
    cases = [case for case in read_dataset(dataset).cases if re.search(match, case.name)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for codec in ("float32", *CODECS):
            session.cache = FeatureCache(Path(folder) / codec, codec=codec) if codec in CODECS else None
            scores = []
            with never_quantised() if session.cache is None else nullcontext():
                for case in cases:
                    volume, ground_truth = load_case(case)
                    assert ground_truth is not None
                    chosen = middle(Slices(volume, SliceSpec.from_dict(loaded.card.slices)), slices)
                    options = SegmentOptions(slice_range=(chosen[0], chosen[-1]))
                    events = segment(volume, loaded, options, session)
                    result = next(event.result for event in events if isinstance(event, Finished))
                    ours, theirs = (labels.take(chosen, result.axis) for labels in (result.labels, ground_truth.array))
                    scores += [dice_of(ours == value, theirs == value) for value in values]
            rows.append({"codec": codec, "cases": len(cases), "dice": float(np.mean(scores))})
    return rows


def never_quantised() -> Any:
    """While it lasts, features go on as the encoder gave them."""
    return patch.multiple(runtime, quantise=lambda features, codec: features, widened=lambda features: features)


def dice_of(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * int(np.count_nonzero(a & b)) / max(1, int(np.count_nonzero(a)) + int(np.count_nonzero(b)))


def middle(slices: Slices, count: int) -> list[int]:
    """The array positions of the middle slices."""
    count = min(count or len(slices), len(slices))
    first = (len(slices) - count) // 2
    return list(range(first, first + count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--model", help="a trained .desam file or a model of the library")
    parser.add_argument("--dataset", help="an nnU-Net raw folder")
    parser.add_argument("--cases", default="", help="a regular expression for the names of the cases to segment")
    parser.add_argument("--slices", type=int, default=0, help="only so many in the middle of each volume")
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    options = parser.parse_args()

    rows = storage(options.repeats)
    print(f"{os.cpu_count()} CPU cores, numpy {np.__version__}, medians of {options.repeats} warm runs\n")
    print("| features | codec | MB/slice | write ms | read ms | as float32 ms | read vs published | rms error |")
    print("|---|---|---|---|---|---|---|---|")
    for r in rows:
        print(
            f"| {r['features']} | {r['codec']} | {r['megabytes']:.1f} | {r['write_ms']:.0f} | {r['read_ms']:.2f} "
            f"| {r['used_ms']:.1f} | {r['times_faster']:.0f} x | {r['error']:.1e} |"
        )
    dice = []
    if options.model and options.dataset:
        dice = dice_per_codec(options.model, options.dataset, options.cases, options.slices)
        print("\n| codec | cases | Dice |\n|---|---|---|")
        for r in dice:
            print(f"| {r['codec']} | {r['cases']} | {r['dice']:.5f} |")
    if options.output:
        options.output.write_text(json.dumps({"storage": rows, "dice": dice}, indent=1) + "\n")


if __name__ == "__main__":
    main()
