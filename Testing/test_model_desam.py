"""What a DeSAM of any shape promises: fast equals plain, variants, labels, what trains, what a file holds."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import formula
import pytest
import torch
from DeSAMSegmentLib.model.config import DeSAMConfig
from DeSAMSegmentLib.model.desam import DeSAM
from DeSAMSegmentLib.model.kernels import (
    channels_last,
    instance_norm,
    instance_norm_with_statistics,
    normalise_elsewhere,
    normalise_on_cpu,
)
from DeSAMSegmentLib.model.pdmm import ResidualBlock, SqueezeExcitation
from DeSAMSegmentLib.model.prim_slice import PrimSlice
from DeSAMSegmentLib.model.prompt_encoder import PromptEncoder
from DeSAMSegmentLib.model.slice_decoder import SliceDecoder
from DeSAMSegmentLib.model.types import Features, Prompts
from small_model import small, small_features

VARIANTS = ("full", "pdmm_only", "no_iou_head", "no_fusion")  # of the paper; research/ has more
POINTS = torch.tensor([[100.0, 60.5], [30.0, 200.0], [128.0, 128.0]])


def naive_module():
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "naive.py"
    spec = importlib.util.spec_from_file_location("naive", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- the fast paths are exact ----


def test_a_second_salt_decodes_alike_on_the_fast_and_the_published_path():
    """The fixture holds salt 0 only; here the plain decode of benchmarks/naive.py vouches for salt 1."""
    tensors = formula.weights(formula.published_shapes([768] * 3), salt=1)
    levels, neck = formula.features(768, salt=1)
    xy = torch.tensor([[511.0, 300.5], [37.25, 1000.0]])
    naive = naive_module().NaiveDecoder(tensors, grid_side=2)
    iou, logits = naive.grid(Features(levels, neck), xy)
    decoded = DeSAM.from_reference_tensors(tensors).decode(Features(levels, neck), Prompts.points(xy))
    assert (iou - decoded.iou).abs().max() < 1e-5
    assert (logits - decoded.logits).abs().max() < 1e-4
    assert iou.std() > 1e-3
    assert logits.std() > 0.1


@pytest.mark.parametrize("shape", [(1, 5, 4, 6), (3, 1, 4, 4), (2, 7, 1, 3), (2, 3, 1, 1)])
@pytest.mark.parametrize("kind", ["plain", "channels last", "part", "learning"])
def test_the_layout_changes_and_the_values_stay(shape, kind):
    x = torch.randn(shape)
    given = {
        "plain": x,
        "channels last": x.contiguous(memory_format=torch.channels_last),
        "part": torch.cat([x, x], dim=3)[..., : shape[3]],
        "learning": x.clone().requires_grad_(),
    }[kind]
    laid = channels_last(given)
    assert torch.equal(laid.detach(), x)
    assert laid.is_contiguous(memory_format=torch.channels_last)
    assert laid.requires_grad == given.requires_grad


def test_prims_mixture_form_equals_the_plain_transformer():
    model, features = small(), small_features()
    prim, encoder = model.prim[0], model.prompt_encoder
    image, sparse = features.neck + encoder.no_mask(), encoder(Prompts.grid(3, 256))
    with torch.no_grad():
        tokens, embedding = prim(image, sparse[None], encoder.image_pe())
        fast_token, fast_embedding = PrimSlice(prim, image, encoder.image_pe()).read(prim.tokens(sparse))
    torch.testing.assert_close(fast_token, tokens[0, :, 0], atol=2e-5, rtol=0)
    torch.testing.assert_close(fast_embedding, embedding[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize("batch", [None, 2])
def test_scoring_first_gives_the_masks_of_decoding_all(batch):
    model, features = small(), small_features()
    prompts = Prompts.points(POINTS)
    all_of_them = SliceDecoder(model, features, prompt_batch=batch).decode(prompts)
    decoder = SliceDecoder(model, features, prompt_batch=batch)
    iou = decoder.score(prompts)
    torch.testing.assert_close(iou, all_of_them.iou, atol=1e-5, rtol=0)
    picked = decoder.masks([2, 0])
    torch.testing.assert_close(picked, all_of_them.logits[[2, 0]], atol=1e-4, rtol=0)
    assert (picked[0] - picked[1]).abs().max() > 1e-2


@pytest.mark.parametrize(("planned", "read"), [(None, 9), (32, 9), (4, 4)])
def test_a_plan_makes_batches_smaller_and_never_larger(planned, read, monkeypatch):
    model, features = small(), small_features()
    sizes = []
    tokens = PrimSlice.iou_token
    monkeypatch.setattr(PrimSlice, "iou_token", lambda self, *args: sizes.append(len(args[1])) or tokens(self, *args))
    SliceDecoder(model, features, prompt_batch=planned).score(Prompts.grid(6, 256))
    assert max(sizes) == read
    assert sum(sizes) == 36


def test_a_single_prompt_and_many_agree():
    model, features = small(), small_features()
    alone = model.decode(features, Prompts.points(POINTS[:1]))
    among = model.decode(features, Prompts.points(POINTS))
    torch.testing.assert_close(alone.iou, among.iou[:1], atol=1e-5, rtol=0)
    torch.testing.assert_close(alone.logits, among.logits[:1], atol=1e-4, rtol=0)
    box = model.decode(features, Prompts.box())
    whole = model.decode(features, Prompts.box([0.0, 0.0, 256.0, 256.0]))
    torch.testing.assert_close(box.logits, whole.logits)
    assert (box.logits - alone.logits).abs().max() > 1e-2


def test_half_precision_is_close_and_leaves_the_scores_alone():
    model, features = small(), small_features()
    exact = model.decode(features, Prompts.points(POINTS))
    model.precision = torch.bfloat16
    rough = model.decode(features, Prompts.points(POINTS))
    torch.testing.assert_close(rough.iou, exact.iou)
    assert rough.logits.dtype == torch.float32
    assert 0 < (rough.logits - exact.logits).abs().mean() < 0.05 * exact.logits.std()


def test_float16_features_from_the_cache_decode_as_they_are():
    model, features = small(), small_features()
    exact = model.decode(features, Prompts.points(POINTS))
    stored = model.decode(features.to(dtype=torch.float16), Prompts.points(POINTS))
    assert (stored.iou - exact.iou).abs().max() < 1e-2
    assert 0 < (stored.logits - exact.logits).abs().mean() < 0.05 * exact.logits.std()


# ---- channel attention ----


def test_inert_channel_attention_is_the_published_constant_and_effective_is_not():
    x = formula.values("x", (2, 32, 16, 16))
    attend = naive_module().channel_attention
    squeeze, excite = formula.values("squeeze", (2, 32)), formula.values("excite", (32, 2))
    normed = instance_norm(x)
    torch.testing.assert_close(attend(normed, squeeze, excite), 0.5 * normed, atol=1e-5, rtol=0)
    assert ResidualBlock(32, 0, 32, effective=False).attention is None
    _, mean, log_deviation = instance_norm_with_statistics(x * formula.values("scale", (32, 1, 1)))
    weights = SqueezeExcitation(32)(mean, log_deviation)
    assert weights.shape == (2, 32, 1, 1)
    assert weights.std() > 1e-3
    assert ((weights > 0) & (weights < 1)).all()


def test_the_norm_of_a_gpu_is_that_of_a_cpu():
    x = formula.values("x", (2, 5, 9, 7)) * 3 + 1
    for ours, theirs in zip(normalise_elsewhere(x), normalise_on_cpu(x), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    nested = x.to(memory_format=torch.channels_last)
    assert normalise_elsewhere(nested)[0].is_contiguous(memory_format=torch.channels_last)
    half = normalise_elsewhere(x.half())[0]
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), normalise_on_cpu(x)[0], atol=5e-3, rtol=0)


@pytest.mark.parametrize("leaky", [False, True])
def test_the_written_out_norm_and_its_gradient_are_torchs(leaky):
    x = formula.values("x", (2, 5, 9, 7)) * 3 + 1
    towards = formula.values("towards", (2, 5, 9, 7))
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        ours = x.clone(memory_format=layout).requires_grad_()
        (instance_norm(ours, leaky) * towards).sum().backward()
        found.append(ours.grad)
    theirs = x.clone().requires_grad_()
    y = torch.nn.functional.instance_norm(theirs)
    if leaky:
        y = torch.nn.functional.leaky_relu(y, 0.01)
    torch.testing.assert_close(instance_norm(x, leaky), y.detach())
    (y * towards).sum().backward()
    for gradient in found:
        torch.testing.assert_close(gradient, theirs.grad, atol=1e-5, rtol=1e-4)


def test_effective_channel_attention_learns():
    model = small(squeeze_excitation="effective")
    model.trainable(train_prim=False)
    _, logits = model.train_decode(small_features(), POINTS[None])
    logits.square().mean().backward()
    for name, parameter in model.named_parameters():
        if ".attention." in name:
            assert parameter.grad.abs().max() > 0, name


# ---- Table 1 of the paper ----


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_depends_on_the_prompt_as_it_should(variant):
    model, features = small(variant=variant), small_features()
    decoder = model.begin(features)
    iou = decoder.score(Prompts.points(POINTS))
    logits = decoder.masks(range(3))
    assert logits.shape == (3, 1, 256, 256)
    mask_differs = bool((logits[0] - logits[1]).abs().max() > 1e-3)
    assert mask_differs == (variant in ("full", "no_iou_head"))
    assert bool((iou == 1).all()) == (variant in ("pdmm_only", "no_iou_head"))
    names = model.tensors()
    assert any(name.startswith("prompt_encoder.") for name in names) == (variant != "pdmm_only")
    trained_iou, trained = model.train_decode(features, POINTS[None])
    torch.testing.assert_close(trained[0][:, None], logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(trained_iou[0], iou, atol=1e-5, rtol=0)


# ---- labels ----


@pytest.mark.parametrize("shared", [False, True])
def test_each_label_has_its_own_mask_and_shares_prim_only_if_told_to(shared):
    model, features = small(labels=2, shared_prim=shared), small_features()
    first, second = (model.decode(features, Prompts.points(POINTS), label) for label in (0, 1))
    assert (first.logits - second.logits).abs().max() > 1e-2
    assert (first.iou - second.iou).abs().max() > 1e-4
    same = torch.equal(model.embed_box(features, 0), model.embed_box(features, 1))
    assert same == shared
    transformers = {name.split(".")[1] for name in model.tensors() if name.startswith("prim.")}
    assert len(transformers) == (1 if shared else 2)


def test_labels_that_share_prim_read_the_prompts_once(monkeypatch):
    model, features = small(labels=2, shared_prim=True), small_features()
    expected = [model.begin(features).score(Prompts.grid(2, 256), label) for label in (0, 1)]
    decoder, calls = model.begin(features), []
    see = PrimSlice.see
    monkeypatch.setattr(PrimSlice, "see", lambda prepared, tokens: calls.append(len(tokens)) or see(prepared, tokens))
    for label in (0, 1):
        torch.testing.assert_close(decoder.score(Prompts.grid(2, 256), label), expected[label])
    assert sum(calls) == 4
    decoder.score(Prompts.points(POINTS), 1)
    assert sum(calls) == 7


# ---- what a file holds ----


def test_tensors_round_trip_and_refuse_by_name():
    model = small(labels=2, shared_prim=True)
    again = DeSAM(DeSAMConfig.from_dict(model.config.to_dict()))
    again.load_tensors(model.tensors())
    assert all(torch.equal(tensor, again.tensors()[name]) for name, tensor in model.tensors().items())
    assert all(tensor.is_contiguous() for tensor in model.tensors().values())
    wrong = {**model.tensors(), "pdmm.9.head.weight": torch.zeros(1), "pdmm.0.head.weight": torch.zeros(2)}
    del wrong["pdmm.1.head.weight"]
    with pytest.raises(ValueError, match=r"missing: pdmm\.1.*unknown: pdmm\.9.*shape: pdmm\.0"):
        again.load_tensors(wrong)


def test_a_published_checkpoint_with_something_missing_or_foreign_is_refused_by_name():
    tensors = formula.weights(formula.published_shapes([768] * 3))
    lost, foreign = "mask_decoder.pimm.seg_outputs.1.weight", "mask_decoder.pimm.extra.weight"
    with pytest.raises(ValueError, match="missing: " + lost):
        DeSAM.from_reference_tensors({name: t for name, t in tensors.items() if name != lost})
    with pytest.raises(ValueError, match="unknown: " + foreign):
        DeSAM.from_reference_tensors({**tensors, foreign: torch.zeros(1)})
    with pytest.raises(ValueError, match="not a checkpoint of the published"):
        DeSAM.from_reference_tensors({"weight": torch.zeros(1)})
    encoder = {"image_encoder.pos_embed": torch.zeros(1), **tensors}
    wrapped = DeSAM.from_reference_tensors({"module." + name: t for name, t in encoder.items()})
    assert wrapped.config.level_widths == (768,) * 3
    assert wrapped.config.input_size == 1024


def test_a_config_survives_its_card_and_refuses_what_it_does_not_know():
    config = DeSAMConfig(width="paper", variant="no_fusion", labels=3, shared_prim=True)
    assert DeSAMConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="colour"):
        DeSAMConfig.from_dict({**config.to_dict(), "colour": 1})
    with pytest.raises(ValueError, match="width"):
        DeSAMConfig(width="wide")


# ---- prompts and features ----


def test_grid_points_lie_at_cell_centres_row_by_row():
    xy = Prompts.grid(9, 1024).xy
    assert len(Prompts.grid(9, 1024)) == 81
    torch.testing.assert_close(xy[0], torch.full((2,), 1024 / 18))
    assert xy[1, 0] > xy[0, 0]
    assert xy[1, 1] == xy[0, 1]


def test_prompt_tokens_are_those_of_the_package():
    encoder = PromptEncoder(256)
    theirs = super(PromptEncoder, encoder).forward
    with torch.no_grad():
        sparse, _ = theirs((POINTS[:, None], torch.ones(3, 1)), None, None)
        torch.testing.assert_close(encoder(Prompts.points(POINTS)), sparse)
        boxes = torch.tensor([[1.0, 2.0, 30.0, 40.0], [0.0, 0.0, 256.0, 256.0]])
        sparse, _ = theirs(None, boxes, None)
        torch.testing.assert_close(encoder(Prompts.box(boxes)), sparse)


def test_features_split_and_join():
    features = small_features(3)
    joined = Features.cat([features[0], features[1], features[-1]])
    assert features[1].batch == 1
    assert torch.equal(joined.neck, features.neck)
    assert all(torch.equal(a, b) for a, b in zip(joined.levels, features.levels, strict=True))
    with pytest.raises(IndexError):
        features[3]
    with pytest.raises(ValueError, match="one slice"):
        small().begin(features)
