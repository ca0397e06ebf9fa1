"""PRIM's answers about prompts on slices seen before, so that the same question is not asked twice.

A grid's IoU tokens depend on the slice, the points and PRIM's frozen transformer, and on nothing that training a mask
decoder changes. So the second epoch's validation, a second model of the same backbone, and a second run with another
threshold read them here: 81 tokens are 83 KB, asking for them again is most of the cost of a slice in grid mode.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from threading import Lock

from torch import Tensor, nn

from .types import Prompts

LIMIT_BYTES = 256 * 1024**2


class TokenCache:
    """IoU tokens (P, 256) by name, the least recently used out first."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self._tokens: OrderedDict[str, Tensor] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()  # slices may be in work side by side

    def get(self, name: str) -> Tensor | None:
        """On the CPU; None when it is not known."""
        with self._lock:
            tokens = self._tokens.get(name)
            if tokens is not None:
                self._tokens.move_to_end(name)
            return tokens

    def put(self, name: str, tokens: Tensor) -> None:
        """Keeps a copy on the CPU."""
        kept = tokens.detach().to("cpu", copy=True)
        with self._lock:
            if name in self._tokens or kept.nbytes > self.limit_bytes:
                return
            self._tokens[name] = kept
            self._bytes += kept.nbytes
            while self._bytes > self.limit_bytes:
                _, oldest = self._tokens.popitem(last=False)
                self._bytes -= oldest.nbytes


def digest_of(*modules: nn.Module) -> str:
    """A hash of all tensors of some modules: equal hashes give equal answers."""
    digest = hashlib.blake2b(digest_size=16)
    for module in modules:
        for name, tensor in module.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def token_name(slice_name: str, prompts: Prompts) -> str:
    """The name of some points on a slice."""
    assert prompts.xy is not None
    return f"{slice_name}.{hashlib.blake2b(prompts.xy.cpu().numpy().tobytes(), digest_size=16).hexdigest()}"
