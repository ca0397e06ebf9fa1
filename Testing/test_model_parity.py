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


@pytest.mark.parametrize("kind", ["points", "box"])
def test_an_imported_checkpoint_decodes_as_the_published_code_does(imported, kind):
    model, features, stored = imported
    if kind == "points":
        prompts = Prompts.points(torch.from_numpy(stored["points_xy"][:, 0]))
    else:
        prompts = Prompts.box(torch.from_numpy(stored["box_xyxy"]))
    with torch.no_grad():
        assert stored.difference(f"{kind}_sparse", model.prompt_encoder(prompts)) < TOLERANCE
        decoded = model.decode(features, prompts)
        assert stored.difference(f"{kind}_iou", decoded.iou[:, None]) < TOLERANCE
        assert stored.difference(f"{kind}_logits", decoded.logits) < TOLERANCE
        assert decoded.logits.std() > 0.1


def test_the_mask_embedding_of_the_box_is_the_published_one(imported):
    model, features, stored = imported
    embedding = model.embed_box(features)[0]
    assert stored.difference("box_mask_embedding", embedding[:, ::16, ::4, ::4]) < TOLERANCE


def test_training_and_inference_compute_the_same_mask(imported):
    model, features, stored = imported
    xy = torch.from_numpy(stored["points_xy"][:, 0])
    with torch.no_grad():
        iou, logits = model.train_decode(features, xy[None])
    assert stored.difference("points_iou", iou[0][:, None]) < TOLERANCE
    assert stored.difference("points_logits", logits[0][:, None]) < TOLERANCE
