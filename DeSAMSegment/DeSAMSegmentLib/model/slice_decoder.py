"""Prompts decoded on one slice, exactly: what does not depend on the prompt is computed once, IoUs of all prompts
first, masks only when asked for.

The arithmetic behind it is PRIM's (``prim_slice.py``) and PDMM's (``pdmm.py``); who asks it, ``prediction.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .prim_slice import PrimSlice
from .prompt_encoder import full_precision
from .registry import MASK_SIZE
from .token_cache import TokenCache, token_name
from .types import Decoded, Features, Prompts, send

if TYPE_CHECKING:
    from .desam import DeSAM

# Prompts at once. One prompt's masks stay in a CPU's cache; a GPU wants to be filled.
PRIM_BATCH = {"cpu": 9, "other": 64}
PDMM_BATCH = {"cpu": 1, "other": 16}


class SliceDecoder:
    """``score`` the prompts, then take the ``masks`` of the best. Exact: the same answers as decoding them all.

    The mask never feeds back into the IoU, so scoring needs PRIM alone.

    Arguments:
      model: the decoder; its parameters must not change while this lives.
      features: of one slice, B = 1.
      known: a cache of PRIM's answers on slices seen before, and this slice's name in it (``DeSAM.prim_digest``).
      prompt_batch: prompts decoded at once, at most; None lets the device decide.
    """

    def __init__(
        self,
        model: DeSAM,
        features: Features,
        known: tuple[TokenCache, str] | None = None,
        prompt_batch: int | None = None,
    ) -> None:
        if features.batch != 1:
            raise ValueError(f"a SliceDecoder takes one slice, not {features.batch}")
        self.model, self.module = model, model.config.mask_module
        self.known, self.prompt_batch = known, prompt_batch
        self.device = model.device
        self.features = features.to(self.device)
        self._contexts: dict[int, Any] = {}  # by label
        self._prepared: dict[int, PrimSlice] = {}  # by PRIM, which labels may share
        self._scored: dict[int, Prompts] = {}  # by label
        self._tokens: dict[int, tuple[Prompts, Tensor]] = {}  # by PRIM: its IoU tokens (P, 256) of the last prompts
        self._single: dict[int, Tensor] = {}  # by PRIM: of a single last prompt, its mask embedding (1, 256, 64, 64)
        self._constant: dict[int, Tensor] = {}  # by label: the one mask of a module that ignores the prompt

    @torch.no_grad()
    def score(self, prompts: Prompts, label: int = 0) -> Tensor:
        """Predicted IoU (P,) of each prompt; all ones for a variant without IoU head."""
        self._scored[label] = prompts
        if not self.module.ranks_prompts:
            return torch.ones(len(prompts), device=self.device)
        prim, head = self.model.prim_of(label)
        with full_precision(self.device):
            return prim.iou_head(self._iou_tokens(prompts, label), head)

    @torch.no_grad()
    def masks(self, indices: Sequence[int] | Tensor, label: int = 0) -> Tensor:
        """Logits (k, 1, 256, 256) of these of the prompts just scored, in this order."""
        chosen = [int(index) for index in indices]
        if not self.module.reads:
            return self._prompt_free(label).expand(len(chosen), 1, -1, -1)
        scored = self._scored[label]
        if self.module.reads == "tokens":
            return torch.cat([self._from_tokens(scored[[index]], label) for index in chosen])
        out = torch.empty(len(chosen), 1, MASK_SIZE, MASK_SIZE, device=self.device)
        for chunk in self._chunks(len(chosen), PDMM_BATCH):
            if len(scored) == 1:
                self._iou_tokens(scored, label)
                embedding = self._single[self._prim_key(label)].expand(chunk.stop - chunk.start, -1, -1, -1)
            else:
                embedding = self._read(scored[chosen[chunk]], label)[1]
            out[chunk, 0] = self._fuse(embedding[None], label)[0].float()
        return out

    @torch.no_grad()
    def decode(self, prompts: Prompts, label: int = 0) -> Decoded:
        """IoU and mask of every prompt, reading each once."""
        if len(prompts) == 1 or not (self.module.ranks_prompts and self.module.reads == "embedding"):
            iou = self.score(prompts, label)
            return Decoded(iou, self.masks(range(len(prompts)), label))
        self._scored[label] = prompts
        prim, head = self.model.prim_of(label)
        iou = torch.empty(len(prompts), device=self.device)
        logits = torch.empty(len(prompts), 1, MASK_SIZE, MASK_SIZE, device=self.device)
        for chunk in self._chunks(len(prompts), PDMM_BATCH):
            token, embedding = self._read(prompts[chunk], label)
            with full_precision(self.device):
                iou[chunk] = prim.iou_head(token, head)
            logits[chunk, 0] = self._fuse(embedding[None], label)[0].float()
        return Decoded(iou, logits)

    # ---- what PRIM says ----

    def _iou_tokens(self, prompts: Prompts, label: int) -> Tensor:
        """IoU tokens (P, 256); labels that share a PRIM share the answer."""
        key = self._prim_key(label)
        before = self._tokens.get(key)
        if before is None or not before[0].same(prompts):
            if len(prompts) == 1:
                tokens, self._single[key] = self._read_single(prompts, label)
            else:
                tokens = self._tokens_of_grid(prompts, label)
            self._tokens[key] = prompts, tokens
        return self._tokens[key][1]

    def _tokens_of_grid(self, prompts: Prompts, label: int) -> Tensor:
        """IoU tokens (P, 256) of many prompts, from the cache where it knows them."""
        name = token_name(self.known[1], prompts) if self.known and prompts.xy is not None else ""
        kept = self.known[0].get(name) if self.known and name else None
        if kept is not None:
            return send(kept, self.device)
        found = []
        for chunk in self._chunks(len(prompts), PRIM_BATCH):
            with full_precision(self.device):
                prepared, tokens = self._prepare(prompts[chunk], label)
                found.append(prepared.iou_token(prepared.see(tokens), tokens))
        token = torch.cat(found)
        if self.known and name:
            self.known[0].put(name, token)
        return token

    def _read(self, prompts: Prompts, label: int) -> tuple[Tensor, Tensor]:
        """PRIM's IoU tokens (P, 256) and mask embeddings (P, 256, 64, 64)."""
        with full_precision(self.device):
            prepared, tokens = self._prepare(prompts, label)
            return prepared.read(tokens)

    def _prepare(self, prompts: Prompts, label: int) -> tuple[PrimSlice, Tensor]:
        """PRIM prepared for the slice, once, and the prompts' tokens (P, n, 256)."""
        key, (prim, _) = self._prim_key(label), self.model.prim_of(label)
        if key not in self._prepared:
            self._prepared[key] = PrimSlice(prim, self._image(), self.model.prompt_encoder.image_pe())
        return self._prepared[key], prim.tokens(self.model.prompt_encoder(prompts))

    def _read_single(self, prompt: Prompts, label: int) -> tuple[Tensor, Tensor]:
        """The same of one prompt by PRIM's plain form: preparing the slice would cost more than it saves."""
        tokens, embedding = self._plain(prompt, label)
        return tokens[0, :, 0], embedding[0]

    def _plain(self, prompt: Prompts, label: int) -> tuple[Tensor, Tensor]:
        """Every token (1, 1, n, 256) after PRIM's transformer, and the mask embedding (1, 1, 256, 64, 64)."""
        encoder, (prim, _) = self.model.prompt_encoder, self.model.prim_of(label)
        with full_precision(self.device):
            return prim(self._image(), encoder(prompt)[None], encoder.image_pe())

    def _prim_key(self, label: int) -> int:
        return 0 if self.model.config.shared_prim else label

    def _image(self) -> Tensor:
        return self.features.neck.float() + self.model.prompt_encoder.no_mask()

    # ---- what the mask module makes of it ----

    def _from_tokens(self, prompt: Prompts, label: int) -> Tensor:
        """The mask (1, 1, 256, 256) of a module that reads PRIM's tokens."""
        tokens, embedding = self._plain(prompt, label)
        with full_precision(self.device):
            return self.model.pdmm[label](tokens, embedding)

    def _prompt_free(self, label: int) -> Tensor:
        """The one mask (1, 1, 256, 256) of a variant whose mask ignores the prompt."""
        if label not in self._constant:
            self._constant[label] = self._fuse(None, label).float()
        return self._constant[label]

    def _fuse(self, embedding: Tensor | None, label: int) -> Tensor:
        module: Any = self.model.pdmm[label]
        with self._precision():
            if label not in self._contexts:
                self._contexts[label] = module.context(self.features.levels)
            return module.fuse(self._contexts[label], embedding)

    def _precision(self) -> AbstractContextManager:
        precision = self.model.precision
        if precision is None:
            return full_precision(self.device)
        return torch.autocast(self.device.type, dtype=precision)

    def _chunks(self, count: int, sizes: dict[str, int]) -> Iterator[slice]:
        size = sizes.get(self.device.type, sizes["other"])
        size = min(size, self.prompt_batch or size)
        for start in range(0, count, size):
            yield slice(start, min(start + size, count))
