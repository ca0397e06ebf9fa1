"""One slice: its features in, one map of logits per label out. How a mask is picked is told here from top to bottom.

``predict_slice`` asks every label's decoder, on a grid of points (DeSAM-P) or on the whole box (DeSAM-B). ``pick`` is
the published rule for a grid. ``SliceDecoder`` answers it: what does not depend on the prompt is computed once, IoUs of
all prompts first, masks only when asked for. The arithmetic behind it is PRIM's (``prim_slice.py``) and PDMM's
(``pdmm.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .postprocess import clean_small_regions, smooth_like_reference
from .prim_slice import PrimSlice
from .prompt_encoder import full_precision
from .registry import MASK_SIZE
from .token_cache import TokenCache, token_name
from .types import Decoded, Features, Prompts, send

if TYPE_CHECKING:
    from .desam import DeSAM

BOX_OVERLAP = 0.7  # published box suppression threshold, used before and after the clean-up
REFERENCE_MIN_AREA = 1000  # pixels of the 256 x 256 grid, published
# Prompts at once. One prompt's masks stay in a CPU's cache; a GPU wants to be filled.
PRIM_BATCH = {"cpu": 9, "other": 64}
PDMM_BATCH = {"cpu": 1, "other": 16}


@dataclass(frozen=True)
class DecodeSettings:
    """How a slice is decoded; ``engine.options`` explains the fields."""

    mode: str
    points: int
    iou_threshold: float
    mask_threshold: float
    min_area_px: int  # pixels of the 256 x 256 grid
    reference_rule: bool = False
    fill_gaps: bool = False

    @property
    def mask_logit(self) -> float:
        """The logit whose sigmoid is ``mask_threshold``."""
        return float(np.log(self.mask_threshold / (1 - self.mask_threshold)))


@dataclass(frozen=True)
class LabelPrediction:
    """What one label's decoder says about one slice.

    ``logits`` is (256, 256) float32, or None when no prompt was accepted; ``confidence`` and ``agreement`` are 0..1;
    ``iou`` is (P,) and ``chosen`` the accepted prompt's number (-1: none). ``unsure``: the best prompt's logits where
    none was accepted, if the settings ask for them.
    """

    logits: np.ndarray | None
    confidence: float
    agreement: float
    iou: np.ndarray
    chosen: int = -1
    unsure: np.ndarray | None = None


def predict_slice(
    model: DeSAM,
    features: Features,
    settings: DecodeSettings,
    known: tuple[TokenCache, str] | None = None,
    prompt_batch: int | None = None,
) -> list[LabelPrediction]:
    """Every label's prediction for one slice (``known``, ``prompt_batch``: as ``SliceDecoder``)."""
    with torch.inference_mode():
        decoder = SliceDecoder(model, features, known, prompt_batch)
        by_box = settings.mode == "box" or not model.config.mask_module.has_prim
        one = _predict_box if by_box else _predict_grid
        return [one(decoder, settings, label) for label in range(model.config.labels)]


def _predict_box(decoder: SliceDecoder, settings: DecodeSettings, label: int) -> LabelPrediction:
    """One decode of the whole box; the IoU is not used, so the mask alone decides."""
    decoder.score(Prompts.box(), label)
    logits = _logits(decoder, [0], label, settings)[0]
    return LabelPrediction(logits, expected_dice(logits), 1.0, np.ones(1, np.float32), 0)


def _predict_grid(decoder: SliceDecoder, settings: DecodeSettings, label: int) -> LabelPrediction:
    config = decoder.model.config
    iou = decoder.score(Prompts.grid(settings.points, config.input_size), label).float().cpu().numpy()
    if not config.mask_module.ranks_prompts and config.mask_module.reads:
        return _mean_of_points(decoder, settings, label, iou)
    decoded: dict[int, np.ndarray] = {}

    def decode(prompt: int) -> np.ndarray:
        if prompt not in decoded:
            decoded[prompt] = _logits(decoder, [prompt], label, settings)[0]
        return decoded[prompt]

    best = pick(
        iou,
        decode,
        threshold=settings.iou_threshold,
        mask_logit=settings.mask_logit,
        min_area=REFERENCE_MIN_AREA if settings.reference_rule else settings.min_area_px,
    )
    if best is None:
        unsure = decode(int(iou.argmax())) if settings.fill_gaps else None
        return LabelPrediction(None, float(np.clip(1 - iou.max(), 0, 1)), 1.0, iou, unsure=unsure)
    agreement = _agreement(best, iou, decode, settings)
    return LabelPrediction(_with_mask(best, settings), expected_dice(best.logits), agreement, iou, best.prompt)


def _logits(decoder: SliceDecoder, prompts: list[int], label: int, settings: DecodeSettings) -> np.ndarray:
    """Logits (k, 256, 256) float32 of the prompts just scored."""
    logits = decoder.masks(prompts, label)[:, 0].float().cpu().numpy()
    return smooth_like_reference(logits) if settings.reference_rule else logits


def _mean_of_points(decoder: SliceDecoder, settings: DecodeSettings, label: int, iou: np.ndarray) -> LabelPrediction:
    """Without an IoU head nothing ranks the points: the result is the mean of their logits (Table 1, setting 2)."""
    total = np.zeros((MASK_SIZE, MASK_SIZE), np.float64)
    for prompt in range(len(iou)):
        total += _logits(decoder, [prompt], label, settings)[0]
    logits = (total / len(iou)).astype(np.float32)
    return LabelPrediction(logits, expected_dice(logits), 1.0, iou, 0)


def _with_mask(best: Candidate, settings: DecodeSettings) -> np.ndarray:
    """The chosen logits, pushed to the other side of the threshold where the clean-up changed the mask."""
    raw = best.logits > settings.mask_logit
    if np.array_equal(raw, best.mask):
        return best.logits
    # a pixel that was filled or dropped keeps its distance to the threshold, so the outline stays where it was
    mirrored = 2 * settings.mask_logit - best.logits
    return np.where(raw == best.mask, best.logits, mirrored).astype(np.float32)


def _agreement(
    best: Candidate, iou: np.ndarray, decode: Callable[[int], np.ndarray], settings: DecodeSettings
) -> float:
    """Dice between the chosen mask and the next accepted prompt's; 1 when it is the only one."""
    others = [int(prompt) for prompt in accepted_order(iou, settings.iou_threshold) if prompt != best.prompt]
    if not others:
        return 1.0
    other = decode(others[0]) > settings.mask_logit
    return float(2 * (other & best.mask).sum() / max(1, other.sum() + best.mask.sum()))


def expected_dice(logits: np.ndarray) -> float:
    """How sure a mask is of itself: the Dice that its own probabilities expect of it, 0..1.

    ``2 sum(p m) / (sum p^2 + sum m)`` with m = p > 0.5, the squared form of the training's Dice: a background of small
    probabilities, which short trainings leave, hardly counts. For an empty mask the probability that no pixel is set.
    The predicted IoU takes no part: its training target is whether the point lies in the organ, and it says nothing of
    how good the mask is (``benchmarks/confidence.py``).
    """
    probability = 1 / (1 + np.exp(-np.clip(logits, -30, 30)))
    mask = probability > 0.5
    if not mask.any():
        return float(1 - probability.max())
    return float(2 * probability[mask].sum() / (np.square(probability).sum() + mask.sum()))


# ---- which of a grid's masks is the answer --------------------------------------------------------------------------
# The published pipeline decodes every mask, filters by predicted IoU, suppresses boxes twice, cleans small regions in
# between and then reads only the first record (docs/how-it-differs.md). The same record is found lazily: visit the
# accepted points by falling predicted IoU, decode one mask at a time, stop at the first that needs no clean-up.


@dataclass(frozen=True)
class Candidate:
    """One decoded prompt: its number on the grid, predicted IoU, logits (256, 256) and mask (256, 256) bool."""

    prompt: int
    iou: float
    logits: np.ndarray
    mask: np.ndarray


def accepted_order(iou: np.ndarray, threshold: float) -> np.ndarray:
    """Indices of the prompts whose predicted IoU is strictly above ``threshold``, best first, ties in grid order."""
    passing = np.flatnonzero(iou > threshold)
    return passing[np.argsort(-iou[passing], kind="stable")]


def pick(
    iou: np.ndarray,
    decode: Callable[[int], np.ndarray],
    *,
    threshold: float = 0.5,
    mask_logit: float = 0.0,
    min_area: int = 0,
) -> Candidate | None:
    """The published rule's mask for one slice, or None when no point passes or every mask is empty.

    Arguments:
      iou: (P,) predicted IoU of every prompt.
      decode: gives the logits (256, 256) of a prompt by its number; called as rarely as possible.
      threshold: a prompt passes if its IoU is strictly larger.
      mask_logit: a pixel belongs to the mask if its logit is strictly larger.
      min_area: pixels below which holes are filled and islands dropped; 0 = no clean-up.
    """
    first: Candidate | None = None
    for candidate in _kept_candidates(iou, decode, threshold, mask_logit):
        cleaned, changed = clean_small_regions(candidate.mask, min_area)
        if not changed:
            return candidate
        if first is None:
            # all kept masks may turn out to need a clean-up: then the best of them, cleaned, wins
            first = Candidate(candidate.prompt, candidate.iou, candidate.logits, cleaned)
    return first


def _kept_candidates(
    iou: np.ndarray, decode: Callable[[int], np.ndarray], threshold: float, mask_logit: float
) -> Iterator[Candidate]:
    """Non-empty masks by falling IoU that survive greedy box suppression, decoded one by one.

    An empty mask has no box and would survive every suppression, so in the published code it wins: dropped here.
    """
    boxes: list[tuple[int, int, int, int]] = []
    for prompt in accepted_order(iou, threshold):
        logits = decode(int(prompt))
        mask = logits > mask_logit
        if not mask.any():
            continue
        box = _bounding_box(mask)
        if any(_box_iou(box, other) > BOX_OVERLAP for other in boxes):
            continue
        boxes.append(box)
        yield Candidate(int(prompt), float(iou[prompt]), logits, mask)


def _bounding_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the set pixels, inclusive, as segment-anything's mask-to-box."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def _box_iou(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    overlap = width * height
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return overlap / (area - overlap)


# ---- the decoder behind it ------------------------------------------------------------------------------------------


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
