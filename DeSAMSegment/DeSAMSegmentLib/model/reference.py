"""Where the tensors of other people's checkpoints go: the published DeSAM code's, and SAM's own.

The published names are facts of its files (state_dict of yifangao112/DeSAM). What its forward pass never
reads is left behind: SAM's mask upscaling and hypernetworks, the head of the unused deep supervision,
shortcut convolutions of blocks whose widths agree, and the squeeze-and-excitation layers, whose answer is 0.5
for any weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from .config import DeSAMConfig

_PROMPT = "prompt_encoder."
_DECODER = "mask_decoder."
_PIMM = "mask_decoder.pimm."
_PUBLISHED_BACKBONES = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}

_SAM_UNUSED = re.compile(r"mask_decoder\.output_(upscaling|hypernetworks_mlps)\.|pixel_(mean|std)$|image_encoder\.")
_PIMM_UNUSED = re.compile(
    r"\.se\.fc\.[02]\.weight$|\.seg_outputs\.0\.weight$|\.residual_block\.\d+\.1\.conv3\.conv\.weight$"
)
_CONVS = {"conv1": "conv1", "conv2": "conv2", "conv3": "shortcut"}


def tensors_from_sam(config: DeSAMConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """PRIM's and the prompt encoder's tensors under this project's names, for every label."""
    found = {name: tensor for name, tensor in tensors.items() if name.startswith((_PROMPT, _DECODER))}
    missing = [name for name in _sam_names() if name not in found]
    if missing:
        raise ValueError("the SAM checkpoint lacks these tensors: " + ", ".join(missing))
    renamed: dict[str, Tensor] = {}
    for name, tensor in found.items():
        for own in _own_sam_names(name, config):
            renamed[own] = tensor
    return renamed


def config_of_reference(tensors: Mapping[str, Tensor]) -> DeSAMConfig:
    """The published architecture, with the encoder's width read off the tensors."""
    tensors = _unwrapped(tensors)
    probe = _PIMM + "conv_blocks_context.0.block_init.conv1.conv.weight"
    if probe not in tensors:
        raise ValueError(f"this is not a checkpoint of the published DeSAM code: it lacks {probe}")
    width = tensors[probe].shape[1]
    if width not in _PUBLISHED_BACKBONES:
        raise ValueError(f"no known encoder is {width} wide; 768, 1024 and 1280 are")
    return DeSAMConfig(
        backbone=_PUBLISHED_BACKBONES[width],
        input_size=1024,
        level_widths=(width, width, width),
        width="paper",
        squeeze_excitation="inert",
    )


def tensors_from_reference(config: DeSAMConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published checkpoint's tensors under this project's names. Raises ValueError naming unknown ones."""
    renamed: dict[str, Tensor] = {}
    unknown: list[str] = []
    table = _pimm_table()
    for name, tensor in _unwrapped(tensors).items():
        if _SAM_UNUSED.match(name) or _PIMM_UNUSED.search(name):
            continue
        if name in table:
            renamed[table[name]] = tensor
        elif own := list(_own_sam_names(name, config)):
            renamed.update(dict.fromkeys(own, tensor))
        else:
            unknown.append(name)
    missing = [name for name in (*_sam_names(), *table) if name not in _unwrapped(tensors)]
    if unknown or missing:
        parts = [f"unknown: {', '.join(unknown)}"] if unknown else []
        parts += [f"missing: {', '.join(missing)}"] if missing else []
        raise ValueError("the checkpoint is not of the published DeSAM code; " + "; ".join(parts))
    return renamed


def _unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefix that torch's data-parallel wrappers put before every name."""
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def _own_sam_names(name: str, config: DeSAMConfig) -> Iterable[str]:
    """This project's names for one of SAM's tensors; none if it has no use for it."""
    if name.startswith(_PROMPT):
        yield name
        return
    prims = 1 if config.shared_prim else config.labels
    heads = config.labels if config.shared_prim else 1
    rest = name.removeprefix(_DECODER)
    for prim in range(prims):
        if rest.startswith(("transformer.", "iou_token.", "mask_tokens.")):
            yield f"prim.{prim}.{rest}"
        elif rest.startswith("iou_prediction_head."):
            for head in range(heads):
                yield f"prim.{prim}.iou_heads.{head}.{rest.removeprefix('iou_prediction_head.')}"
    for theirs, own in config.mask_module.sam_names.items():
        if rest.startswith(theirs):
            yield from (f"pdmm.{label}.{own}{rest.removeprefix(theirs)}" for label in range(config.labels))


def _sam_names() -> list[str]:
    """The tensors of SAM's prompt encoder and mask decoder that DeSAM reads, under SAM's names."""
    from .prim import Prim
    from .prompt_encoder import PromptEncoder

    with torch.device("meta"):  # names alone: nothing is allocated, no random number drawn
        encoder, prim = PromptEncoder(1024), Prim(1)
    names = [_PROMPT + name for name in encoder.state_dict()]
    for name in prim.state_dict():
        names.append(_DECODER + name.replace("iou_heads.0.", "iou_prediction_head."))
    return names


def _pimm_table() -> dict[str, str]:
    """Published name -> own name of every tensor of the published mask branch that its forward pass reads."""
    table = {_PIMM + "seg_outputs.1.weight": "pdmm.0.head.weight"}

    def block(theirs: str, own: str, convs: Iterable[str] = _CONVS) -> None:
        for conv in convs:
            table[f"{_PIMM}{theirs}.{conv}.conv.weight"] = f"pdmm.0.{own}.{_CONVS[conv]}.weight"

    block("mask_embedding_fusion", "fusion")
    for level in range(3):
        branch, own = f"conv_blocks_context.{level}", f"branches.{level}"
        block(f"{branch}.block_init", f"{own}.narrow")
        for step in range(level):
            doubling = f"{_PIMM}{branch}.residual_block.{step}.0.conv.weight"
            table[doubling] = f"pdmm.0.{own}.doublings.{step}.weight"
            block(f"{branch}.residual_block.{step}.1", f"{own}.blocks.{step}", ("conv1", "conv2"))
    for step in range(2):
        theirs = f"conv_blocks_localization.{step}"
        table[f"{_PIMM}{theirs}.transp_conv.conv.weight"] = f"pdmm.0.up.{step}.upsample.weight"
        block(f"{theirs}.res_block", f"up.{step}.block")
    return table
