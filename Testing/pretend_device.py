"""A GPU that is not there: tensors that say ``cuda`` or ``mps``, hold their numbers on the CPU, and mix with no other.

torch's own ``FakeTensorMode`` knows shapes only, and ends where a program reads a number back, which is what every
slice does (on a torch without CUDA it ends sooner, at the first index). These tensors have values, so that whole jobs
run and their results can be held against the CPU's. An operation over two devices is refused in torch's words. Counted
are the times that the host waits for the device, what it sends there, and the dtypes of matrix products.

Not imitated: kernels (only their absence on MPS for float64), streams, memory.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

CPU = torch.device("cpu")
# what they give depends on values, so the host waits for them
READS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim", "bincount"}
PRODUCTS = {
    "mm", "addmm", "bmm", "baddbmm", "baddbmm_", "matmul", "linear", "convolution", "conv2d", "conv_transpose2d",
    "scaled_dot_product_attention",
}  # fmt: skip


class OnDevice(Tensor):
    """A tensor that says it lies on ``claimed``; its values are ``numbers``, on the CPU."""

    numbers: Tensor
    claimed: torch.device

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, numbers: Tensor, claimed: torch.device) -> OnDevice:
        # a shell for autograd: to C++ its device is meta, which needs no driver, and its keys are those of a GPU
        shell = torch.empty_strided(numbers.shape, numbers.stride(), dtype=numbers.dtype, device="meta")
        made = Tensor._make_subclass(cls, shell, False, device_for_backend_keys=claimed)
        made.numbers, made.claimed = numbers, claimed
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise AssertionError(f"{function} of a tensor that outlived its device")

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.claimed

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return self.claimed.type == "cuda"

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """The tensor itself where nothing changes, as torch does."""
        same = (None, False, True, self.dtype, self.claimed, torch.preserve_format)
        unchanged = not kwargs.get("copy") and all(each in same for each in (*args, *kwargs.values()))
        return self if unchanged else super().to(*args, **kwargs)

    def numpy(self, **_: object) -> Any:
        raise TypeError(f"can't convert {self.claimed} device type tensor to numpy.")

    def __array__(self, *_: object) -> Any:
        return self.numpy()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.numbers.__reduce_ex__(protocol)

    def tolist(self) -> Any:
        return self.cpu().tolist()


class Pretence(TorchDispatchMode):
    """While it is entered, ``device`` exists.

    Attributes:
      waits: how often the host waited for the device, by operation: for a number, or for what it sent there to arrive.
      uploads: how often it sent something.
      products: matrix products and convolutions on the device, by dtype.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = torch.device(device)
        self.forget()

    def forget(self) -> None:
        """Counts from nothing."""
        self.waits: Counter[str] = Counter()
        self.uploads = 0
        self.products: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        flat, layout = tree_flatten((args, kwargs or {}))
        tensors = [each for each in flat if isinstance(each, Tensor)]
        source = self._common_device(name, tensors)
        named = dict(zip((each.name for each in function._schema.arguments), args, strict=False)) | (kwargs or {})
        target = self._named(torch.device(named["device"])) if named.get("device") else source
        if source != CPU or target != CPU:
            self._count(name, source, target, tensors, bool(named.get("non_blocking")))
        plain, options = tree_unflatten([_plain(each) for each in flat], layout)
        out = _computed(function, plain, options)
        if target == CPU:
            return out
        # what was changed in place comes back as the tensor that it was
        known = {id(each.numbers): each for each in tensors if isinstance(each, OnDevice)}

        def claimed(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            return known[id(leaf)] if id(leaf) in known else OnDevice(leaf, target)

        # in inference mode a view is a tensor of inference only where what it shows is one
        inference = torch.is_inference_mode_enabled() and not (function.is_view and not tensors[0].is_inference())
        with torch.inference_mode(inference):
            return tree_map(claimed, out)

    def _named(self, device: torch.device) -> torch.device:
        """meta: "like this tensor", said by C++."""
        return self.device if device.type in (self.device.type, "meta") else device

    def _common_device(self, name: str, tensors: list[Tensor]) -> torch.device:
        """Where an operation's tensors lie; only a number without dimensions, or an index, may come from the CPU."""
        if not any(isinstance(each, OnDevice) for each in tensors):
            return CPU
        if name not in ("copy_", "index", "index_put_"):
            strangers = [each for each in tensors if not isinstance(each, OnDevice) and each.ndim > 0]
            if strangers:
                raise RuntimeError(
                    "Expected all tensors to be on the same device, but found at least two devices, "
                    f"{self.device} and cpu! ({name})"
                )
        return self.device

    def _count(self, name: str, source: torch.device, target: torch.device, tensors: list[Tensor], later: bool) -> None:
        """later: a copy that need not have arrived when the operation returns."""
        if self.device.type == "mps" and any(each.dtype is torch.float64 for each in tensors):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype: the MPS framework does not support it.")
        here = [isinstance(each, OnDevice) for each in tensors]
        sent = 0
        if source == CPU:
            sent = len(tensors)
        elif name in READS or target == CPU or (name == "copy_" and not here[0]):
            self.waits[name] += 1
        elif name == "copy_" or name.startswith("index"):
            sent = here[1:].count(False)
            if name != "copy_" and any(each.dtype in (torch.bool, torch.uint8) for each in tensors[1:]):
                self.waits[name] += 1
        elif name in PRODUCTS:
            self.products[tensors[0].dtype] += 1
        self.uploads += sent
        if sent and not later:  # torch then waits for all that was asked of the device before
            self.waits[f"{name} to the device"] += sent


HALF = (torch.bfloat16, torch.float16)


def _computed(function: Any, args: Any, kwargs: Any) -> Any:
    """Products in half precision sum in float32, as a GPU does; a CPU takes many times longer for them otherwise."""
    name = function.overloadpacket.__name__
    if name.endswith("_") or not ("conv" in name or name in PRODUCTS) or args[0].dtype not in HALF:
        return function(*args, **kwargs)
    half = args[0].dtype

    def to(dtype: torch.dtype, each: Any) -> Any:
        return each.to(dtype) if isinstance(each, Tensor) and each.is_floating_point() else each

    wide = tree_map(lambda each: to(torch.float32, each), (args, kwargs))
    return tree_map(lambda each: to(half, each), function(*wide[0], **wide[1]))


def _plain(each: Any) -> Any:
    if isinstance(each, OnDevice):
        return each.numbers
    return CPU if isinstance(each, torch.device) else each


# ---- autocast of CUDA -----------------------------------------------------------------------------------------------
# torch's own kernels for it ask C++ where a tensor lies, and would find ``meta``. These follow the same lists:
# https://pytorch.org/docs/stable/amp.html. What is in none of them takes float32.

LOWER = {
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d.input", "conv_transpose3d.input", "convolution",
    "_convolution", "matmul", "mm", "bmm", "mv", "addmm", "addbmm", "addmv", "addr", "baddbmm", "chain_matmul",
    "einsum", "linear", "linalg_multi_dot", "linalg_vecdot", "prelu", "scaled_dot_product_attention",
}  # fmt: skip
WIDEST = {"addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "vdot", "grid_sampler", "index_put", "tensordot",
          "scatter_add"}  # fmt: skip


def _autocast_kernel(name: str) -> Any:
    packet, _, overload = name.partition(".")
    operation = getattr(getattr(torch.ops.aten, packet), overload or "default")
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCUDA)

    def floating(each: Any) -> bool:
        return isinstance(each, OnDevice) and each.is_floating_point() and each.dtype is not torch.float64

    def kernel(*args: Any, **kwargs: Any) -> Any:
        dtype = torch.get_autocast_dtype("cuda") if name in LOWER else torch.float32
        if name in WIDEST:
            found = {each.dtype for each in tree_flatten((args, kwargs))[0] if floating(each)}
            dtype = found.pop() if len(found) == 1 else torch.float32
        with torch._C._ExcludeDispatchKeyGuard(keys):
            cast_args, cast_kwargs = tree_map(lambda e: e.to(dtype) if floating(e) else e, (args, kwargs))
            return operation(*cast_args, **cast_kwargs)

    return kernel


@contextmanager
def autocast_of_cuda() -> Iterator[None]:
    """Autocast sees tensors that only say they are on CUDA."""
    library = torch.library.Library("aten", "IMPL")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for qualified in torch._C._dispatch_get_all_op_names():
                if qualified.startswith("aten::") and torch._C._dispatch_has_kernel_for_dispatch_key(
                    qualified, "AutocastCUDA"
                ):
                    name = qualified.removeprefix("aten::")
                    library.impl(name, _autocast_kernel(name), "AutocastCUDA", allow_override=True)
        yield
    finally:
        library._destroy()


# ---- the driver -----------------------------------------------------------------------------------------------------

GIB = 1024**3


@contextmanager
def pretend(device: str, capability: tuple[int, int] = (8, 0), free: int = 8 * GIB) -> Iterator[Pretence]:
    """A ``cuda:0`` of that capability and free memory, or an ``mps:0``."""
    is_cuda = device.startswith("cuda")
    with pytest.MonkeyPatch.context() as patch, autocast_of_cuda(), Pretence(device) as pretence:
        # parameters keep their identity when a module moves, as they do on a real device
        swapping = torch.__future__.get_swap_module_params_on_conversion()
        lifting = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=) is made on the CPU first
        torch.__future__.set_swap_module_params_on_conversion(True)
        patch.setattr(torch.cuda, "is_available", lambda: is_cuda)
        patch.setattr(torch.backends.mps, "is_available", lambda: not is_cuda)
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch.cuda, "device_count", lambda: int(is_cuda))
        patch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        patch.setattr(torch.cuda, "get_arch_list", list)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
        patch.setattr(torch.cuda, "mem_get_info", lambda device=None: (free, free))
        patch.setattr(torch.cuda, "memory_reserved", lambda device=None: 0)
        patch.setattr(torch.cuda, "memory_allocated", lambda device=None: 0)
        patch.setattr(torch.cuda, "empty_cache", lambda: None)
        properties = type("Properties", (), {"name": "a pretended card", "total_memory": free})
        patch.setattr(torch.cuda, "get_device_properties", lambda device=None: properties)
        try:
            yield pretence
        finally:
            torch._C._set_only_lift_cpu_tensors(lifting)
            torch.__future__.set_swap_module_params_on_conversion(swapping)
