"""DeSAM: a decoder for a frozen Segment Anything encoder in which mask and prompt quality are decoupled."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .config import DeSAMConfig
from .pdmm import Pdmm
from .prim import Prim
from .prim_slice import PrimSlice
from .prompt_encoder import PromptEncoder, full_precision
from .reference import config_of_reference, tensors_from_reference, tensors_from_sam
from .rivals import CoupledMask, PictureUnet
from .slice_decoder import SliceDecoder
from .token_memory import TokenMemory, fingerprint
from .types import Decoded, Features, Prompts


class DeSAM(nn.Module):
    """Prompt encoder, PRIM and PDMM of one or several labels over one set of features.

    Attributes:
      prompt_batch: prompts decoded at once, at most; None lets the device decide.
      precision: dtype of PDMM at inference (``torch.bfloat16``, ``torch.float16``); None is exact. PRIM
      always
        runs in float32, so that accepting a prompt does not depend on the device.
    """

    def __init__(self, config: DeSAMConfig) -> None:
        super().__init__()
        self.config = config
        self.prompt_batch: int | None = None
        self.precision: torch.dtype | None = None
        if config.has_prim:
            shared = config.shared_prim
            self.prompt_encoder = PromptEncoder(config.input_size).requires_grad_(False)
            self.prim = nn.ModuleList(
                Prim(config.labels if shared else 1) for _ in range(1 if shared else config.labels)
            )
        self.pdmm = nn.ModuleList(_mask_module(config) for _ in range(config.labels))

    @classmethod
    def from_sam(cls, config: DeSAMConfig, sam_tensors: Mapping[str, Tensor]) -> DeSAM:
        """PRIM and prompt encoder from a SAM, MedSAM or LiteMedSAM checkpoint, PDMM fresh.

        Raises ValueError, naming them, if the checkpoint lacks tensors of its decoder.
        """
        model = cls(config)
        if config.has_prim:
            own = model.state_dict()
            fresh = {name: tensor for name, tensor in own.items() if name.startswith("pdmm.")}
            model.load_tensors({**fresh, **tensors_from_sam(config, sam_tensors)})
        return model

    @classmethod
    def from_reference_tensors(cls, tensors: Mapping[str, Tensor]) -> DeSAM:
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

    def pdmm_of(self, label: int) -> Pdmm | PictureUnet:
        pdmm = self.pdmm[label]
        assert isinstance(pdmm, Pdmm | PictureUnet)
        return pdmm

    def coupled_of(self, label: int) -> CoupledMask:
        """SAM's mask module in the place of PDMM (variant "coupled")."""
        coupled = self.pdmm[label]
        assert isinstance(coupled, CoupledMask)
        return coupled

    # ---- inference ----

    def begin(self, features: Features, memory: tuple[TokenMemory, str] | None = None) -> SliceDecoder:
        """A decoder of one slice (B = 1) that scores prompts first and makes only the masks asked for.

        memory: where PRIM's answers on earlier slices are kept, and this slice's name there (``memory_name``).
        """
        return SliceDecoder(self, features, memory)

    def memory_name(self) -> str | None:
        """What the names of this model's slices in a TokenMemory begin with; None while PRIM is not frozen."""
        if not (self.config.has_iou_head and self.config.shared_prim):
            return None
        prim = self._prims()[0]
        return fingerprint(self.prompt_encoder, prim.transformer, prim.iou_token, prim.mask_tokens)

    def decode(self, features: Features, prompts: Prompts, label: int = 0) -> Decoded:
        """Every prompt's IoU and mask, exact, on one slice (B = 1)."""
        return self.begin(features).decode(prompts, label)

    # ---- training ----

    def train_decode(
        self, features: Features, points: Tensor | None, label: int = 0, embedding: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Differentiable decode of B slices with Q prompts each; the context of a slice is computed once.

        points: (B, Q, 2) in the encoder's input frame, or None for the whole image (Q = 1).
        embedding: mask embeddings (B, Q, 256, 64, 64) computed before (``embed_box``); PRIM is then not run
        and
          every IoU reads 1.
        Returns iou (B, Q) and logits (B, Q, 256, 256).
        """
        if self.config.variant == "coupled":
            return self._train_coupled(features, points, label)
        prompts = 1 if points is None else points.shape[1]
        iou = features.neck.new_ones(features.batch, prompts, dtype=torch.float32)
        if self.config.has_prim and embedding is None:
            token, embedding = self._read_prompts(features, points, label)
            if self.config.has_iou_head:
                prim, head = self.prim_of(label)
                iou = prim.iou_head(token, head)
        pdmm = self.pdmm_of(label)
        context = pdmm.context(features.levels)
        if self.config.fuses:
            return iou, pdmm.fuse(context, embedding)
        return iou, pdmm.fuse(context, None).expand(-1, prompts, -1, -1)

    def _train_coupled(self, features: Features, points: Tensor | None, label: int) -> tuple[Tensor, Tensor]:
        prim, head = self.prim_of(label)
        image = features.neck.float() + self.prompt_encoder.no_mask()
        sparse = self._sparse(points, features.batch)
        tokens, embedding = prim.read_image(image, sparse, self.prompt_encoder.image_pe())
        return prim.iou_head(tokens[:, :, 0], head), self.coupled_of(label)(tokens[:, :, 1], embedding)

    @torch.no_grad()
    def embed_box(self, features: Features, label: int = 0) -> Tensor | None:
        """The whole-image prompt's mask embedding (B, 1, 256, 64, 64): constant while PRIM is frozen."""
        if not self.config.fuses:
            return None
        return self._read_prompts(features, None, label)[1]

    def _read_prompts(self, features: Features, points: Tensor | None, label: int) -> tuple[Tensor, Tensor]:
        """PRIM's IoU token (B, Q, 256) and mask embedding (B, Q, 256, 64, 64)."""
        prim, _ = self.prim_of(label)
        frozen = not any(parameter.requires_grad for parameter in prim.transformer.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            sparse = self._sparse(points, features.batch)
            image = features.neck.float() + self.prompt_encoder.no_mask()
            if frozen:
                return self._read_frozen(prim, image, sparse)
            return prim(image, sparse, self.prompt_encoder.image_pe())

    def _sparse(self, points: Tensor | None, slices: int) -> Tensor:
        """Prompt tokens (B, Q, 2, 256) of points (B, Q, 2), or of the whole image for each of B slices."""
        if points is None:
            return self.prompt_encoder(Prompts.box()).expand(slices, 1, -1, -1)
        return self.prompt_encoder.embed_points(points)

    def _read_frozen(self, prim: Prim, image: Tensor, sparse: Tensor) -> tuple[Tensor, Tensor]:
        """The same without gradients, slice by slice in the cheap form where there are prompts to share it."""
        pe = self.prompt_encoder.image_pe()
        with full_precision(self.device):
            if sparse.shape[1] == 1:
                return prim(image, sparse, pe)
            found = [PrimSlice(prim, image[i : i + 1], pe).read(prim.tokens(sparse[i])) for i in range(len(image))]
        return torch.stack([token for token, _ in found]), torch.stack([embedding for _, embedding in found])

    def trainable(self, train_prim: bool) -> list[nn.Parameter]:
        """What an optimiser gets: PDMM and IoU heads, and PRIM's transformer and tokens when asked.

        Sets requires_grad of every parameter accordingly. The prompt encoder never trains.
        """
        self.requires_grad_(False)
        chosen: list[nn.Module] = list(self.pdmm)
        if self.config.has_prim and train_prim:
            for prim in self._prims():
                chosen += [prim.transformer, prim.iou_token, prim.mask_tokens]
        if self.config.has_iou_head:
            chosen += [prim.iou_heads for prim in self._prims()]
        for module in chosen:
            module.requires_grad_(True)
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    # ---- what a model file holds ----

    def tensors(self) -> dict[str, Tensor]:
        """Everything but the frozen encoder, contiguous, detached, sharing memory where it can."""
        return {name: tensor.detach().contiguous() for name, tensor in self.state_dict().items()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of ``tensors``. Raises ValueError that names what is missing, unknown or misshapen."""
        own = self.state_dict()
        problems = {
            "missing": sorted(set(own) - set(tensors)),
            "unknown": sorted(set(tensors) - set(own)),
            "of another shape": [n for n, t in own.items() if n in tensors and t.shape != tensors[n].shape],
        }
        found = [f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names]
        if found:
            raise ValueError("these tensors do not fit the model; " + "; ".join(found))
        self.load_state_dict(dict(tensors))


def _mask_module(config: DeSAMConfig) -> nn.Module:
    """What makes the masks of one label."""
    rivals: dict[str, type[nn.Module]] = {"coupled": CoupledMask, "unet": PictureUnet}
    return rivals[config.variant]() if config.variant in rivals else Pdmm(config)
