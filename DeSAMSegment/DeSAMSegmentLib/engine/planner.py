"""What a job will need of the device's memory, and how much of it to do at once so that it fits.

The estimates are of the arrays that are alive together at the worst moment. They are checked against autograd's own
account of what it saves (``Testing/test_planner.py``). A wrong one costs nothing but time: whoever runs out of memory
all the same halves the batch and goes on (``device.with_backoff``).
"""

from __future__ import annotations

import torch

from ..model.config import EMBED_SIZE, MASK_SIZE, DeSAMConfig
from . import device as devices

FLOAT = 4
MASK = MASK_SIZE**2
EMBED = EMBED_SIZE**2
SHARE = 0.7  # of the free memory; the rest is for the allocator's gaps and for others
BACKWARD = 1.5  # gradients in flight, over what the forward pass saves
VIT_SLICE = 1.5 * devices.GIB  # activations of a ViT at 1024 x 1024 per slice, half precision (estimate)
MOST_SLICES, MOST_PROMPTS = 16, 64  # at once; more does not make a GPU faster


def features_bytes(config: DeSAMConfig) -> int:
    """One slice's features as float32: three levels and the neck."""
    return FLOAT * EMBED * (sum(config.level_widths) + 256)


def saved_bytes(config: DeSAMConfig, train_prim: bool) -> int:
    """What autograd saves of one slice with one prompt in one label's decoder."""
    if config.variant == "unet":
        return FLOAT * MASK * 110
    prim = FLOAT * EMBED * 4500 if train_prim and config.has_prim else 0
    if config.variant == "coupled":
        return prim + FLOAT * MASK * 170
    deep, middle, shallow = config.pdmm_widths
    # maps of each resolution that the blocks of a branch, the fusion and the up path keep for their gradients
    blocks = 12 * deep * EMBED + 7 * middle * 4 * EMBED + 10 * shallow * MASK
    return prim + FLOAT * (blocks + EMBED * sum(config.level_widths) + 256 * EMBED)


def training_bytes(config: DeSAMConfig, train_prim: bool, amp: bool) -> int:
    """One slice of a training batch; labels come one after another, so one decoder counts."""
    saved = saved_bytes(config, train_prim) * (0.55 if amp else 1.0)
    return int(BACKWARD * saved) + features_bytes(config)


def decoding_bytes(config: DeSAMConfig) -> int:
    """One prompt's mask at inference: the fusion's and the last up block's maps."""
    if config.variant in ("coupled", "unet"):
        return FLOAT * MASK * 64
    deep, middle, shallow = config.pdmm_widths
    return FLOAT * (EMBED * (256 + 4 * deep) + 4 * EMBED * 3 * middle + MASK * 4 * shallow)


def encoder_batch(input_size: int, device: torch.device) -> int:
    """Slices per encoder call: one on the CPU, where more are no faster, else what half of the free memory holds."""
    if device.type != "cuda":
        return 1
    free = devices.free_bytes(device) or 4 * devices.GIB
    return int(min(MOST_SLICES, max(1, free // 2 // (VIT_SLICE * (input_size / 1024) ** 2))))


def training_part(config: DeSAMConfig, train_prim: bool, amp: bool, batch: int, device: torch.device) -> int:
    """How many slices of a batch to have on the device at once; the parts' gradients add up to the batch's."""
    return _fitting(training_bytes(config, train_prim, amp), batch, device)


def prompts_at_once(config: DeSAMConfig, device: torch.device) -> int:
    """How many prompts to decode at once; a power of two."""
    fitting = _fitting(decoding_bytes(config), MOST_PROMPTS, device)
    return 1 << (fitting.bit_length() - 1)


def _fitting(each: int, most: int, device: torch.device) -> int:
    free = devices.free_bytes(device)
    return most if free is None else int(min(most, max(1, SHARE * free // each)))
