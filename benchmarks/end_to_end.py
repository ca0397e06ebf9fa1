"""A whole volume and a training step on a GPU, against the published way in the same run.

    python benchmarks/end_to_end.py     on CUDA: 100 slices, ViT-H shape; writes results/end-to-end-cuda.*
    python benchmarks/end_to_end.py --device cpu    file to file on a CPU: see end_to_end_cpu.py

Weights are random, so the time is the product's and the masks mean nothing; the threshold is set so that every slice
has a mask to find. Times are of the wall clock, the device having finished. The encoder's share of what the device can
do is against the best product of two large matrices in the same type, measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "DeSAMSegment"), str(HERE.parent / "Testing"), str(HERE)]

import formula  # noqa: E402
import naive  # noqa: E402
from DeSAMSegmentLib.data.volume import Volume  # noqa: E402
from DeSAMSegmentLib.engine.options import SegmentOptions  # noqa: E402
from DeSAMSegmentLib.engine.runtime import device as devices  # noqa: E402
from DeSAMSegmentLib.engine.runtime import memory  # noqa: E402
from DeSAMSegmentLib.engine.runtime.device import half_type  # noqa: E402
from DeSAMSegmentLib.engine.runtime.loading import DeSAM, reference_card  # noqa: E402
from DeSAMSegmentLib.engine.runtime.session import Encoder, Session  # noqa: E402
from DeSAMSegmentLib.engine.segment.segment import Segmentation  # noqa: E402
from DeSAMSegmentLib.errors import BadInput  # noqa: E402
from DeSAMSegmentLib.model.backbones import build_backbone  # noqa: E402
from DeSAMSegmentLib.model.config import WIDTHS, DeSAMConfig  # noqa: E402
from DeSAMSegmentLib.model.reference import tensors_from_reference  # noqa: E402
from DeSAMSegmentLib.model.registry import BACKBONES  # noqa: E402
from DeSAMSegmentLib.model.types import Features, Prompts  # noqa: E402

RESULTS = HERE / "results"
NAIVE_SLICES = 2  # the published way is timed on so many and counted for all


class Rig:
    """Encoder, both decoders and their weights on one device."""

    def __init__(self, backbone: str, device: torch.device) -> None:
        spec = BACKBONES[backbone]
        width = "lite" if backbone.startswith("lite") else "paper"
        self.device, self.input_size, self.levels = device, spec.input_size, spec.level_widths
        config = DeSAMConfig(backbone, spec.input_size, spec.level_widths, width, squeeze_excitation="inert")
        tensors = formula.weights(formula.published_shapes(spec.level_widths, WIDTHS[width]))
        self.model = DeSAM(config)
        self.model.load_tensors(tensors_from_reference(config, tensors))
        self.model.card = reference_card("random", config)
        self.model.eval().to(device)
        torch.manual_seed(0)
        self.encoder = Encoder(build_backbone(backbone), "random", device)
        self.session = Session(encoder=self.encoder)
        self.naive = naive.NaiveDecoder(tensors, 9, spec.input_size).to(device)

    def features(self, slices: int) -> Features:
        generator = torch.Generator().manual_seed(0)
        shapes = [(slices, width, 64, 64) for width in (*self.levels, 256)]
        maps = [torch.randn(shape, generator=generator).to(self.device) for shape in shapes]
        return Features(maps[:3], maps[3])

    def seconds(self, work: Callable[[], Any]) -> float:
        """Wall clock of one call, everything on the device included."""
        self._wait()
        begun = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - begun

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak_bytes(self, work: Callable[[], Any]) -> int | None:
        """The most that PyTorch held on a GPU during a call; None elsewhere."""
        if self.device.type != "cuda":
            return None
        memory.release()
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        self._wait()
        return torch.cuda.max_memory_allocated(self.device)


def volume(slices: int) -> Volume:
    rng = np.random.default_rng(0)
    coarse = rng.normal(400, 150, (slices, 20, 20)).repeat(16, 1).repeat(16, 2)
    return Volume((coarse + rng.normal(0, 20, coarse.shape)).astype(np.int16), np.diag([0.6, 0.6, 3.0, 1.0]))


def segmenting(rig: Rig, slices: int, points: int) -> dict[str, Any]:
    """The product's own ``segment`` on a volume, no cache, against encoding and decoding as published."""
    options = SegmentOptions(mode="grid", points=points, iou_threshold=0.0)

    def ours(count: int) -> None:
        for _ in Segmentation(volume(count), rig.model, options, rig.session).events():
            pass

    images = np.random.default_rng(0).integers(0, 256, (NAIVE_SLICES, 256, 256), dtype=np.uint8)
    backbone, grid = rig.encoder.backbone, Prompts.grid(points, rig.input_size)
    assert grid.xy is not None
    xy = grid.xy.to(rig.device)

    @torch.no_grad()
    def published() -> None:
        for image in images:
            features = backbone(torch.from_numpy(image)[None].to(rig.device))
            with torch.device(rig.device):
                rig.naive.grid(features, xy)

    rig.naive.grid_side = points
    ours(min(slices, 4))  # the first call chooses kernels
    product = min(rig.seconds(lambda: ours(slices)) for _ in range(2))
    baseline = rig.seconds(published) / NAIVE_SLICES * slices
    return {"slices": slices, "points": points, "published_s": baseline, "ours_s": product, "ratio": baseline / product}


def encoding(rig: Rig) -> dict[str, Any]:
    """Slices per second of the encoder as the product runs it, and its share of the device's matrix product."""
    batch = rig.encoder.batch
    images = np.random.default_rng(0).integers(0, 256, (batch, 256, 256), dtype=np.uint8)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        rig.encoder.backbone(torch.from_numpy(images[:1]).to(rig.device))
    flops = counter.get_total_flops()
    rig.encoder.encode(images)
    seconds = min(rig.seconds(lambda: rig.encoder.encode(images)) for _ in range(3)) / batch
    kind = half_type(rig.device) if rig.device.type == "cuda" else torch.float32
    side = 8192 if rig.device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=rig.device, dtype=kind) for _ in range(2))
    best = 2 * side**3 / min(rig.seconds(lambda: a @ b) for _ in range(5))
    return {
        "batch": batch, "ms_per_slice": seconds * 1e3, "gflop_per_slice": flops / 1e9, "type": str(kind),
        "tflop_per_s": flops / seconds / 1e12, "matrix_tflop_per_s": best / 1e12, "share": flops / seconds / best,
    }  # fmt: skip


def training(rig: Rig, batch: int) -> dict[str, Any]:
    """Forward and backward of a batch, one point per slice, PRIM trained: seconds and the most memory held."""
    inputs, generator = rig.features(batch), torch.Generator().manual_seed(0)
    xy = (torch.rand(batch, 1, 2, generator=generator) * rig.input_size).to(rig.device)
    half = half_type(rig.device)
    rig.model.trainable(True)
    rig.encoder.move(torch.device("cpu"))  # training reads features from the cache: no encoder is on the device then

    def ours() -> None:
        rig.model.zero_grad(set_to_none=True)
        with torch.autocast(rig.device.type, dtype=half, enabled=rig.device.type == "cuda"):
            iou, logits = rig.model.train_decode(inputs, xy)
        (logits.float().square().mean() + iou.float().mean()).backward()

    def published() -> None:
        rig.naive.zero_grad(set_to_none=True)
        with torch.device(rig.device):
            iou, logits = rig.naive.train_decode(inputs, xy[:, 0])
        (logits.square().mean() + iou.mean()).backward()

    found: dict[str, Any] = {"batch": batch}
    for side, step in (("published", published), ("ours", ours)):
        rig.model.zero_grad(set_to_none=True)  # the other side's gradients are not this side's memory
        rig.naive.zero_grad(set_to_none=True)
        step()
        found[f"{side}_s"] = min(rig.seconds(step) for _ in range(2))
        found[f"{side}_peak_bytes"] = rig.peak_bytes(step)
    return {**found, "ratio": found["published_s"] / found["ours_s"]}


def report(about: str, found: dict[str, dict[str, Any]]) -> str:
    whole, encoder, train = found["segmenting"], found["encoding"], found["training"]
    peaks = [train[f"{side}_peak_bytes"] for side in ("published", "ours")]
    held = "not measured on a CPU" if None in peaks else " and ".join(f"{peak / 1e9:.2f} GB" for peak in peaks)
    return f"""# A whole volume, end to end

{about}

| | published | here | ratio |
|---|---|---|---|
| {whole["slices"]} slices, {whole["points"]} x {whole["points"]} points | ~{whole["published_s"]:.3g} s | {whole["ours_s"]:.3g} s | **{whole["ratio"]:.3g}** |
| training step, {train["batch"]} slices x 1 point | {train["published_s"]:.3g} s | {train["ours_s"]:.3g} s | **{train["ratio"]:.3g}** |

- "~": the published way was timed on {NAIVE_SLICES} slices: float32, features copied per prompt, every mask decoded.
- Memory of the training step, published and here: {held} (the paper: 7.8 GB).
- Encoder: {encoder["ms_per_slice"]:.3g} ms a slice in batches of {encoder["batch"]}, {encoder["gflop_per_slice"]:.4g} GFLOP each: {encoder["tflop_per_s"]:.3g} TFLOP/s, {encoder["share"]:.0%} of the {encoder["matrix_tflop_per_s"]:.3g} that a large matrix product reaches here ({encoder["type"]}).
"""  # noqa: E501


def main() -> None:
    from end_to_end_cpu import PARTS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu")
    parser.add_argument("--backbone", default="vit_h", choices=[id for id in BACKBONES if "@" not in id])
    parser.add_argument("--slices", type=int, default=100)
    parser.add_argument("--points", type=int, default=9, help="grid points per side")
    parser.add_argument("--batch", type=int, default=8, help="of training")
    parser.add_argument("--rounds", type=int, default=3, help="on a CPU: of the growth of a slice's cost")
    parser.add_argument("--only", nargs="+", default=PARTS, choices=PARTS, help="on a CPU: these parts")
    parser.add_argument("--nnunet", type=Path, help="on a CPU: a Python with nnunetv2")
    parser.add_argument("--print-only", action="store_true", help="on a CPU: leave the results file as it is")
    options = parser.parse_args()
    if options.device == "cpu":
        import end_to_end_cpu

        end_to_end_cpu.main(options)
        return
    try:
        device = devices.choose(options.device)
    except BadInput as error:
        parser.error(str(error))
    rig = Rig(options.backbone, device)
    found = {
        "segmenting": segmenting(rig, options.slices, options.points),
        "encoding": encoding(rig),
        "training": training(rig, options.batch),
    }
    about = f"{devices.describe(device)}, torch {torch.__version__}, {options.backbone} shape, random weights"
    print(text := report(about, found))
    if device.type == "cuda":
        (RESULTS / "end-to-end-cuda.md").write_text(text)
        (RESULTS / "end-to-end-cuda.json").write_text(json.dumps({"about": about, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
