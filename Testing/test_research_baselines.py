"""The baselines are what they say: SAM's own decoder to the digit, and a U-Net that knows no prompt."""

from __future__ import annotations

import desam_research  # noqa: F401  (makes the baselines known)
import formula
import pytest
import torch
from DeSAMSegmentLib.engine.options import TrainOptions
from DeSAMSegmentLib.engine.runtime.session import sam_tensors
from DeSAMSegmentLib.model import sam
from DeSAMSegmentLib.model.backbones import build_backbone
from DeSAMSegmentLib.model.config import DeSAMConfig
from DeSAMSegmentLib.model.desam import DeSAM
from DeSAMSegmentLib.model.registry import BACKBONES
from DeSAMSegmentLib.model.types import Features, Prompts
from small_model import small, small_features

POINTS = torch.tensor([[100.0, 60.5], [30.0, 200.0], [128.0, 128.0]])
UNET = DeSAMConfig(variant="unet", backbone="pixels", level_widths=(1, 1, 1))


def lite_medsam_coupled(**changes) -> tuple[DeSAM, dict[str, torch.Tensor]]:
    tensors = sam_tensors("lite_medsam")
    spec = BACKBONES["lite_medsam"]
    config = DeSAMConfig(variant="coupled", level_widths=spec.level_widths, **changes)
    return DeSAM.from_sam(config, tensors).eval(), tensors


@pytest.mark.parametrize("prompts", [Prompts.points(POINTS), Prompts.box()], ids=["points", "box"])
def test_untouched_it_is_the_mask_decoder_of_segment_anything(prompts: Prompts) -> None:
    model, tensors = lite_medsam_coupled()
    theirs = sam.MaskDecoder(
        transformer_dim=256,
        transformer=sam.TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
    ).eval()
    theirs.load_state_dict({k.removeprefix("mask_decoder."): v for k, v in tensors.items() if "mask_decoder" in k})
    neck = formula.values("neck", (1, 256, 64, 64))
    decoded = model.decode(Features([torch.zeros(1, w, 64, 64) for w in (160, 160, 320)], neck), prompts)
    with torch.no_grad():
        masks, iou = theirs(
            image_embeddings=neck,
            image_pe=model.prompt_encoder.image_pe(),
            sparse_prompt_embeddings=model.prompt_encoder(prompts),
            dense_prompt_embeddings=model.prompt_encoder.no_mask().expand(len(prompts), -1, 64, 64),
            multimask_output=False,
        )
    torch.testing.assert_close(decoded.logits, masks, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(decoded.iou, iou[:, 0], atol=1e-4, rtol=0)


def test_the_coupled_mask_depends_on_its_prompt_and_trains_as_it_decodes() -> None:
    model, features = small(variant="coupled"), small_features(2)
    iou, logits = model.train_decode(features, POINTS[None].expand(2, -1, -1))
    assert (logits[0, 0] - logits[0, 1]).abs().max() > 1e-3
    for number in range(2):
        decoded = model.decode(features[number], Prompts.points(POINTS))
        torch.testing.assert_close(logits[number][:, None], decoded.logits, atol=1e-4, rtol=0)
        torch.testing.assert_close(iou[number], decoded.iou, atol=1e-5, rtol=0)
    assert model.prim_digest() is None, "a PRIM that learns answers differently tomorrow"


@pytest.mark.parametrize("whole", [True, False])
def test_the_coupled_decoder_learns_where_it_is_told_to(whole: bool) -> None:
    model = small(variant="coupled")
    model.trainable(train_prim=whole)
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[2] for name in names if name.startswith("pdmm.")} == {"upscaling", "hypernetwork"}
    assert any("transformer" in name for name in names) == whole
    assert not any(name.startswith("prompt_encoder") for name in names)


def test_several_labels_start_from_the_same_decoder() -> None:
    model, _ = lite_medsam_coupled(labels=2, shared_prim=True)
    first, second = (model.pdmm[label].state_dict() for label in (0, 1))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_the_unet_sees_the_image_and_no_prompt() -> None:
    torch.manual_seed(0)
    model = DeSAM(UNET).eval()
    images = torch.randint(0, 256, (2, 256, 256), dtype=torch.uint8)
    features = build_backbone("pixels")(images)
    torch.testing.assert_close(features.levels[0][:, 0], images / 255)
    decoder = model.begin(features[0])
    decoder.score(Prompts.points(POINTS))
    masks = decoder.masks([0, 1])
    assert masks.shape == (2, 1, 256, 256)
    assert torch.equal(masks[0], masks[1])
    _, logits = model.train_decode(features, None)
    assert (logits[0] - logits[1]).abs().max() > 1e-3
    assert not any(name.startswith(("prim", "prompt_encoder")) for name in model.tensors())


@pytest.mark.parametrize("changes", [{"variant": "unet"}, {"backbone": "pixels"}])
def test_unet_and_pixels_go_together(changes: dict) -> None:
    good, reason = TrainOptions(**changes).is_valid()
    assert not good
    assert "pixels" in reason


def test_a_baseline_survives_its_file() -> None:
    for model in (small(variant="coupled"), DeSAM(UNET)):
        again = DeSAM(DeSAMConfig.from_dict(model.config.to_dict()))
        again.load_tensors(model.tensors())
        assert all(torch.equal(tensor, again.tensors()[name]) for name, tensor in model.tensors().items())
