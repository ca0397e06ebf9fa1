"""What a job will need of the device's memory, how much of it to do at once so that it fits, and what to do if not.

The estimates are of the arrays that are alive together at the worst moment. They are checked against autograd's own
account of what it saves (``Testing/test_engine_memory.py``). A wrong one costs nothing but time: whoever runs out of
memory all the same halves the batch and goes on (``with_backoff``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from ...errors import OutOfMemory
from ...model.config import DeSAMConfig
from ...model.registry import EMBED_DIM, EMBED_SIZE, MASK_SIZE
from .device import GIB

FLOAT = 4
MASK = MASK_SIZE**2
EMBED = EMBED_SIZE**2
SHARE = 0.7  # of the free memory; the rest is for the allocator's gaps and for others
BACKWARD = 1.5  # gradients in flight, over what the forward pass saves
VIT_SLICE = 1.5 * GIB  # activations of a ViT at 1024 x 1024 per slice, half precision (estimate)
LEAST_SLICE = 0.5 * GIB  # of any encoder and decoder in float32, on a CPU (estimate)
MOST_SLICES, MOST_PROMPTS = 16, 64  # at once; more does not make a GPU faster
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "status_alloc_failed")  # CUDA, CPU, cuBLAS and cuDNN
T = TypeVar("T")

# ---- estimates ----


def features_bytes(config: DeSAMConfig) -> int:
    """One slice's features as float32: three levels and the neck."""
    return FLOAT * EMBED * (sum(config.level_widths) + EMBED_DIM)


def saved_bytes(config: DeSAMConfig, train_prim: bool) -> int:
    """What autograd saves of one slice with one prompt in one label's decoder."""
    module = config.mask_module
    prim = FLOAT * EMBED * 4500 if train_prim and module.has_prim else 0
    if module.saved_floats:
        return prim + FLOAT * MASK * module.saved_floats
    deep, middle, shallow = config.pdmm_widths
    # maps of each resolution that the blocks of a branch, the fusion and the up path keep for their gradients
    blocks = 12 * deep * EMBED + 7 * middle * 4 * EMBED + 10 * shallow * MASK
    return prim + FLOAT * (blocks + EMBED * sum(config.level_widths) + EMBED_DIM * EMBED)


def training_bytes(config: DeSAMConfig, train_prim: bool, amp: bool) -> int:
    """One slice of a training batch; labels come one after another, so one decoder counts."""
    saved = saved_bytes(config, train_prim) * (0.55 if amp else 1.0)
    return int(BACKWARD * saved) + features_bytes(config)


def decoding_bytes(config: DeSAMConfig) -> int:
    """One prompt's mask at inference: the fusion's and the last up block's maps."""
    if config.mask_module.decoding_floats:
        return FLOAT * MASK * config.mask_module.decoding_floats
    deep, middle, shallow = config.pdmm_widths
    return FLOAT * (EMBED * (EMBED_DIM + 4 * deep) + 4 * EMBED * 3 * middle + MASK * 4 * shallow)


# ---- how much at once ----


def encoder_batch(input_size: int, device: torch.device) -> int:
    """Slices per encoder call: one on the CPU, where more are no faster, else what half of the free memory holds."""
    if device.type != "cuda":
        return 1
    free = free_bytes(device) or 4 * GIB
    return int(min(MOST_SLICES, max(1, free // 2 // (VIT_SLICE * (input_size / 1024) ** 2))))


def slices_at_once(input_size: int, device: torch.device) -> int:
    """Slices in work at once: on the CPU as many as torch has threads and half of the free memory holds."""
    if device.type != "cpu":
        return 1
    each = max(LEAST_SLICE, 2 * VIT_SLICE * (input_size / 1024) ** 2)
    return int(max(1, min(torch.get_num_threads(), MOST_SLICES, (free_bytes(device) or 4 * GIB) // 2 // each)))


def training_part(config: DeSAMConfig, train_prim: bool, amp: bool, batch: int, device: torch.device) -> int:
    """How many slices of a batch to have on the device at once; the parts' gradients add up to the batch's."""
    return _fitting(training_bytes(config, train_prim, amp), batch, device)


def prompts_at_once(config: DeSAMConfig, device: torch.device) -> int:
    """How many prompts to decode at once; a power of two."""
    fitting = _fitting(decoding_bytes(config), MOST_PROMPTS, device)
    return 1 << (fitting.bit_length() - 1)


def _fitting(each: int, most: int, device: torch.device) -> int:
    free = free_bytes(device)
    return most if free is None else int(min(most, max(1, SHARE * free // each)))


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can still be allocated on ``device``; None where the system does not say."""
    if device.type == "cuda":
        # what PyTorch has reserved but does not use can be had again
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return _available_ram() if device.type == "cpu" else None


def _available_ram() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None  # Windows and macOS: psutil is not worth a dependency, the back-off below is enough


# ---- when it did not fit ----


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that an allocation failed, on whichever device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in OUT_OF_MEMORY)


def with_backoff(work: Callable[[int], T], batch: int, log: Callable[[str], None], what: str) -> tuple[T, int]:
    """``work(batch)``, with half the batch after every out-of-memory; the result and the batch that fitted.

    Raises:
      OutOfMemory: when a batch of one does not fit either.
    """
    while True:
        try:
            return work(batch), batch
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if batch == 1:
                raise OutOfMemory(
                    f"Not enough memory for {what}, even one at a time.",
                    "Close other programs that use the device, or choose the CPU or a smaller backbone.",
                ) from error
        # outside the except block: the traceback would keep the failed tensors alive
        batch = max(1, batch // 2)
        release()
        log(f"Out of memory during {what}: continuing with batches of {batch}.")


def release() -> None:
    """Hands PyTorch's cached blocks back to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
