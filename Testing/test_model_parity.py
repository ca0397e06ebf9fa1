"""The published code's own numbers, reproduced from an imported checkpoint."""

from __future__ import annotations

import json

import formula
import pytest
import torch
from DeSAMSegmentLib.model.desam import DeSAM
from DeSAMSegmentLib.model.types import Features, Prompts

TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=[768, 1280])
def imported(request):
    width = request.param
    stored = formula.fixture_arrays(f"decoder_dim{width}_salt0.npz")
    model = DeSAM.from_reference_tensors(formula.weights(formula.published_shapes([width] * 3)))
    levels, neck = formula.features(width)
    return model, Features(levels, neck), stored


@pytest.mark.parametrize("width", [768, 1280])
def test_the_tests_know_the_published_tensors_by_name_and_shape(width):
    listed = json.loads(formula.fixture(f"state_dict_dim{width}.json").read_text(encoding="utf-8"))
    assert {n: tuple(shape) for n, shape in listed.items()} == formula.published_shapes([width] * 3)


def difference(ours: torch.Tensor, theirs) -> float:
    theirs = torch.from_numpy(theirs)
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max())


@pytest.mark.parametrize("kind", ["points", "box"])
def test_an_imported_checkpoint_decodes_as_the_published_code_does(imported, kind):
    model, features, stored = imported
    if kind == "points":
        prompts = Prompts.points(torch.from_numpy(stored["points_xy"][:, 0]))
    else:
        prompts = Prompts.box(torch.from_numpy(stored["box_xyxy"]))
    with torch.no_grad():
        assert difference(model.prompt_encoder(prompts), stored[f"{kind}_sparse"]) < TOLERANCE
        decoded = model.decode(features, prompts)
        assert difference(decoded.iou[:, None], stored[f"{kind}_iou"]) < TOLERANCE
        assert difference(decoded.logits, stored[f"{kind}_logits"]) < TOLERANCE
        assert decoded.logits.std() > 0.1


def test_the_mask_embedding_of_the_box_is_the_published_one(imported):
    model, features, stored = imported
    embedding = model.embed_box(features)[0]
    assert difference(embedding[:, ::16, ::4, ::4], stored["box_mask_embedding"]) < TOLERANCE


def test_training_and_inference_compute_the_same_mask(imported):
    model, features, stored = imported
    xy = torch.from_numpy(stored["points_xy"][:, 0])
    with torch.no_grad():
        iou, logits = model.train_decode(features, xy[None])
    assert difference(iou[0][:, None], stored["points_iou"]) < TOLERANCE
    assert difference(logits[0][:, None], stored["points_logits"]) < TOLERANCE
