"""One slice, many prompts: what does not depend on the prompt is computed once, masks only when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .config import MASK_SIZE
from .pdmm import Context
from .prim_slice import PrimSlice
from .prompt_encoder import full_precision
from .token_memory import TokenMemory, name_of
from .types import Decoded, Features, Prompts

if TYPE_CHECKING:
    from .desam import DeSAM

# Prompts at once. One prompt's masks stay in a CPU's cache; a GPU wants to be filled.
PRIM_BATCH = {"cpu": 9, "other": 64}
PDMM_BATCH = {"cpu": 1, "other": 16}


@dataclass
class Read:
    """What PRIM made of some prompts: IoU tokens (P, 256), and of a single one its embedding (1, 256, 64, 64)."""

    prompts: Prompts
    token: Tensor
    embedding: Tensor | None = None


class SliceDecoder:
    """``score`` the prompts, then take the ``masks`` of the best. Exact: the same answers as decoding them all.

    The mask never feeds back into the IoU, so scoring needs PRIM alone.

    Arguments:
      model: the decoder; its parameters must not change while this lives.
      features: of one slice, B = 1.
      memory: PRIM's answers on slices seen before, and this slice's name among them.
    """

    def __init__(self, model: DeSAM, features: Features, memory: tuple[TokenMemory, str] | None = None) -> None:
        if features.batch != 1:
            raise ValueError(f"a SliceDecoder takes one slice, not {features.batch}")
        self.model = model
        self.memory = memory
        self.device = model.device
        self.features = features.to(self.device)
        self._contexts: dict[int, Context] = {}
        self._prims: dict[int, PrimSlice] = {}  # by PRIM, which labels may share
        self._scored: dict[int, Prompts] = {}  # by label
        self._reads: dict[int, Read] = {}  # by PRIM, the last one
        self._constant: dict[int, Tensor] = {}

    @torch.no_grad()
    def score(self, prompts: Prompts, label: int = 0) -> Tensor:
        """Predicted IoU (P,) of each prompt; all ones for a variant without IoU head."""
        self._scored[label] = prompts
        if not self.model.config.has_iou_head:
            return torch.ones(len(prompts), device=self.device)
        prim, head = self.model.prim_of(label)
        with full_precision(self.device):
            return prim.iou_head(self._read_all(prompts, label).token, head)

    @torch.no_grad()
    def masks(self, indices: Sequence[int] | Tensor, label: int = 0) -> Tensor:
        """Logits (k, 1, 256, 256) of these of the prompts just scored, in this order."""
        chosen = [int(index) for index in indices]
        if not self.model.config.fuses:
            return self._prompt_free(label).expand(len(chosen), 1, -1, -1)
        scored = self._scored[label]
        if self.model.config.variant == "coupled":
            return torch.cat([self._coupled(scored[[index]], label) for index in chosen])
        out = torch.empty(len(chosen), 1, MASK_SIZE, MASK_SIZE, device=self.device)
        for chunk in self._chunks(len(chosen), PDMM_BATCH):
            if len(scored) == 1:
                embedding = self._read_all(scored, label).embedding
                assert embedding is not None
                embedding = embedding.expand(chunk.stop - chunk.start, -1, -1, -1)
            else:
                embedding = self._read(scored[chosen[chunk]], label, embed=True)[1]
            out[chunk, 0] = self._fuse(embedding[None], label)[0].float()
        return out

    @torch.no_grad()
    def decode(self, prompts: Prompts, label: int = 0) -> Decoded:
        """IoU and mask of every prompt, reading each once."""
        config = self.model.config
        if len(prompts) == 1 or not (config.has_iou_head and config.fuses) or config.variant == "coupled":
            iou = self.score(prompts, label)
            return Decoded(iou, self.masks(range(len(prompts)), label))
        self._scored[label] = prompts
        prim, head = self.model.prim_of(label)
        iou = torch.empty(len(prompts), device=self.device)
        logits = torch.empty(len(prompts), 1, MASK_SIZE, MASK_SIZE, device=self.device)
        for chunk in self._chunks(len(prompts), PDMM_BATCH):
            token, embedding = self._read(prompts[chunk], label, embed=True)
            with full_precision(self.device):
                iou[chunk] = prim.iou_head(token, head)
            logits[chunk, 0] = self._fuse(embedding[None], label)[0].float()
        return Decoded(iou, logits)

    def _read_all(self, prompts: Prompts, label: int) -> Read:
        """What PRIM makes of the prompts; labels that share a PRIM share the answer."""
        key = self._prim_key(label)
        known = self._reads.get(key)
        if known is None or not known.prompts.same(prompts):
            if len(prompts) == 1:
                known = Read(prompts, *self._read_one(prompts, label))
            else:
                known = Read(prompts, self._tokens_of(prompts, label))
            self._reads[key] = known
        return known

    def _tokens_of(self, prompts: Prompts, label: int) -> Tensor:
        """IoU tokens (P, 256) of many prompts, remembered where there is a memory."""
        name = name_of(self.memory[1], prompts) if self.memory and prompts.xy is not None else ""
        kept = self.memory[0].get(name) if self.memory and name else None
        if kept is not None:
            return kept.to(self.device)
        chunks = self._chunks(len(prompts), PRIM_BATCH)
        token = torch.cat([self._read(prompts[chunk], label, embed=False)[0] for chunk in chunks])
        if self.memory and name:
            self.memory[0].put(name, token)
        return token

    def _read(self, prompts: Prompts, label: int, embed: bool) -> tuple[Tensor, Tensor]:
        """PRIM's IoU tokens (P, 256) and, with embed, mask embeddings (P, 256, 64, 64)."""
        prim, _ = self.model.prim_of(label)
        with full_precision(self.device):
            prepared = self._prepared(label)
            tokens = prim.tokens(self.model.prompt_encoder(prompts))
            if embed:
                return prepared.read(tokens)
            token = prepared.iou_token(prepared.see(tokens), tokens)
            return token, token

    def _read_one(self, prompts: Prompts, label: int) -> tuple[Tensor, Tensor]:
        """The same of a single prompt, for which preparing the slice would cost more than it saves."""
        encoder = self.model.prompt_encoder
        prim, _ = self.model.prim_of(label)
        with full_precision(self.device):
            token, embedding = prim(self._image(), encoder(prompts)[None], encoder.image_pe())
        return token[0], embedding[0]

    def _coupled(self, prompt: Prompts, label: int) -> Tensor:
        """SAM's own mask (1, 1, 256, 256) of one prompt."""
        encoder = self.model.prompt_encoder
        prim, _ = self.model.prim_of(label)
        with full_precision(self.device):
            tokens, embedding = prim.read_image(self._image(), encoder(prompt)[None], encoder.image_pe())
            return self.model.coupled_of(label)(tokens[:, :, 1], embedding)

    def _prim_key(self, label: int) -> int:
        return 0 if self.model.config.shared_prim else label

    def _image(self) -> Tensor:
        return self.features.neck.float() + self.model.prompt_encoder.no_mask()

    def _prepared(self, label: int) -> PrimSlice:
        key = self._prim_key(label)
        if key not in self._prims:
            prim, _ = self.model.prim_of(label)
            self._prims[key] = PrimSlice(prim, self._image(), self.model.prompt_encoder.image_pe())
        return self._prims[key]

    def _prompt_free(self, label: int) -> Tensor:
        """The one mask (1, 1, 256, 256) of a variant whose mask ignores the prompt."""
        if label not in self._constant:
            self._constant[label] = self._fuse(None, label).float()
        return self._constant[label]

    def _fuse(self, embedding: Tensor | None, label: int) -> Tensor:
        pdmm = self.model.pdmm_of(label)
        with self._precision():
            if label not in self._contexts:
                self._contexts[label] = pdmm.context(self.features.levels)
            return pdmm.fuse(self._contexts[label], embedding)

    def _precision(self) -> AbstractContextManager:
        precision = self.model.precision
        if precision is None:
            return full_precision(self.device)
        return torch.autocast(self.device.type, dtype=precision)

    def _chunks(self, count: int, sizes: dict[str, int]) -> Iterator[slice]:
        size = sizes.get(self.device.type, sizes["other"])
        size = min(size, self.model.prompt_batch or size)
        for start in range(0, count, size):
            yield slice(start, min(start + size, count))
