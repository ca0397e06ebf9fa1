"""DeSAM: a decoder for a frozen Segment Anything encoder in which mask and prompt quality are decoupled.

PRIM reads prompts and says how good each is; a mask module (PDMM) per label makes the mask from the encoder's levels,
fused with what PRIM saw. How one slice is segmented with it is told in ``prediction.py``, how one training step is
taken in ``train_decode`` below and in ``engine/train/step.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .config import DeSAMConfig
from .prim import Prim
from .prim_slice import PrimSlice
from .prompt_encoder import PromptEncoder, full_precision
from .reference import config_of_reference, tensors_from_reference, tensors_from_sam
from .slice_decoder import SliceDecoder
from .token_cache import digest_of
from .types import Decoded, Features, Prompts

Own = TypeVar("Own", bound="DeSAM")


class DeSAM(nn.Module):
    """Prompt encoder, PRIM and the mask modules of one or several labels over one set of features.

    Attributes:
      precision: dtype of PDMM at inference (``torch.bfloat16``, ``torch.float16``); None is exact. PRIM always runs in
        float32, so that accepting a prompt does not depend on the device.
    """

    def __init__(self, config: DeSAMConfig) -> None:
        super().__init__()
        self.config = config
        self.precision: torch.dtype | None = None
        module = config.mask_module
        if module.has_prim:
            shared = config.shared_prim
            self.prompt_encoder = PromptEncoder(config.input_size).requires_grad_(False)
            self.prim = nn.ModuleList(
                Prim(config.labels if shared else 1) for _ in range(1 if shared else config.labels)
            )
        self.pdmm = nn.ModuleList(module.build(config) for _ in range(config.labels))

    @classmethod
    def from_sam(cls: type[Own], config: DeSAMConfig, sam_tensors: Mapping[str, Tensor]) -> Own:
        """PRIM and prompt encoder from a SAM, MedSAM or LiteMedSAM checkpoint, the mask modules fresh.

        Raises ValueError, naming them, if the checkpoint lacks tensors of its decoder.
        """
        model = cls(config)
        if config.mask_module.has_prim:
            own = model.state_dict()
            fresh = {name: tensor for name, tensor in own.items() if name.startswith("pdmm.")}
            model.load_tensors({**fresh, **tensors_from_sam(config, sam_tensors)})
        return model

    @classmethod
    def from_reference_tensors(cls: type[Own], tensors: Mapping[str, Tensor]) -> Own:
        """The published code's checkpoint. Raises ValueError, naming them, on missing or unknown tensors."""
        config = config_of_reference(tensors)
        model = cls(config)
        model.load_tensors(tensors_from_reference(config, tensors))
        return model.eval()

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def prim_of(self, label: int) -> tuple[Prim, int]:
        """The PRIM that serves a label, and which of its IoU heads."""
        prim = self.prim[0 if self.config.shared_prim else label]
        assert isinstance(prim, Prim)
        return prim, label if self.config.shared_prim else 0

    def _prims(self) -> list[Prim]:
        return [prim for prim in self.prim if isinstance(prim, Prim)]

    # ---- inference ----

    def begin(self, features: Features) -> SliceDecoder:
        """A decoder of one slice (B = 1) that scores prompts first and makes only the masks asked for."""
        return SliceDecoder(self, features)

    def decode(self, features: Features, prompts: Prompts, label: int = 0) -> Decoded:
        """Every prompt's IoU and mask, exact, on one slice (B = 1)."""
        return self.begin(features).decode(prompts, label)

    def prim_digest(self) -> str | None:
        """What this model's answers are named by in a TokenCache; None while PRIM is not frozen."""
        if not (self.config.mask_module.ranks_prompts and self.config.shared_prim):
            return None
        prim = self._prims()[0]
        return digest_of(self.prompt_encoder, prim.transformer, prim.iou_token, prim.mask_tokens)

    # ---- training ----

    def train_decode(
        self, features: Features, points: Tensor | None, label: int = 0, embedding: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Differentiable decode of B slices with Q prompts each; the context of a slice is computed once.

        points: (B, Q, 2) in the encoder's input frame, or None for the whole image (Q = 1).
        embedding: mask embeddings (B, Q, 256, 64, 64) computed before (``embed_box``); PRIM is then not run and every
          IoU reads 1.
        Returns iou (B, Q) and logits (B, Q, 256, 256).
        """
        module = self.config.mask_module
        prompts = 1 if points is None else points.shape[1]
        iou = features.neck.new_ones(features.batch, prompts, dtype=torch.float32)
        tokens = None
        # 1. PRIM reads the prompts, unless nothing of it is wanted or it is known already
        if module.has_prim and embedding is None:
            tokens, embedding = self._read_prompts(features, points, label)
            if module.ranks_prompts:
                prim, head = self.prim_of(label)
                with full_precision(self.device):  # as it will be asked
                    iou = prim.iou_head(tokens[:, :, 0].float(), head)
        # 2. the label's mask module makes the mask, from what it is shown
        pdmm: Any = self.pdmm[label]
        if module.reads == "tokens":
            return iou, pdmm(tokens, embedding)
        context = pdmm.context(features.levels)
        if module.reads == "embedding":
            return iou, pdmm.fuse(context, embedding)
        return iou, pdmm.fuse(context, None).expand(-1, prompts, -1, -1)

    @torch.no_grad()
    def embed_box(self, features: Features, label: int = 0) -> Tensor:
        """The whole-image prompt's mask embedding (B, 1, 256, 64, 64): constant while PRIM is frozen."""
        return self._read_prompts(features, None, label)[1]

    def _read_prompts(self, features: Features, points: Tensor | None, label: int) -> tuple[Tensor, Tensor]:
        """PRIM's tokens (B, Q, n, 256), the IoU's first, and mask embedding (B, Q, 256, 64, 64).

        A frozen PRIM gives no gradients, and where several prompts share a slice the IoU token alone (n = 1): it is
        then asked in the cheap form, slice by slice.
        """
        prim, _ = self.prim_of(label)
        sparse = self._sparse(points, features.batch)
        image = features.neck.float() + self.prompt_encoder.no_mask()
        pe = self.prompt_encoder.image_pe()
        if any(parameter.requires_grad for parameter in prim.transformer.parameters()):
            return prim(image, sparse, pe)
        with torch.no_grad(), full_precision(self.device):
            if sparse.shape[1] == 1 or self.config.mask_module.reads == "tokens":
                return prim(image, sparse, pe)
            found = [PrimSlice(prim, image[i : i + 1], pe).read(prim.tokens(sparse[i])) for i in range(len(image))]
        return torch.stack([token for token, _ in found])[:, :, None], torch.stack([each for _, each in found])

    def _sparse(self, points: Tensor | None, slices: int) -> Tensor:
        """Prompt tokens (B, Q, 2, 256) of points (B, Q, 2), or of the whole image for each of B slices."""
        if points is None:
            return self.prompt_encoder(Prompts.box()).expand(slices, 1, -1, -1)
        return self.prompt_encoder.embed_points(points)

    def trainable(self, train_prim: bool) -> list[nn.Parameter]:
        """What an optimiser gets: mask modules and IoU heads, and PRIM's transformer and tokens when asked.

        Sets requires_grad of every parameter accordingly. The prompt encoder never trains.
        """
        self.requires_grad_(False)
        module = self.config.mask_module
        chosen: list[nn.Module] = list(self.pdmm)
        if module.has_prim and train_prim:
            for prim in self._prims():
                chosen += [prim.transformer, prim.iou_token, prim.mask_tokens]
        if module.ranks_prompts:
            chosen += [prim.iou_heads for prim in self._prims()]
        for each in chosen:
            each.requires_grad_(True)
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    # ---- what a model file holds ----

    def tensors(self) -> dict[str, Tensor]:
        """Everything but the frozen encoder, contiguous, detached, sharing memory where it can."""
        return {name: tensor.detach().contiguous() for name, tensor in self.state_dict().items()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of ``tensors``. Raises ValueError that names what is missing, unknown or misshapen."""
        _compare({name: tensor.shape for name, tensor in self.state_dict().items()}, tensors)
        self.load_state_dict(dict(tensors))

    @classmethod
    def check_tensors(cls, config: DeSAMConfig, tensors: Mapping[str, Tensor]) -> None:
        """Whether ``load_tensors`` would take them, told before a model is built: what a file claims costs nothing.

        Raises ValueError as ``load_tensors`` does.
        """
        decoders = {name.split(".")[1] for name in tensors if name.startswith("pdmm.")}
        if len(decoders) != config.labels:
            raise ValueError(f"{len(decoders)} mask modules for {config.labels} labels")
        with torch.device("meta"):
            one = cls(replace(config, labels=1))
        shapes = {name: tensor.shape for name, tensor in one.state_dict().items()}
        for name, shape in list(shapes.items()):
            # what every label has of its own
            for own in ("pdmm.", "prim.0.iou_heads." if config.shared_prim else "prim."):
                if name.startswith(own):
                    rest = name.removeprefix(f"{own}0")
                    shapes.update({f"{own}{label}{rest}": shape for label in range(config.labels)})
        _compare(shapes, tensors)


def _compare(shapes: Mapping[str, torch.Size], tensors: Mapping[str, Tensor]) -> None:
    """Raises ValueError that names what is missing, unknown or misshapen among the tensors."""
    problems = {
        "missing": sorted(set(shapes) - set(tensors)),
        "unknown": sorted(set(tensors) - set(shapes)),
        "of another shape": [n for n, shape in shapes.items() if n in tensors and shape != tensors[n].shape],
    }
    found = [f"{kind}: {', '.join(names[:3])}{' ...' * (len(names) > 3)}" for kind, names in problems.items() if names]
    if found:
        raise ValueError("these tensors do not fit the model; " + "; ".join(found))
