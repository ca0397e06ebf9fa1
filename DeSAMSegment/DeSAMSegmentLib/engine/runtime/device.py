"""Which processor does the work, in words, and in which precision it computes."""

from __future__ import annotations

import re

import torch

from ...errors import BadInput

GIB = 1024**3


def choose(name: str = "auto") -> torch.device:
    """The device to compute on: CUDA if there is one, else Apple's MPS, else the CPU.

    A device asked for by name is given or refused, never silently replaced.

    Raises:
      BadInput: when the named device is unknown or not present.
    """
    if name.split()[:1] == ["ssh"]:
        what = "Over ssh volumes are segmented, but nothing is trained or evaluated."
        do = "Choose a device of this computer, or log in there and work there."
        raise BadInput(what, do, kind="not-over-ssh", host=name.strip()[4:] or "HOST")
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
        raise BadInput(
            f"The device {name!r} is not available to this PyTorch.", "Use the CPU, or auto.", kind="device-missing"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadInput(f"There is no {name}; {torch.cuda.device_count()} CUDA device(s) are present.", "Use cuda:0.")
    if device.type == "cuda" and not _has_kernels(device):
        raise BadInput(
            f"{torch.cuda.get_device_name(device)} is not supported by this PyTorch build ({torch.__version__}).",
            "Install a PyTorch build for this GPU, or use the CPU.",
            kind="gpu-unsupported",
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


def half_type(device: torch.device) -> torch.dtype:
    """bfloat16 where the GPU computes it (NVIDIA since Ampere), else float16.

    ``torch.cuda.is_bf16_supported`` also says yes where bfloat16 is emulated, at a fraction of the speed.
    """
    if device.type != "cuda":
        return torch.float16
    computes = torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] >= 8
    return torch.bfloat16 if computes else torch.float16
