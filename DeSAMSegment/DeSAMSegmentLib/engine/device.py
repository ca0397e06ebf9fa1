"""Which processor does the work, in words, and how much memory it has left."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import torch

from ..errors import BadInput, OutOfMemory

GIB = 1024**3
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "status_alloc_failed")  # CUDA, CPU, cuBLAS and cuDNN
T = TypeVar("T")


def choose(name: str = "auto") -> torch.device:
    """The device to compute on: CUDA if there is one, else Apple's MPS, else the CPU.

    A device asked for by name is given or refused, never silently replaced.

    Raises:
      BadInput: when the named device is unknown or not present.
    """
    if name == "auto":
        if torch.cuda.is_available() and _has_kernels(torch.device("cuda")):
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BadInput(f"There is no device called {name!r}.", "Use auto, cpu, cuda, cuda:1 or mps.") from error
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(device.type, False):
        raise BadInput(f"The device {name!r} is not available to this PyTorch.", "Use --device auto or cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadInput(f"There is no {name}; {torch.cuda.device_count()} CUDA device(s) are present.", "Use cuda:0.")
    if device.type == "cuda" and not _has_kernels(device):
        raise BadInput(
            f"This PyTorch ({torch.__version__}) was built without code for {torch.cuda.get_device_name(device)}.",
            "Install a PyTorch build for this GPU, or use --device cpu.",
        )
    return device


def _has_kernels(device: torch.device) -> bool:
    """Whether this PyTorch holds code for the GPU: recent builds leave out old cards, and fail at the first kernel."""
    capability = torch.cuda.get_device_capability(device)
    built = [re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", name) for name in torch.cuda.get_arch_list()]
    known = [(match[1], (int(match[2]), int(match[3]))) for match in built if match]
    if not known:
        return True  # ROCm has names of its own
    return any(version <= capability and (kind == "compute" or version[0] == capability[0]) for kind, version in known)


def describe(device: torch.device) -> str:
    """The device in words, e.g. ``"NVIDIA GeForce RTX 3060, 12 GB"`` or ``"CPU, 2 threads"``."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / GIB:.0f} GB"
    if device.type == "mps":
        return "Apple GPU (MPS)"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can still be allocated on ``device``; None where the system does not say."""
    if device.type == "cuda":
        # what PyTorch has reserved but does not use can be had again
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "cpu":
        return _available_ram()
    return None


def _available_ram() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None  # Windows and macOS: psutil is not worth a dependency, the back-off below is enough


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
        log(f"Out of memory during {what}: going on with batches of {batch}.")


def release() -> None:
    """Hands PyTorch's cached blocks back to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
