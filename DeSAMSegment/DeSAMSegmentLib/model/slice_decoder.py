"""One slice, many prompts: what does not depend on the prompt is computed once, masks only when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .config import MASK_SIZE
from .pdmm import Context
from .types import Features, Prompts

if TYPE_CHECKING:
    from .desam import DeSAM


class SliceDecoder:
    """``score`` the prompts, then take the ``masks`` of the best. Exact: the same answers as decoding them
    all.

    The mask never feeds back into the IoU, so scoring needs PRIM alone.

    Arguments:
      model: the decoder; its parameters must not change while this lives.
      features: of one slice, B = 1.
    """

    def __init__(self, model: DeSAM, features: Features) -> None:
        if features.batch != 1:
            raise ValueError(f"a SliceDecoder takes one slice, not {features.batch}")
        self.model = model
        self.features = features.to(model.device)
        self._contexts: dict[int, Context] = {}
        self._scored: dict[int, Prompts] = {}
        self._constant: dict[int, Tensor] = {}

    @torch.no_grad()
    def score(self, prompts: Prompts, label: int = 0) -> Tensor:
        """Predicted IoU (P,) of each prompt; all ones for a variant without IoU head."""
        self._scored[label] = prompts
        config = self.model.config
        if not config.has_iou_head:
            return self.features.neck.new_ones(len(prompts), dtype=torch.float32)
        prim, head = self.model.prim_of(label)
        tokens = [self._prim(prompts[chunk], label)[0] for chunk in self._chunks(len(prompts), 9)]
        return prim.iou_head(torch.cat(tokens), head)

    @torch.no_grad()
    def masks(self, indices: Sequence[int] | Tensor, label: int = 0) -> Tensor:
        """Logits (k, 1, 256, 256) of these of the prompts just scored, in this order."""
        chosen = [int(index) for index in indices]
        if not self.model.config.fuses:
            return self._prompt_free(label).expand(len(chosen), 1, -1, -1)
        prompts = self._scored[label][chosen]
        out = self.features.neck.new_empty(len(prompts), 1, MASK_SIZE, MASK_SIZE, dtype=torch.float32)
        for chunk in self._chunks(len(prompts), 1):
            out[chunk, 0] = self._fuse(self._prim(prompts[chunk], label)[1][None], label)[0].float()
        return out

    def _prim(self, prompts: Prompts, label: int) -> tuple[Tensor, Tensor]:
        encoder = self.model.prompt_encoder
        prim, _ = self.model.prim_of(label)
        image = self.features.neck.float() + encoder.no_mask()
        token, embedding = prim(image, encoder(prompts)[None], encoder.image_pe())
        return token[0], embedding[0]

    def _prompt_free(self, label: int) -> Tensor:
        """The one mask (1, 1, 256, 256) of a variant whose mask ignores the prompt."""
        if label not in self._constant:
            self._constant[label] = self._fuse(None, label).float()
        return self._constant[label]

    def _fuse(self, embedding: Tensor | None, label: int) -> Tensor:
        pdmm = self.model.pdmm_of(label)
        with self._half():
            if label not in self._contexts:
                self._contexts[label] = pdmm.context(self.features.levels)
            return pdmm.fuse(self._contexts[label], embedding)

    def _half(self) -> AbstractContextManager:
        precision = self.model.precision
        if precision is None:
            return nullcontext()
        return torch.autocast(self.model.device.type, dtype=precision)

    def _chunks(self, count: int, default: int) -> list[slice]:
        size = self.model.prompt_batch or default
        return [slice(start, min(start + size, count)) for start in range(0, count, size)]
